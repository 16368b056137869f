"""Random numbers have the distributions that they should. Seeds are fixed, so that a failure repeats itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from draws import NORMALS, UNIFORMS, AllDraws, columns, started, step

SAMPLES = 200_000
# Deviations in standard errors: five is passed by chance once in two million.
SIGMAS = 5.0


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    """All draws of the first step of many environments, as float64."""
    env = started(AllDraws, SAMPLES, seed=42)
    step(env)
    return {name: column.astype(np.float64) for name, column in columns(env).items()}


def integer_draws(low: object, high: object, num_envs: int, seed: int = 0) -> np.ndarray:
    """Draw integers between bounds that are one number or one per environment."""
    env = started(AllDraws, num_envs, seed=seed)
    env.state.low.copy_(torch.as_tensor(low))
    env.state.high.copy_(torch.as_tensor(high))
    step(env)
    return columns(env)["whole"].astype(np.int64)


def assert_even(counts: np.ndarray) -> None:
    """Check that cells are as full as an even distribution leaves them, by chi-square."""
    expected = counts.sum() / counts.size
    statistic, freedom = ((counts - expected) ** 2 / expected).sum(), counts.size - 1
    assert statistic < freedom + SIGMAS * np.sqrt(2 * freedom)


def assert_moment(samples: np.ndarray, expected: float) -> None:
    """Check a mean against what it should be, given its own standard error."""
    error = samples.std() / np.sqrt(samples.size)
    assert abs(samples.mean() - expected) < SIGMAS * error


@pytest.mark.parametrize("name", UNIFORMS)
def test_uniform_numbers_are_even_on_the_unit_interval(name: str, drawn: dict[str, np.ndarray]) -> None:
    values = drawn[name]
    assert values.min() >= 0.0
    assert values.max() < 1.0
    assert values.min() < 1e-4
    assert values.max() > 1 - 1e-4
    assert_moment(values, 1 / 2)
    assert_moment((values - 0.5) ** 2, 1 / 12)
    assert_even(np.bincount((values * 100).astype(int), minlength=100))


def test_uniform_numbers_are_multiples_of_two_to_the_minus_24(drawn: dict[str, np.ndarray]) -> None:
    steps = drawn["u0"] * 2**24
    assert np.array_equal(steps, np.floor(steps))
    # The lowest of those bits takes part.
    assert_moment(steps % 2, 1 / 2)


def test_uniform_numbers_are_scaled_to_their_ends(drawn: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(drawn["scaled"], -3.0 + 8.0 * drawn["u0"], rtol=0, atol=1e-6)
    assert -3.0 <= drawn["scaled"].min() < drawn["scaled"].max() < 5.0


@pytest.mark.parametrize("pair", list(itertools.combinations(UNIFORMS[:6], 2)), ids="-".join)
def test_two_uniform_draws_are_independent(pair: tuple[str, str], drawn: dict[str, np.ndarray]) -> None:
    one, other = ((drawn[name] * 10).astype(int) for name in pair)
    assert_even(np.bincount(one * 10 + other, minlength=100))


@pytest.mark.parametrize("bounds", [(0, 2), (-3, 4), (0, 100), (-500, 511), (5, 6)], ids=str)
def test_integers_are_even_on_a_half_open_range(bounds: tuple[int, int]) -> None:
    low, high = bounds
    values = integer_draws(low, high, 100_000)
    assert (values.min(), values.max()) == (low, high - 1)
    if high - low > 1:
        assert_even(np.bincount(values - low))


def test_integers_are_even_on_a_range_that_is_most_of_31_bits() -> None:
    # Far from a power of two: taking bits modulo the range would fill the lower part twice.
    low, high = -(2**30), 2**29
    values = integer_draws(low, high, 100_000)
    assert values.min() >= low
    assert values.max() < high
    assert_even(np.bincount((values - low) // ((high - low) // 60), minlength=60))


def test_integers_take_bounds_that_differ_between_environments() -> None:
    widths = np.arange(60_000) % 3 + 3
    low = np.arange(60_000) % 7 - 3
    values = integer_draws(low, low + widths, 60_000) - low
    for width in (3, 4, 5):
        counts = np.bincount(values[widths == width])
        assert counts.size == width
        assert_even(counts)


@pytest.mark.parametrize("name", NORMALS)
def test_normal_numbers_have_the_moments_and_tails_of_a_normal(name: str, drawn: dict[str, np.ndarray]) -> None:
    values = drawn[name]
    assert np.isfinite(values).all()
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        assert_moment(values**power, moment)
    for bound, inside in ((1.0, 0.682689), (2.0, 0.954500), (3.0, 0.997300)):
        assert_moment((np.abs(values) < bound).astype(float), inside)
    assert_moment((values > 0).astype(float), 0.5)


@pytest.mark.parametrize("pair", list(itertools.combinations(NORMALS, 2)), ids="-".join)
def test_two_normal_draws_are_independent(pair: tuple[str, str], drawn: dict[str, np.ndarray]) -> None:
    # Box and Muller's pairs share a radius: it shows in the squares, if anywhere.
    one, other = (drawn[name] for name in pair)
    assert_moment(one * other, 0.0)
    assert_moment((one**2 - 1) * (other**2 - 1), 0.0)
    assert_moment(one * (other**2 - 1), 0.0)


def test_normal_draws_are_independent_of_uniform_draws_of_the_same_number(drawn: dict[str, np.ndarray]) -> None:
    for name in UNIFORMS[:4]:
        for other in NORMALS:
            assert_moment((drawn[name] - 0.5) * drawn[other], 0.0)
            assert_moment((drawn[name] - 0.5) * (drawn[other] ** 2 - 1), 0.0)


def test_consecutive_steps_and_neighbouring_environments_are_independent() -> None:
    env = started(AllDraws, SAMPLES, seed=8)
    step(env)
    before = columns(env)["u0"].astype(np.float64) - 0.5
    step(env)
    after = columns(env)["u0"].astype(np.float64) - 0.5
    assert_moment(before * after, 0.0)
    assert_moment(before[:-1] * before[1:], 0.0)
