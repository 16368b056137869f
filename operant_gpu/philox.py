"""Philox4x32-10 in NumPy (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

Words = np.ndarray[Any, np.dtype[np.uint32]]

_MULTIPLIERS = np.array([0xCD9E8D57, 0xD2511F53], np.uint64)
# What each round adds to the two words of the key.
_WEYL = np.array([0x9E3779B9, 0xBB67AE85], np.uint32)
_ROUNDS = 10
# Halves of a uint64 as pairs of uint32, low half first on a little-endian machine.
_LOW, _HIGH = (0, 1) if sys.byteorder == "little" else (1, 0)


def philox(seed: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> tuple[Words, Words, Words, Words]:
    """Return the four words of each counter (c0, c1, c2, c3) under each 64-bit key.

    Args:
        seed: int64 keys, a number or an array of one axis.
        c0: First 32-bit counter word, a number or an array of one axis, as are the others.
        c1: Second.
        c2: Third.
        c3: Fourth.
    """
    shape = np.broadcast(seed, c0, c1, c2, c3).shape
    (size,) = shape or (1,)
    # Flat pairs: NumPy is twice as fast without broadcasting and on one axis.
    multipliers = _MULTIPLIERS.repeat(size)
    # The pair (c2, c0), which a round multiplies, its products, and what a round mixes into their upper halves.
    even, odd = np.empty((2, size), np.uint32), np.empty((2, size), np.uint32)
    even[0], even[1], odd[0], odd[1] = c2, c0, c1, c3
    products, mixed = np.empty(2 * size, np.uint64), np.empty(2 * size, np.uint32)
    halves = products.view(np.uint32)
    low, high, swapped = halves[_LOW::2], halves[_HIGH::2], mixed.reshape(2, size)[::-1]
    factors = even.astype(np.uint64)
    flat = factors.reshape(-1)
    pair = np.empty((2, size), np.uint32)
    words = np.ascontiguousarray(seed, np.int64).view(np.uint32).reshape(-1, 2)
    pair[0], pair[1] = words[:, _LOW], words[:, _HIGH]
    key, weyl = pair.reshape(-1), _WEYL.repeat(size)
    # The first round mixes the counter into the key, the others what the round before left in the low halves.
    np.bitwise_xor(key, odd.reshape(-1), out=mixed)
    np.multiply(flat, multipliers, out=products)
    np.bitwise_xor(high, mixed, out=mixed)
    for _ in range(_ROUNDS - 1):
        np.copyto(factors, swapped)
        np.add(key, weyl, out=key)
        np.bitwise_xor(key, low, out=mixed)
        np.multiply(flat, multipliers, out=products)
        np.bitwise_xor(high, mixed, out=mixed)
    c0, c2 = mixed[:size], mixed[size:]
    c1, c3 = low[:size], low[size:]
    return c0.reshape(shape), c1.reshape(shape), c2.reshape(shape), c3.reshape(shape)
