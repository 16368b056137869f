"""Orders of samples: permutations, evenly distributed, that depend on seed, iteration and epoch alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from here import HAS_TRITON

pytest.importorskip("triton", reason="the kernel's file needs Triton")

from operant_gpu.backends.triton.launching import launch
from operant_gpu.backends.triton.update import OPTIONS
from operant_gpu.kernels.triton.shuffle import permutation, shuffle_kernel, widths

SIZES = [1, 2, 3, 5, 41, 341, 4231]


@pytest.mark.parametrize("size", SIZES)
def test_every_sample_comes_once(size: int) -> None:
    order = permutation(size, seed=7, iteration=3, epoch=1)
    assert order.dtype == np.int32
    assert (np.sort(order) == np.arange(size)).all()


def test_each_of_seed_iteration_epoch_and_process_changes_the_order() -> None:
    settings = [(7, 3, 1), (8, 3, 1), (7 + 2**40, 3, 1), (7, 4, 1), (7, 3, 2), (7, 3, 1, 1)]
    assert len({permutation(341, *each).tobytes() for each in settings}) == len(settings)


def test_all_orders_of_four_are_as_frequent() -> None:
    counts = Counter(permutation(4, 1, iteration, 0).tobytes() for iteration in range(4_800))
    assert len(counts) == 24
    # 200 of each are expected; 23 degrees of freedom exceed 49.7 once in a thousand times.
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 49.7


def test_every_sample_is_as_frequent_at_every_place() -> None:
    size, draws = 37, 4_000
    counts = np.zeros((size, size))
    for iteration in range(draws):
        counts[np.arange(size), permutation(size, 3, iteration, 1)] += 1
    expected, freedom = draws / size, (size - 1) ** 2
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)


@pytest.mark.quick
@pytest.mark.skipif(not HAS_TRITON, reason="needs what runs Triton's kernels")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("block", [16, 8192])
def test_the_triton_kernel_gives_the_same_orders(size: int, block: int) -> None:
    if block == 16 and size > 1_000:
        pytest.skip("many programs take long")
    epochs, seed = 2, 2**40 + 5
    order = torch.full((epochs, size), -1, dtype=torch.int32)
    iteration = torch.tensor(9, dtype=torch.int32)
    grid = -(-size // block), epochs
    arguments = (order, iteration, seed, 1, size, *widths(size))
    launch(shuffle_kernel, grid, arguments, {"BLOCK": block}, order.device, OPTIONS, "")
    for epoch in range(epochs):
        assert (order[epoch].numpy() == permutation(size, seed, 9, epoch, rank=1)).all()
