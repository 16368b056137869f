"""What runs on a device, a folder for each language; no environment is named here, and no tensor.

`triton/` is for GPUs, `numba/` steps on a CPU, `cuda/` is CUDA C++ for both (with `environment.cuh` for authors), and
`cpp/` is the learner on a CPU. All are compiled and called by the folders of `backends` with the same names.
"""
