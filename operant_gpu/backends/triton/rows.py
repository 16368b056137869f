"""Launches of the kernel that copies rows of environments onto others."""

from __future__ import annotations

from typing import Any

import triton
from torch import Tensor

from operant_gpu.backends.triton.backend import OPTIONS, launch_shape
from operant_gpu.backends.triton.launching import launch
from operant_gpu.kernels.triton.rows import copy_rows_kernel
from operant_gpu.memory.rows import NewStreams, Rows


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
    if sources is targets:
        between = sources.empty(count)
        _launch(sources, source_rows, between, None, count, None, misses)
        sources, source_rows = between, None
    _launch(sources, source_rows, targets, target_rows, count, streams, misses)


def _launch(
    sources: Rows,
    source_rows: Tensor | None,
    targets: Rows,
    target_rows: Tensor | None,
    count: int,
    streams: NewStreams | None,
    misses: Tensor,
) -> None:
    arguments, constants, (block, warps) = copy_arguments(
        sources, source_rows, targets, target_rows, count, streams, misses
    )
    grid, options = (triton.cdiv(count, block),), {"num_warps": warps, **OPTIONS}
    launch(copy_rows_kernel, grid, arguments, constants, misses.device, options, "use device='cpu'")


def copy_arguments(
    sources: Rows,
    source_rows: Tensor | None,
    targets: Rows,
    target_rows: Tensor | None,
    count: int,
    streams: NewStreams | None,
    misses: Tensor,
) -> tuple[tuple[Any, ...], dict[str, Any], tuple[int, int]]:
    """Return the kernel's arguments, what is compiled in, and (pairs, warps) of a program."""
    read, written = tuple(sources.columns), tuple(targets.columns)
    sizes = tuple(0 if column.ndim == 1 else column.shape[1] for column in written)
    shape = launch_shape(count, max(1, *(triton.next_power_of_2(size) for size in sizes)))
    ends = (
        (columns, tuple(column.stride() for column in columns), rows, len(columns[0]))
        for columns, rows in ((read, source_rows), (written, target_rows))
    )
    given = (*next(ends), *next(ends), count, misses, *(streams or (None, None)))
    return given, {"SIZES": sizes, "BLOCK": shape[0]}, shape
