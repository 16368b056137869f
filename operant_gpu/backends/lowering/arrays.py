"""What the functions of `operant_gpu.arrays` mean in NumPy, where they are not lowered as they stand."""

from __future__ import annotations

from typing import Any

import numpy as np

from operant_gpu.backends.lowering.operations import cast, column, rank
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


def padded(column: Any, width: int) -> Any:
    """Return an array's column (num_envs, size) as functions see it (num_envs, width): with zeros beyond the array."""
    # Cell by cell in memory, as the columns are.
    block = np.zeros((width, len(column)), column.dtype).T
    block[:, : column.shape[1]] = column
    return block
