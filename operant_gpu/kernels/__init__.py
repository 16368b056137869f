"""What runs on a device, a folder for each language; no environment is named here, and no tensor.

`triton/` is for GPUs, `numba/` steps on a CPU, `cuda/` is CUDA C++ for both (with `environment.cuh` for authors), and
`cpp/` is the learner on a CPU, and rollouts in which a network acts. Folders of `backends` with the same names compile
and call them; `backends/cpp` does so with `cuda/` too.
"""
