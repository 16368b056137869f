"""Functions of the blocks that `Array` columns are in environment functions, and of tables.

In Triton's functions such a column is a two-dimensional block: axis 0 has the environments, axis 1 the cells, row by
row where the array has several axes. Triton's blocks have powers of two on each axis, so there are cells beyond the
array's own. On every backend they hold 0 when a function begins, what they hold at its end is dropped, and reductions
must leave them out: `cells(size) < size` tells which are real. A block of one number per environment meets such a block
as `x[:, None]`; `tl.sum`, `tl.max`, `tl.min` and `tl.cumsum` with axis 1 go along the cells.
"""

from __future__ import annotations

from operant_gpu.lang import constexpr_function, jit, next_power_of_2, tl

__all__ = ["beside", "cell", "cells", "cells_of", "count", "get", "length", "lookup", "nth", "put"]

# The index farthest from a table that is noted: multiplied by 64 it still has 64 bits.
FARTHEST = tl.constexpr(2**57 - 1)


@jit
def cells(size: tl.constexpr):
    """Return the numbers of the cells of an array of `size`, int32 (1, width): 0, 1, ... and on beyond the array."""
    return tl.arange(0, next_power_of_2(size))[None, :]


@jit
def cells_of(array):
    """Return the numbers of a block's cells, int32 (1, width)."""
    return tl.arange(0, array.shape[1])[None, :]


@constexpr_function
def _axes(value):
    return len(getattr(value, "shape", ()))


@jit
def beside(value):
    """Return a parameter as what meets an Array has it: a number, or of a block of one per environment `x[:, None]`.

    Whether a parameter is a number or in memory is up to who makes the environment.
    """
    if _axes(value) == 1:
        return value[:, None]
    else:
        return value


@jit
def widened(array):
    """Return a block with integers and conditions of less than 32 bits as int32: unsigned, their sums would be so."""
    if array.dtype.primitive_bitwidth < 32:
        return array.to(tl.int32)
    else:
        return array


@jit
def cell(array, i: tl.constexpr):
    """Return one cell of each environment's array; integers narrower than int32 come as int32."""
    return tl.sum(tl.where(cells_of(array) == i, widened(array), 0), 1)


@jit
def get(array, index):
    """Return the number in cell `index` of each environment's array, like `cell`; 0 where there is none."""
    return tl.sum(tl.where(cells_of(array) == beside(index), widened(array), 0), 1)


@jit
def put(array, index, value):
    """Return the array with `value` in cell `index`, blocks or numbers; unchanged where there is no such cell."""
    return tl.where(cells_of(array) == beside(index), beside(value), array)


@jit
def count(condition):
    """Return in how many cells a condition holds, int32."""
    return tl.sum(condition.to(tl.int32), 1)


@jit
def nth(condition, n):
    """Return the number of the cell that is the `n`-th, from 0, in which a condition holds; the width if there is none.

    With `n = integers(rng, i, 0, count(condition))` it is drawn uniformly from those cells.
    """
    return count(tl.cumsum(condition.to(tl.int32), 1) <= beside(n))


@jit
def lookup(table, i, j=None, k=None):
    """Return the numbers of a table at indices, numbers or blocks of integers, one for each of its axes.

    An index beyond the table reads the number nearest to it; a constant one is refused. In environments made with
    `debug=True` an index of one per environment that is beyond the table raises `TableError`, also where `tl.where`
    then leaves aside what was read. Those of an Array do not: its cells beyond the array may hold anything. Integers
    narrower than int32 come as int32.
    """
    tl.static_assert(len(table.SHAPE) == 1 + (j is not None) + (k is not None), "one index for each axis of a table")
    at = _place(table, i, 0)
    if j is not None:
        at = at * table.SHAPE[1] + _place(table, j, 1)
    if k is not None:
        at = at * table.SHAPE[2] + _place(table, k, 2)
    number = tl.load(table.ptr + at)
    if number.dtype.primitive_bitwidth > 1:
        return widened(number)
    else:
        return number


@jit
def length(table, axis: tl.constexpr = 0):
    """Return the size of an axis of a table, the first if none is named: a number that compilers know."""
    return table.SHAPE[axis]


@constexpr_function
def _index_dtype(value, is_large):
    """Return what holds an index, and the places of a table."""
    is_wide = getattr(getattr(value, "dtype", None), "name", "") in ("int64", "uint32", "uint64")
    return tl.int64 if is_wide or is_large else tl.int32


@jit
def _place(table, index, AXIS: tl.constexpr):
    """Return an index, no less than 0 and no more than the last of the axis; note where it was."""
    index = tl.cast(index, _index_dtype(index, table.IS_LARGE))
    place = tl.minimum(tl.maximum(index, 0), table.SHAPE[AXIS] - 1)
    if table.outside is not None and _axes(index) == 1:
        # As `tables.report` takes it.
        far = tl.minimum(tl.maximum(tl.cast(index, tl.int64), -FARTHEST), FARTHEST)
        tl.store(table.outside + table.row, far * 64 + (table.CODE + AXIS), mask=table.mask & (index != place))
    return place
