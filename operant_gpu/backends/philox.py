"""Philox4x32-10 in NumPy (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

Words = np.ndarray[Any, np.dtype[np.uint32]]

_MULTIPLIERS = np.array([[0xCD9E8D57], [0xD2511F53]], dtype=np.uint64)
_WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], dtype=np.uint32)
_ROUNDS = 10
# Halves of a uint64 as pairs of uint32, low half first on a little-endian machine.
_LOW, _HIGH = (0, 1) if sys.byteorder == "little" else (1, 0)


def philox(seed: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> tuple[Words, Words, Words, Words]:
    """Return the four words of each counter (c0, c1, c2, c3) under each 64-bit key.

    Args:
        seed: int64 keys, an array or a number.
        c0: First 32-bit counter word; it broadcasts with the others.
        c1: Second.
        c2: Third.
        c3: Fourth.
    """
    keys, *counters = np.broadcast_arrays(np.asarray(seed, np.int64), *(np.asarray(c) for c in (c0, c1, c2, c3)))
    shape = keys.shape
    key = np.empty((2, keys.size), np.uint32)
    key[0], key[1] = keys.ravel() & 0xFFFFFFFF, (keys.ravel() >> 32) & 0xFFFFFFFF
    even, odd = np.empty((2, keys.size), np.uint64), np.empty((2, keys.size), np.uint32)
    # Rows in the order of a round's output: (c2, c0) are multiplied, (c1, c3) are mixed in.
    even[0], even[1] = (c.ravel().astype(np.uint32, copy=False) for c in (counters[2], counters[0]))
    odd[0], odd[1] = (c.ravel().astype(np.uint32, copy=False) for c in (counters[1], counters[3]))
    for _ in range(_ROUNDS):
        even *= _MULTIPLIERS
        halves = even.view(np.uint32)
        np.bitwise_xor(odd, halves[:, _HIGH::2], out=odd)
        np.bitwise_xor(odd, key, out=odd)
        # The mixed words are the next (c0, c2), the low halves the next (c1, c3).
        low = halves[:, _LOW::2].copy()
        even[0], even[1] = odd[1], odd[0]
        odd = low
        key += _WEYL
    c0, c2 = even[1].astype(np.uint32), even[0].astype(np.uint32)
    return c0.reshape(shape), odd[0].reshape(shape), c2.reshape(shape), odd[1].reshape(shape)
