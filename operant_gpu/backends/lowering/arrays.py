"""What the functions of `operant_gpu.arrays` mean in NumPy, where they are not lowered as they stand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from operant_gpu.backends.lowering.operations import (
    TableSeen,
    add,
    cast,
    column,
    maximum,
    minimum,
    mul,
    rank,
    refused_everywhere,
)
from operant_gpu.errors import UnsupportedConstruct
from operant_gpu.lang import next_power_of_2


def cells(size: Any) -> Any:
    """Return the numbers of an array's cells, int32 (1, width)."""
    if type(size) is not int or size < 1:
        raise UnsupportedConstruct(
            f"cells needs a size of at least 1 known at compile time, such as a tl.constexpr, got {size!r}"
        )
    return np.arange(next_power_of_2(size), dtype=np.int32)[None]


def cells_of(array: Any) -> Any:
    """Return the numbers of a block's cells, int32 (1, width)."""
    if rank(array) != 2:
        raise UnsupportedConstruct("cell, get and put need an Array's block: this has one number per environment")
    return np.arange(array.shape[1], dtype=np.int32)[None]


def beside(value: Any) -> Any:
    """Return a number as it is, and a block of one per environment as what meets an Array has it."""
    return column(value) if rank(value) == 1 else value


def widened(array: Any) -> Any:
    """Return a block with integers and conditions of less than 32 bits as int32."""
    return cast(array, np.dtype(np.int32)) if rank(array) and array.dtype.itemsize < 4 else array


def lookup(table: Any, i: Any, j: Any = None, k: Any = None) -> Any:
    """Return the numbers of a table at indices."""
    shape, indices = _seen(table).shape, [index for index in (i, j, k) if index is not None]
    if len(indices) != len(shape) or (j is None and k is not None):
        raise refused_everywhere(f"a table {shape} needs {len(shape)} indices, got {len(indices)}")
    at = _place(table, i, 0)
    for axis, index in enumerate(indices[1:], 1):
        at = add(mul(at, shape[axis]), _place(table, index, axis))
    number = np.take(table.numbers, at)
    is_narrow = number.dtype.kind != "b" and number.dtype.itemsize < 4
    return cast(number, np.dtype(np.int32)) if is_narrow else number


def length(table: Any, axis: int = 0) -> int:
    """Return the size of an axis of a table."""
    shape = _seen(table).shape
    if type(axis) is not int or not 0 <= axis < len(shape):
        raise refused_everywhere(f"expected an axis from 0 to {len(shape) - 1} of a table {shape}, got {axis!r}")
    return shape[axis]


def _seen(table: Any) -> TableSeen:
    if not isinstance(table, TableSeen):
        raise refused_everywhere("lookup and length take a table of the environment, such as tables.prices")
    return table


def _place(table: TableSeen, index: Any, axis: int) -> Any:
    """Return an index, no less than 0 and no more than the last of the axis; note where it was."""
    last, is_large = table.shape[axis] - 1, math.prod(table.shape) >= 2**31
    kind = np.asarray(index).dtype
    if kind.kind not in "biu":
        raise refused_everywhere(f"an index of a table must be an integer, got {kind}: cast with .to(tl.int32)")
    if not isinstance(index, np.ndarray):
        if not 0 <= index <= last:
            raise refused_everywhere(f"index {index} of axis {axis} of a table {table.shape}: it has 0 to {last}")
        return np.int64(index) if is_large else np.int32(index)
    is_wide = index.dtype.itemsize == 8 or index.dtype == np.uint32 or is_large
    index = cast(index, np.dtype(np.int64 if is_wide else np.int32))
    place = minimum(maximum(index, 0), last)
    if rank(index) == 1:
        table.tape.note(index, place, table.code + axis)
    return place


def padded(column: Any, width: int) -> Any:
    """Return an array's column (num_envs, size) as functions see it (num_envs, width): with zeros beyond the array."""
    # Cell by cell in memory, as the columns are.
    block = np.zeros((width, len(column)), column.dtype).T
    block[:, : column.shape[1]] = column
    return block
