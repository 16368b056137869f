"""How sure one can be of a few numbers: interquartile means and the bootstrap, as Agarwal et al., 2021, advise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from operant_gpu.errors import InvalidConfig, whole

Numbers = np.ndarray[Any, np.dtype[np.float64]]

_RESAMPLES = 2000


def interquartile_mean(values: Numbers) -> Numbers:
    """Return the mean of the middle half of the last axis, which no single number can move far."""
    size = values.shape[-1]
    cut = size // 4
    middle: Numbers = np.partition(values, (cut, size - cut - 1), axis=-1)[..., cut : size - cut].mean(-1)
    return middle


def bootstrap(
    strata: Sequence[Numbers], statistic: Callable[..., Any], level: float = 0.95, seed: int = 0
) -> tuple[Numbers, Numbers]:
    """Return the ends of a confidence interval, by the stratified percentile bootstrap over 2000 samples.

    Args:
        strata: Groups, each of which is sampled by itself along its first axis, with replacement.
        statistic: Of a sample of each stratum, as arguments.
        level: How often such intervals hold the truth.
        seed: Of the samples.

    Raises:
        InvalidConfig: If the level is not between 0 and 1, or the seed is no whole number.
    """
    if not isinstance(level, int | float | np.number) or not 0 < level < 1:
        raise InvalidConfig("level", f"expected a number between 0 and 1, got {level!r}")
    rng = np.random.default_rng(whole("seed", seed, 0))
    # One after the other, for a million episodes would not fit in memory as often.
    samples = np.array(
        [statistic(*(one[rng.integers(len(one), size=len(one))] for one in strata)) for _ in range(_RESAMPLES)]
    )
    # "nearest" takes numbers that are there: between a number and infinity there is none.
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0, method="nearest")
    return low, high
