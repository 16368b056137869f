"""Launches of the kernel that copies rows of environments onto others."""

from __future__ import annotations

from typing import Any

import triton
from torch import Tensor

from operant_gpu.backends.triton.backend import OPTIONS, launch_shape
from operant_gpu.backends.triton.launching import launch
from operant_gpu.kernels.triton.rows import copy_rows_kernel
from operant_gpu.memory.rows import NewStreams, Rows

_COUNT = copy_rows_kernel.arg_names.index("num_pairs")


def copy_rows(
    count: int,
    sources: Rows,
    source_rows: Tensor | None,
    targets: Rows,
    target_rows: Tensor | None,
    streams: NewStreams | None,
    misses: Tensor,
) -> None:
    """Do as `backends.rows.copy_rows`, in one launch; in two where rows may be read that others overwrite."""
    rows, gathered = (source_rows, target_rows), sources is targets
    if gathered:
        between = sources.empty(count)
        _launch(copy_arguments(count, sources, between, (source_rows, None), None, misses), misses)
        sources = between
    _launch(copy_arguments(count, sources, targets, rows, streams, misses, gathered), misses)


def _launch(prepared: tuple[tuple[Any, ...], dict[str, Any], tuple[int, int]], misses: Tensor) -> None:
    arguments, constants, (block, warps) = prepared
    grid, options = (triton.cdiv(arguments[_COUNT], block),), {"num_warps": warps, **OPTIONS}
    launch(copy_rows_kernel, grid, arguments, constants, misses.device, options, "use device='cpu'")


def copy_arguments(
    count: int,
    sources: Rows,
    targets: Rows,
    rows: tuple[Tensor | None, Tensor | None],
    streams: NewStreams | None,
    misses: Tensor,
    gathered: bool = False,
) -> tuple[tuple[Any, ...], dict[str, Any], tuple[int, int]]:
    """Return the kernel's arguments, what is compiled in, and (pairs, warps) of a program."""
    read, written = tuple(sources.columns), tuple(targets.columns)
    sizes = tuple(0 if column.ndim == 1 else column.shape[1] for column in written)
    shape = launch_shape(count, max(1, *(triton.next_power_of_2(size) for size in sizes)))
    strides = [tuple(column.stride() for column in columns) for columns in (read, written)]
    source = read, strides[0], rows[0], targets.size if gathered else sources.size
    given = (*source, written, strides[1], rows[1], targets.size, count, misses, *(streams or (None, None)))
    return given, {"GATHERED": gathered, "SIZES": sizes, "BLOCK": shape[0]}, shape
