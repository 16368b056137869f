"""Runs GPU kernels on a CPU from their PTX, all threads at once in NumPy.

Each instruction does what the PTX ISA says, or the executor refuses it. Accesses outside registered memory, races and
barriers that not all threads reach are errors.
"""

from ptx_executor.errors import ExecutionFault, MemoryFault, PtxError, RaceFault, SyntaxFault, Unsupported
from ptx_executor.kernels import Executor, Kernel, Module

__all__ = [
    "ExecutionFault",
    "Executor",
    "Kernel",
    "MemoryFault",
    "Module",
    "PtxError",
    "RaceFault",
    "SyntaxFault",
    "Unsupported",
]
