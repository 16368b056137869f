"""Kernels that numba compiles for a CPU: steps, rollouts and resets of blocks of environments.

In come addresses of records and of compiled programs; results are written in place.
They know no environment and no tensor: programs and records are made by `backends/numba`.
"""
