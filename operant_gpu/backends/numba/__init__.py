"""Environments on a CPU, compiled by numba: programs become loops over the columns of a block.

In come programs (`../lowering`); `source.py` writes them as Python that numba compiles, `cache.py` keeps the machine
code on disk, and `record.py` tells the kernels (`operant_gpu/kernels/numba`) where everything lies. It knows no other
backend, but that networks act by the C++ of `../cpp`.
"""
