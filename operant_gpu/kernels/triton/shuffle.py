"""Orders in which an iteration's samples are learned from, as a function of seed, iteration, epoch and process alone.

A permutation is a Feistel network over the numbers below a power of two, whose keys are words of a counter-based
stream; numbers that fall outside the samples are sent through it again (Black and Rogaway, "Ciphers with arbitrary
finite domains", 2002). So each place finds its sample by itself: nothing is sorted, and no generator has a state.
The reference is `permutation`, in NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton
import triton.language as tl

from operant_gpu.philox import philox

ROUNDS = tl.constexpr(12)
# Stream number 3 of `operant_gpu.random`.
SHUFFLE_STREAM = tl.constexpr(3 << 28)
_GOLDEN = tl.constexpr(0x9E3779B9)
_FIRST, _SECOND = tl.constexpr(0x85EBCA6B), tl.constexpr(0xC2B2AE35)


@triton.jit
def _mixed(x):
    """Scatter the bits of uint32 words: the finish of MurmurHash3."""
    x = x * _FIRST
    x = x ^ (x >> 13)
    x = x * _SECOND
    return x ^ (x >> 16)


@triton.jit
def _encrypted(x, words, high_bits, low_bits):
    """Return where a bijection of the numbers below 2 ** (high_bits + low_bits) sends uint32 words."""
    one = tl.full((), 1, tl.uint32)
    left, right = x >> low_bits, x & ((one << low_bits) - 1)
    for i in tl.static_range(ROUNDS):
        key = words[i % 4] + ((i * _GOLDEN) & 0xFFFFFFFF)
        if i % 2 == 0:
            left = (left ^ _mixed(right ^ key)) & ((one << high_bits) - 1)
        else:
            right = (right ^ _mixed(left ^ key)) & ((one << low_bits) - 1)
    return (left << low_bits) | right


@triton.jit(do_not_specialize=["seed", "rank", "size", "high_bits", "low_bits"])
def shuffle_kernel(order_ptr, iteration_ptr, seed, rank, size, high_bits, low_bits, BLOCK: tl.constexpr):
    """Write the orders (n_epochs, size) of an iteration, int32; program (i, j) does block i of epoch j."""
    epoch = tl.program_id(1)
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = place < size
    iteration = tl.load(iteration_ptr)
    zero = iteration * 0
    words = tl.philox(tl.cast(seed, tl.int64), iteration, zero + epoch, zero + rank, zero + SHUFFLE_STREAM)
    # What is beyond the samples might never come back among them.
    x = tl.where(exists, place, 0).to(tl.uint32)
    x = _encrypted(x, words, high_bits, low_bits)
    outside = x >= size
    while tl.max(outside.to(tl.int32), 0) > 0:
        x = tl.where(outside, _encrypted(x, words, high_bits, low_bits), x)
        outside = x >= size
    tl.store(order_ptr + epoch.to(tl.int64) * size + place, x.to(tl.int32), mask=exists)


def widths(size: int) -> tuple[int, int]:
    """Return the bits of the upper and of the lower half of a number below `size`."""
    bits = max(2, (size - 1).bit_length())
    return bits - bits // 2, bits // 2


def permutation(size: int, seed: int, iteration: int, epoch: int, rank: int = 0) -> np.ndarray[Any, Any]:
    """Return the order (size,) of one epoch, int32: what the kernel writes, by NumPy."""
    words = [int(word) for word in philox(seed, iteration, epoch, rank, SHUFFLE_STREAM.value)]
    high_bits, low_bits = widths(size)
    order = np.arange(size, dtype=np.uint32)
    outside = np.ones(size, bool)
    while outside.any():
        order[outside] = _sent(order[outside], words, high_bits, low_bits)
        outside = order >= size
    return order.astype(np.int32)


def _sent(x: Any, words: list[int], high_bits: int, low_bits: int) -> Any:
    left, right = x >> low_bits, x & ((1 << low_bits) - 1)
    for i in range(ROUNDS.value):
        key = np.uint32((words[i % 4] + i * _GOLDEN.value) % 2**32)
        if i % 2 == 0:
            left = (left ^ _scattered(right ^ key)) & ((1 << high_bits) - 1)
        else:
            right = (right ^ _scattered(left ^ key)) & ((1 << low_bits) - 1)
    return left << low_bits | right


def _scattered(x: Any) -> Any:
    x = x * np.uint32(_FIRST.value)
    x = (x ^ x >> 13) * np.uint32(_SECOND.value)
    return x ^ x >> 16
