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
    # Rows of full length: NumPy is twice as fast without broadcasting.
    multipliers, weyl = _MULTIPLIERS.repeat(size).reshape(2, size), _WEYL.repeat(size).reshape(2, size)
    # The pairs (c2, c0), which a round multiplies, and (c1, c3), which it mixes in.
    even, odd, mixed = np.zeros((2, size), np.uint64), np.empty((2, size), np.uint32), np.empty((2, size), np.uint32)
    halves = even.view(np.uint32)
    low, high, swapped = halves[:, _LOW::2], halves[:, _HIGH::2], mixed[::-1]
    low[0], low[1], odd[0], odd[1] = c2, c0, c1, c3
    keys = np.ascontiguousarray(seed, np.int64).view(np.uint32).reshape(-1, 2)
    key = np.empty((2, size), np.uint32)
    key[0], key[1] = keys[:, _LOW], keys[:, _HIGH]
    for _ in range(_ROUNDS):
        np.multiply(even, multipliers, out=even)
        np.bitwise_xor(high, odd, out=mixed)
        np.bitwise_xor(mixed, key, out=mixed)
        np.add(key, weyl, out=key)
        # The mixed words are the next (c0, c2), the low halves the next (c1, c3).
        np.copyto(odd, low)
        np.copyto(even, swapped)
    return mixed[0].reshape(shape), odd[0].reshape(shape), mixed[1].reshape(shape), odd[1].reshape(shape)
