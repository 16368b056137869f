"""Launches of the kernel that copies rows of environments onto others."""

from __future__ import annotations

from typing import Any

import triton

from operant_gpu.backends.triton.backend import OPTIONS, launch_shape
from operant_gpu.backends.triton.launching import launch
from operant_gpu.kernels.triton.rows import copy_rows_kernel
from operant_gpu.memory.rows import Copy


def copy_rows(copy: Copy) -> None:
    """Do as `backends.rows.copy_rows`, in one launch; in two where rows may be read that others overwrite."""
    gathers = copy.sources is copy.targets
    if gathers:
        between = copy.sources.empty(copy.pairs)
        _launch(copy._replace(targets=between, target_rows=None, streams=None))
        copy = copy._replace(sources=between)
    _launch(copy, gathered=gathers)


def _launch(copy: Copy, gathered: bool = False) -> None:
    arguments, constants, (block, warps) = copy_arguments(copy, gathered)
    grid, options = (triton.cdiv(copy.pairs, block),), {"num_warps": warps, **OPTIONS}
    launch(copy_rows_kernel, grid, arguments, constants, copy.misses.device, options, "use device='cpu'")


def copy_arguments(copy: Copy, gathered: bool = False) -> tuple[tuple[Any, ...], dict[str, Any], tuple[int, int]]:
    """Return the kernel's arguments, what is compiled in, and (pairs, warps) of a program.

    Args:
        copy: What is to be done.
        gathered: Whether the sources are there alone, in order; `source_rows` are those of before.
    """
    read, written = tuple(copy.sources.columns), tuple(copy.targets.columns)
    sizes = tuple(0 if column.ndim == 1 else column.shape[1] for column in written)
    shape = launch_shape(copy.pairs, max(1, *(triton.next_power_of_2(size) for size in sizes)))
    strides = [tuple(column.stride() for column in columns) for columns in (read, written)]
    source = read, strides[0], copy.source_rows, copy.targets.size if gathered else copy.sources.size
    target = written, strides[1], copy.target_rows, copy.targets.size
    given = (*source, *target, copy.pairs, copy.misses, *(copy.streams or (None, None)))
    return given, {"GATHERED": gathered, "SIZES": sizes, "BLOCK": shape[0]}, shape
