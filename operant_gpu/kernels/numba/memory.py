"""Moves between the columns of memory and those of a block, for the kernels of the numba backend.

A block is two stretches of memory: `narrow` of 4-byte and `wide` of 8-byte columns, `BLOCK` rows each, `PITCH` apart.

Arguments:
    address: Of row 0 of a column or array in memory.
    base: The row of it that is the first of the block.
    narrow, wide: Addresses of the block.
    slot: Number of a column in the block.
    n: How many rows the block has.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import carray, float32, float64, int8, int16, int32, int64

from operant_gpu.kernels.numba.mathematics import inline, pointer_to

# Rows of a block: all columns of one fit into the first-level cache.
BLOCK = 512
# Rows from one column to the next. At multiples of 4 KiB apart, addresses look the same to a processor's store buffer.
PITCH = BLOCK + 16

# How a column lies in memory: as in the block, or as narrower integers. For Python's integers, numba would compile a
# function anew with each that it is called with.
FOUR_BYTES, EIGHT_BYTES, UNSIGNED_BYTE, SIGNED_BYTE, TWO_BYTES = map(np.int64, range(5))
# The first columns of a block's 8-byte stretch; those of the state follow.
SEED, RETURN, FREE_WIDE = map(np.int64, range(3))

kernel = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
_byte, _short, _int, _long = (pointer_to(kind) for kind in (int8, int16, int32, int64))
_float, _double = pointer_to(float32), pointer_to(float64)


@inline
def bytes_at(address: Any) -> Any:
    """Return int8 rows from an address on."""
    return carray(_byte(address), BLOCK)


@inline
def shorts_at(address: Any) -> Any:
    """Return int16 rows."""
    return carray(_short(address), BLOCK)


@inline
def ints_at(address: Any) -> Any:
    """Return int32 rows."""
    return carray(_int(address), BLOCK)


@inline
def floats_at(address: Any) -> Any:
    """Return float32 rows."""
    return carray(_float(address), BLOCK)


@inline
def longs_at(address: Any) -> Any:
    """Return int64 rows."""
    return carray(_long(address), BLOCK)


@inline
def doubles_at(address: Any) -> Any:
    """Return float64 rows."""
    return carray(_double(address), BLOCK)


@inline
def ints(narrow: Any, slot: Any) -> Any:
    """Return a 4-byte column of a block as integers."""
    return ints_at(narrow + 4 * PITCH * slot)


@inline
def floats(narrow: Any, slot: Any) -> Any:
    """Return a 4-byte column of a block as floats."""
    return floats_at(narrow + 4 * PITCH * slot)


@inline
def longs(wide: Any, slot: Any) -> Any:
    """Return an 8-byte column of a block as integers."""
    return longs_at(wide + 8 * PITCH * slot)


@inline
def doubles(wide: Any, slot: Any) -> Any:
    """Return an 8-byte column of a block as floats."""
    return doubles_at(wide + 8 * PITCH * slot)


@kernel
def load(address: Any, kind: Any, base: Any, narrow: Any, wide: Any, slot: Any, n: Any) -> None:
    """Bring a column into the block."""
    if kind == EIGHT_BYTES:
        for k in range(n):
            longs(wide, slot)[k] = longs_at(address + 8 * base)[k]
    elif kind == FOUR_BYTES:
        for k in range(n):
            ints(narrow, slot)[k] = ints_at(address + 4 * base)[k]
    elif kind == TWO_BYTES:
        for k in range(n):
            ints(narrow, slot)[k] = int32(shorts_at(address + 2 * base)[k])
    else:
        bits = int32(255) if kind == UNSIGNED_BYTE else int32(-1)
        for k in range(n):
            ints(narrow, slot)[k] = int32(bytes_at(address + base)[k]) & bits


@kernel
def fill(address: Any, kind: Any, narrow: Any, slot: Any, n: Any) -> None:
    """Fill a 4-byte column of the block with the one number at an address."""
    number = ints_at(address)[0] if kind == FOUR_BYTES else int32(bytes_at(address)[0])
    for k in range(n):
        ints(narrow, slot)[k] = number


@kernel
def store(address: Any, kind: Any, base: Any, narrow: Any, wide: Any, slot: Any, n: Any) -> None:
    """Take a column back to memory."""
    if kind == EIGHT_BYTES:
        for k in range(n):
            longs_at(address + 8 * base)[k] = longs(wide, slot)[k]
    elif kind == FOUR_BYTES:
        for k in range(n):
            ints_at(address + 4 * base)[k] = ints(narrow, slot)[k]
    elif kind == TWO_BYTES:
        for k in range(n):
            shorts_at(address + 2 * base)[k] = int16(ints(narrow, slot)[k])
    else:
        for k in range(n):
            bytes_at(address + base)[k] = int8(ints(narrow, slot)[k])


@kernel
def store_components(
    address: Any, kind: Any, row: Any, column: Any, size: Any, base: Any, narrow: Any, slots: Any, n: Any
) -> None:
    """Write 4-byte columns, whose numbers are at the address `slots`, as components of an array with any strides."""
    for component in range(size):
        source, first = ints(narrow, longs_at(slots)[component]), base * row + component * column
        if kind == EIGHT_BYTES:
            for k in range(n):
                longs_at(address + 8 * first)[k * row] = int64(source[k])
        elif kind == FOUR_BYTES:
            if row == 1:
                for k in range(n):
                    ints_at(address + 4 * first)[k] = source[k]
            else:
                for k in range(n):
                    ints_at(address + 4 * first)[k * row] = source[k]
        else:
            for k in range(n):
                bytes_at(address + first)[k * row] = int8(source[k])


@kernel
def copy_row(
    narrow: Any, wide: Any, row: Any, to_narrow: Any, to_wide: Any, to_row: Any, batch: Any, wide_end: Any
) -> None:
    """Copy the state in one row of a block to a row of another, of its 8-byte columns those before `wide_end`."""
    for slot in range(batch.state_slot, batch.state_end):
        ints(to_narrow, slot)[to_row] = ints(narrow, slot)[row]
    for slot in range(FREE_WIDE, wide_end):
        longs(to_wide, slot)[to_row] = longs(wide, slot)[row]


@kernel
def copy_state(narrow: Any, wide: Any, to_narrow: Any, to_wide: Any, batch: Any, n: Any) -> None:
    """Copy the state of a block to another."""
    for slot in range(batch.state_slot, batch.state_end):
        for k in range(n):
            ints(to_narrow, slot)[k] = ints(narrow, slot)[k]
    for slot in range(FREE_WIDE, batch.wide):
        for k in range(n):
            longs(to_wide, slot)[k] = longs(wide, slot)[k]
