"""Arithmetic as PTX defines it, on arrays: pure functions of NumPy arrays that have the instruction's types."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable

import numpy as np

from ptx_executor.types import SIGNED, UNSIGNED, Array, Type

_libm = ctypes.CDLL(ctypes.util.find_library("m") or "libm.so.6")
_libm.fma.restype = ctypes.c_double
_libm.fma.argtypes = [ctypes.c_double] * 3
_fma64 = np.frompyfunc(_libm.fma, 3, 1)

_TINY = {np.dtype(kind): np.finfo(kind).tiny for kind in (np.float16, np.float32, np.float64)}
_NAN_BITS = {
    np.dtype(np.float16): np.uint16(0x7FFF),
    np.dtype(np.float32): np.uint32(0x7FFFFFFF),
    np.dtype(np.float64): np.uint64(0x7FFFFFFFFFFFFFFF),
}


def flushed(x: Array) -> Array:
    """Return zeros of the same sign in place of subnormal numbers."""
    is_small = np.abs(x) < _TINY[x.dtype]
    return np.where(is_small, np.copysign(x.dtype.type(0), x), x) if is_small.any() else x


def canonical(x: Array) -> Array:
    """Return the one NaN that GPUs give in place of any."""
    is_nan = x != x
    if not is_nan.any():
        return x
    bits = _NAN_BITS[x.dtype]
    return np.where(is_nan, bits, x.view(bits.dtype)).view(x.dtype)


def saturated(x: Array) -> Array:
    """Return what `.sat` makes of a float: [0, 1], and 0 for NaN."""
    zero, one = x.dtype.type(0), x.dtype.type(1)
    return np.where(x > zero, np.where(x < one, x, one), zero)


def fma(a: Array, b: Array, c: Array) -> Array:
    """Return a * b + c, rounded once, to the nearest."""
    if a.dtype == np.float64:
        return _fma64(a, b, c).astype(np.float64)
    return _fused_to_odd(a, b, c).astype(a.dtype)


def fma_directed(a: Array, b: Array, c: Array, mode: str) -> Array:
    """Return a * b + c of float32, rounded once: to zero (z), to minus infinity (m) or to infinity (p)."""
    total = _fused_to_odd(a, b, c)
    nearest = total.astype(np.float32)
    high = nearest.astype(np.float64) > total
    low = nearest.astype(np.float64) < total
    is_positive = total > 0
    down, up = {"z": (high & is_positive, low & ~is_positive), "m": (high, np.False_), "p": (np.False_, low)}[mode]
    result = np.where(down, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    result = np.where(up, np.nextafter(nearest, np.float32(np.inf)), result)
    if mode != "m":
        return result
    # The sum of a number and its opposite is -0 then, and so is that of two zeros unless both are +0.
    has_minus = (np.signbit(a) != np.signbit(b)) | np.signbit(c)
    return np.where((total == 0) & has_minus, np.float32(-0.0), result)


def _fused_to_odd(a: Array, b: Array, c: Array) -> Array:
    """Return a * b + c of narrower floats as float64 rounded to odd (Boldo and Melquiond, 2008).

    So the next rounding sees on which side of a number, or of a tie, the exact sum lies.
    """
    a, b, c = (x.astype(np.float64) for x in (a, b, c))
    # The product is exact.
    product = a * b
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)
    bits = total.view(np.int64)
    is_even = (error != 0) & (bits & 1 == 0) & np.isfinite(total)
    if is_even.any():
        step = np.where((error > 0) == (total > 0), 1, -1)
        total = np.where(is_even, bits + step, bits).view(np.float64)
    return total


def minimum(a: Array, b: Array) -> Array:
    """Return the smaller float: a number before NaN, and -0 before +0."""
    bits = UNSIGNED[a.dtype.itemsize * 8]
    same = (a.view(bits) | b.view(bits)).view(a.dtype)
    return np.where(a == b, same, np.fmin(a, b))


def maximum(a: Array, b: Array) -> Array:
    """Return the larger float: a number before NaN, and +0 before -0."""
    bits = UNSIGNED[a.dtype.itemsize * 8]
    same = (a.view(bits) & b.view(bits)).view(a.dtype)
    return np.where(a == b, same, np.fmax(a, b))


def to_tf32(x: Array) -> Array:
    """Return float32 bits rounded to the nearest tf32 number, ties away from zero."""
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    rounded = np.where(bits & np.uint32(0x7FFFFFFF) >= 0x7F800000, bits, rounded)
    return np.where(x != x, np.uint32(0x7FFFFFFF), rounded)


def wide(x: Array) -> Array:
    """Return integers of twice the width."""
    table = SIGNED if x.dtype.kind == "i" else UNSIGNED
    return x.astype(table[x.dtype.itemsize * 16])


def product_high(a: Array, b: Array) -> Array:
    """Return the upper half of an integer product."""
    width = a.dtype.itemsize * 8
    if width < 64:
        return (wide(a) * wide(b) >> width).astype(a.dtype)
    is_signed = a.dtype.kind == "i"
    x, y = a.view(np.uint64), b.view(np.uint64)
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    x0, x1, y0, y1 = x & low, x >> shift, y & low, y >> shift
    middle = x1 * y0 + (x0 * y0 >> shift)
    high = x1 * y1 + (middle >> shift) + (((middle & low) + x0 * y1) >> shift)
    if is_signed:
        high = high - np.where(a < 0, y, np.uint64(0)) - np.where(b < 0, x, np.uint64(0))
    return high.view(a.dtype)


def quotient(a: Array, b: Array) -> Array:
    """Return a / b towards zero; all ones where b is 0, which PTX leaves open."""
    is_zero = b == 0
    divisor = np.where(is_zero, b.dtype.type(1), b)
    if a.dtype.kind == "u":
        result = a // divisor
    else:
        bits = UNSIGNED[a.dtype.itemsize * 8]
        # As unsigned numbers: the absolute value of the lowest number has no other place.
        size = np.abs(a).view(bits) // np.abs(divisor).view(bits)
        size = size.view(a.dtype)
        result = np.where((a < 0) != (divisor < 0), -size, size)
    return np.where(is_zero, np.array(-1).astype(a.dtype), result)


def remainder(a: Array, b: Array) -> Array:
    """Return what is left of a, with its sign."""
    return a - quotient(a, b) * b


def shift_left(a: Array, amount: Array) -> Array:
    width = a.dtype.itemsize * 8
    return np.where(amount < width, a << np.minimum(amount, width - 1).astype(a.dtype), a.dtype.type(0))


def shift_right(a: Array, amount: Array) -> Array:
    width = a.dtype.itemsize * 8
    shifted = a >> np.minimum(amount, width - 1).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(amount < width, shifted, a.dtype.type(0))


def funnel_left(low: Array, high: Array, amount: Array, clamps: bool) -> Array:
    n = (np.minimum(amount, 32) if clamps else amount & 31).astype(np.uint64)
    both = (high.astype(np.uint64) << np.uint64(32)) | low
    return ((both << n) >> np.uint64(32)).astype(np.uint32)


def funnel_right(low: Array, high: Array, amount: Array, clamps: bool) -> Array:
    n = (np.minimum(amount, 32) if clamps else amount & 31).astype(np.uint64)
    both = (high.astype(np.uint64) << np.uint64(32)) | low
    return (both >> n).astype(np.uint32)


def extract(a: Array, position: Array, length: Array) -> Array:
    """Return a bit field: `bfe`."""
    position, length = (np.minimum(x & 0xFF, 64).astype(np.int64) for x in (position, length))
    if a.dtype.kind == "u":
        x = shift_right(a.astype(np.uint64), position)
        masked = np.where(
            length < 64, x & ((np.uint64(1) << np.minimum(length, 63).astype(np.uint64)) - np.uint64(1)), x
        )
        return masked.astype(a.dtype)
    x = a.astype(np.int64) >> np.minimum(position, 63)
    room = np.clip(64 - length, 0, 63)
    return np.where(length == 0, 0, (x << room) >> room).astype(a.dtype)


def insert(field: Array, into: Array, position: Array, length: Array) -> Array:
    """Return `into` with a bit field replaced: `bfi`."""
    width = into.dtype.itemsize * 8
    position, length = (np.minimum(x & 0xFF, 64).astype(np.uint64) for x in (position, length))
    ones = np.where(length < 64, (np.uint64(1) << np.minimum(length, 63)) - np.uint64(1), np.uint64(2**64 - 1))
    mask = shift_left(ones, position)
    moved = shift_left(field.astype(np.uint64), position)
    result = (into.astype(np.uint64) & ~mask) | (moved & mask)
    return (result & np.uint64(2**width - 1)).astype(into.dtype)


def permute_bytes(a: Array, b: Array, selector: Array) -> Array:
    """Return four of eight bytes, or their signs: `prmt` without a mode."""
    both = ((b.astype(np.uint64) << np.uint64(32)) | a).view(np.uint8).reshape(-1, 8)
    rows, result = np.arange(len(a)), np.zeros((len(a), 4), np.uint8)
    for i in range(4):
        nibble = (selector >> np.uint32(4 * i)) & np.uint32(15)
        byte = both[rows, nibble & 7]
        result[:, i] = np.where(nibble & 8, np.where(byte & 0x80, 0xFF, 0), byte)
    return result.view(np.uint32).reshape(-1)


def logic3(a: Array, b: Array, c: Array, table: int) -> Array:
    """Return any function of three bits: `lop3`."""
    result = np.zeros_like(a)
    for i in range(8):
        if table >> i & 1:
            result |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
    return result


def population(a: Array) -> Array:
    return np.bitwise_count(a).astype(np.uint32)


def leading_zeros(a: Array) -> Array:
    width, count, x = a.dtype.itemsize * 8, np.zeros(a.shape, np.uint32), a.copy()
    for step in (32, 16, 8, 4, 2, 1):
        if step < width:
            is_clear = x >> np.array(width - step, a.dtype) == 0
            count += np.where(is_clear, step, 0).astype(np.uint32)
            x = np.where(is_clear, x << np.array(step, a.dtype), x)
    return np.where(a == 0, np.uint32(width), count)


def highest_bit(a: Array) -> Array:
    """Return the place of the highest bit that is no sign, -1 if there is none: `bfind`."""
    x = np.where(a < 0, ~a, a).view(UNSIGNED[a.dtype.itemsize * 8])
    return np.uint32(a.dtype.itemsize * 8 - 1) - leading_zeros(x)


def reverse_bits(a: Array) -> Array:
    width, result = a.dtype.itemsize * 8, np.zeros_like(a)
    for i in range(width):
        result |= ((a >> np.array(i, a.dtype)) & np.array(1, a.dtype)) << np.array(width - 1 - i, a.dtype)
    return result


_ROUNDED: dict[str, Callable[[Array], Array]] = {"n": np.rint, "z": np.trunc, "m": np.floor, "p": np.ceil}


def to_integral(x: Array, mode: str) -> Array:
    return _ROUNDED[mode](x)


def float_to_integer(x: Array, mode: str, to: Type) -> Array:
    """Return integers nearest in a direction, the ends of their range beyond it, and for NaN what PTX says."""
    rounded = _ROUNDED[mode](x.astype(np.float64))
    info = np.iinfo(to.dtype)
    # The ends as floats: 2**63 and 2**64 are exact, one less is not.
    low, end = float(info.min), float(info.max) + (1.0 if to.width < 64 else 0.0)
    is_inside = (rounded >= low) & (rounded < end)
    safe = np.where(is_inside, rounded, 0.0)
    result = safe.astype(np.uint64).astype(to.dtype) if to.kind == "u" else safe.astype(to.dtype)
    result = np.where(rounded >= end, to.dtype.type(info.max), result)
    result = np.where(rounded < low, to.dtype.type(info.min), result)
    # NaN becomes 0 from a narrow to a narrow type, else the highest bit alone (PTX ISA 9.0, `cvt`).
    is_narrow = x.dtype != np.float64 and to.width < 64
    nan = np.array(0 if is_narrow else 1 << (to.width - 1), np.uint64).astype(to.bits).view(to.dtype)
    return np.where(x != x, nan, result).astype(to.dtype)
