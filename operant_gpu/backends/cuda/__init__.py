"""Environments in CUDA C++ on a GPU, and what `../cpp` shares: the program around an author's file.

In comes a `CudaEnvironment`; `file.py` reads its file, `source.py` writes the program, `base.py` makes its records,
and `backend.py` compiles with NVRTC and launches with CuPy. It does not know what Triton is.
"""
