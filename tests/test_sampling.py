"""Draws from distributions, as NumPy runs them, against formulas in float64. Seeds are fixed."""

from __future__ import annotations

import numpy as np
import pytest

from operant_gpu import sampling
from operant_gpu.backends.lowering.operations import NumpyRng
from operant_gpu.backends.lowering.programs import lower_to_numpy

pytestmark = pytest.mark.quick

SAMPLES = 40_000
# Deviations in standard errors: five is passed by chance once in two million.
SIGMAS = 5.0
# What stands for minus infinity in a logit.
LOWEST = -3.4028234663852886e38

Array = np.ndarray


def stream(num_envs: int = SAMPLES, seed: int = 3) -> NumpyRng:
    zeros = np.zeros(num_envs, np.int32)
    return NumpyRng(np.full(num_envs, seed), np.arange(num_envs, dtype=np.int32), zeros, zeros, 2 << 28)


def categorical(
    logits: list[Array], legal: tuple[object, ...] = (), low: tuple[int, ...] = (0,), high: tuple[int, ...] = ()
) -> tuple[Array, Array]:
    """Return choices (samples, components) and log-probabilities of blocks of logits."""
    high = high or (low[0] + len(logits),)
    sizes = [b - a for a, b in zip(low, high)]
    first = tuple(int(start) for start in np.cumsum([0, *sizes])[:-1])
    draw = lower_to_numpy(sampling.categorical)
    with np.errstate(all="ignore"):
        action, log_prob = draw(stream(len(logits[0])), tuple(logits), legal, low, high, first)
    assert all(component.dtype == np.int32 for component in action)
    assert log_prob.dtype == np.float32
    return np.stack(action, -1), log_prob


def integers(low: tuple[int, ...], high: tuple[int, ...], legal: tuple[object, ...] = ()) -> Array:
    sizes = [b - a for a, b in zip(low, high)]
    first = tuple(int(start) for start in np.cumsum([0, *sizes])[:-1])
    action = lower_to_numpy(sampling.random_integers)(stream(), legal, low, high, first)
    return np.stack([np.broadcast_to(component, SAMPLES) for component in action], -1)


def blocks(numbers: list[float], samples: int = SAMPLES) -> list[Array]:
    return [np.full(samples, number, np.float32) for number in numbers]


def softmax(logits: Array) -> Array:
    with np.errstate(over="ignore"):
        weights = np.exp(logits.astype(np.float64) - logits.astype(np.float64).max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def assert_frequencies(choices: Array, chances: Array) -> None:
    """Check by chi-square, cells that can hardly be filled apart."""
    counts, expected = np.bincount(choices, minlength=len(chances)), len(choices) * chances
    assert not counts[chances == 0].any()
    rare = expected < 5
    assert counts[rare].sum() < expected[rare].sum() + SIGMAS * np.sqrt(expected[rare].sum()) + 3
    counts, expected = counts[~rare], expected[~rare]
    statistic, freedom = ((counts - expected) ** 2 / expected).sum(), max(len(counts) - 1, 1)
    assert statistic < freedom + SIGMAS * np.sqrt(2 * freedom)


def assert_moment(samples: Array, expected: float) -> None:
    samples = samples.astype(np.float64)
    assert abs(samples.mean() - expected) < SIGMAS * samples.std() / np.sqrt(samples.size)


LOGITS: dict[str, list[float]] = {
    "mixed": [0.3, -1.2, 2.0, 0.0],
    "equal": [0.7] * 5,
    "equal and large": [1e4] * 3,
    "equal and small": [-1e4] * 3,
    "one beats all": [-1e4, 1e4, 0.0],
    "first beats all": [1e4, -1e4],
    "last beats all": [-50.0, -60.0, 50.0],
    "far up": [9999.0, 1e4, 9998.5],
    "far down": [-9999.0, -1e4, -9998.5],
    "unlikely": [0.0, -9.0, -9.0],
    "minus infinity": [-np.inf, 0.5, -np.inf, 0.1],
    "lowest": [LOWEST, 0.5, 0.1, LOWEST],
    "one choice": [3.0],
    "one large choice": [-1e4],
    "many": list(np.linspace(-2, 2, 21)),
}


@pytest.mark.parametrize("kind", LOGITS)
def test_choices_have_the_frequencies_and_probabilities_of_a_softmax(kind: str) -> None:
    logits = np.array(LOGITS[kind], np.float32)
    chances = softmax(logits)
    choices, log_prob = categorical(blocks(LOGITS[kind]))
    assert_frequencies(choices[:, 0], np.where(chances < 1e-30, 0.0, chances))
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(log_prob, np.log(chances)[choices[:, 0]], rtol=1e-5, atol=2e-6)


def test_a_choice_is_where_the_uniform_number_cuts_the_distribution_function() -> None:
    logits = np.random.default_rng(1).normal(0, 2, (SAMPLES, 6)).astype(np.float32)
    choices, log_prob = categorical(list(logits.T))
    unit = (stream().compute(0)[0] >> 8) * 2.0**-24
    chances = softmax(logits)
    rows, choice = np.arange(SAMPLES), choices[:, 0]
    above = chances.cumsum(1)[rows, choice]
    assert (unit < above + 1e-6).all()
    assert (unit >= above - chances[rows, choice] - 1e-6).all()
    np.testing.assert_allclose(log_prob, np.log(chances[rows, choice]), rtol=1e-5, atol=2e-6)


def test_illegal_choices_have_no_weight() -> None:
    logits = np.random.default_rng(2).normal(0, 3, (SAMPLES, 5)).astype(np.float32)
    # The illegal ones would win.
    legal = np.random.default_rng(3).random((SAMPLES, 5)) < 0.5
    legal[:, 4] |= ~legal.any(1)
    logits[~legal] += 100.0
    choices, log_prob = categorical(list(logits.T), tuple(legal.T))
    rows, choice = np.arange(SAMPLES), choices[:, 0]
    assert legal[rows, choice].all()
    chances = softmax(np.where(legal, logits.astype(np.float64), -np.inf))
    np.testing.assert_allclose(log_prob, np.log(chances[rows, choice]), rtol=1e-5, atol=2e-5)
    only = legal.sum(1) == 1
    assert not log_prob[only].any()


@pytest.mark.parametrize("level", [-1e4, 0.0, 1e4, -3e38])
@pytest.mark.parametrize("kind", ["numbers", "blocks", "both"])
def test_masks_may_be_plain_numbers(kind: str, level: float) -> None:
    pattern = [True, False, True, True, False]
    as_block = {"numbers": [], "blocks": range(5), "both": [0, 1]}[kind]
    legal = tuple(np.full(SAMPLES, flag) if i in as_block else flag for i, flag in enumerate(pattern))
    choices, log_prob = categorical(blocks([level, level + 9.0, level, level, -level]), legal)
    assert_frequencies(choices[:, 0], np.array(pattern) / 3)
    np.testing.assert_allclose(log_prob, -np.log(3), rtol=1e-5)
    assert_frequencies(integers((2,), (7,), legal)[:, 0] - 2, np.array(pattern) / 3)


@pytest.mark.parametrize("only", range(3))
@pytest.mark.parametrize("level", [-1e4, 0.0, 1e4])
def test_one_legal_choice_is_certain(only: int, level: float) -> None:
    legal = tuple(i == only for i in range(3))
    logits = [level if i == only else -level for i in range(3)]
    choices, log_prob = categorical(blocks(logits, 100), legal)
    assert (choices == only).all()
    assert not log_prob.any()
    assert (integers((0,), (3,), legal) == only).all()


def test_without_a_legal_choice_the_draw_is_still_in_range() -> None:
    none = (False, np.zeros(SAMPLES, bool), False)
    choices, log_prob = categorical(blocks([1.0, 2.0, 3.0]), none)
    assert_frequencies(choices[:, 0], np.full(3, 1 / 3))
    np.testing.assert_allclose(log_prob, -np.log(3), rtol=1e-6)
    # As documented: the last.
    assert (integers((4,), (7,), none) == 6).all()


@pytest.mark.parametrize("size", [1, 3])
def test_logits_that_are_all_no_numbers_choose_the_first(size: int) -> None:
    choices, log_prob = categorical(blocks([np.nan] * size, 100), (), (4,))
    assert (choices == 4).all()
    assert np.isnan(log_prob).all()


def test_components_are_drawn_apart_and_their_probabilities_multiplied() -> None:
    numbers = [0.5, -0.5, 1.0, 0.0, 2.0, -1.0, 0.3, 0.3, 0.3]
    parts = [numbers[:2], numbers[2:5], numbers[5:6], numbers[6:]]
    choices, log_prob = categorical(blocks(numbers), (), (0, -3, 7, 1), (2, 0, 8, 4))
    offsets = choices - [0, -3, 7, 1]
    chances = [softmax(np.array(part, np.float32)) for part in parts]
    for i, component in enumerate(chances):
        assert_frequencies(offsets[:, i], component)
    joint = np.einsum("a,b,c,d->abcd", *chances)
    cells = np.ravel_multi_index(tuple(offsets.T), joint.shape)
    assert_frequencies(cells, joint.ravel())
    np.testing.assert_allclose(log_prob, np.log(joint.ravel()[cells]), rtol=1e-5, atol=2e-6)


def test_each_component_has_its_own_part_of_the_mask() -> None:
    legal = (True, False, False, True, True)
    choices, log_prob = categorical(blocks([0.0, 9.0, 9.0, 1.0, 0.0]), legal, (0, 0), (2, 3))
    assert not choices[:, 0].any()
    chances = np.array([0.0, *softmax(np.array([1.0, 0.0]))])
    assert_frequencies(choices[:, 1], chances)
    np.testing.assert_allclose(log_prob, np.log(chances[choices[:, 1]]), rtol=1e-5)
    drawn = integers((0, -1), (2, 2), legal)
    assert not drawn[:, 0].any()
    assert_frequencies(drawn[:, 1] + 1, np.array([0.0, 0.5, 0.5]))


def test_more_than_four_components_have_words_of_their_own() -> None:
    drawn = integers((0,) * 9, (2,) * 9)
    correlations = np.corrcoef(drawn.T) - np.eye(9)
    assert abs(correlations).max() < SIGMAS / np.sqrt(SAMPLES)
    for component in drawn.T:
        assert_frequencies(component, np.full(2, 1 / 2))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 4), (5, 7), (0, 100)])
def test_random_integers_are_even(low: int, high: int) -> None:
    assert_frequencies(integers((low,), (high,))[:, 0] - low, np.full(high - low, 1 / (high - low)))


def test_random_integers_are_even_among_the_legal_ones_of_each_environment() -> None:
    legal = np.random.default_rng(4).random((SAMPLES, 4)) < 0.5
    drawn = integers((1,), (5,), tuple(legal.T))[:, 0] - 1
    for pattern in np.unique(legal, axis=0):
        choices = drawn[(legal == pattern).all(1)]
        if pattern.any():
            assert_frequencies(choices, pattern / pattern.sum())
        else:
            assert (choices == 3).all()


def test_random_floats_are_even_between_the_bounds() -> None:
    bounds = ((-1.0, 1.0), (0.0, 10.0), (3.0, 3.0))
    drawn = lower_to_numpy(sampling.random_floats)(stream(), *map(tuple, zip(*bounds)))
    assert all(component.dtype == np.float32 for component in drawn)
    for component, (low, high) in zip(drawn[:2], bounds):
        assert low <= component.min() < component.max() <= high
        assert_frequencies(((component - low) / (high - low) * 20).astype(int).clip(0, 19), np.full(20, 1 / 20))
    assert (drawn[2] == 3.0).all()


@pytest.mark.parametrize("as_scalar", [True, False])
def test_normal_draws_have_their_moments_and_density(as_scalar: bool) -> None:
    means, log_stds = [0.5, -20.0, 3.0], [0.0, -2.0, 1.5]
    given = tuple(map(np.float32, log_stds)) if as_scalar else tuple(blocks(log_stds))
    action, log_prob = lower_to_numpy(sampling.gaussian)(stream(), tuple(blocks(means)), given)
    assert log_prob.dtype == np.float32
    noise = []
    for component, mean, log_std in zip(action, means, log_stds):
        assert component.dtype == np.float32
        unit = (component.astype(np.float64) - mean) / np.exp(log_std)
        for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
            assert_moment(unit**power, moment)
        noise.append(unit)
    assert abs(np.corrcoef(noise) - np.eye(3)).max() < SIGMAS / np.sqrt(SAMPLES)
    density = sum(-0.5 * unit**2 - log_std - 0.5 * np.log(2 * np.pi) for unit, log_std in zip(noise, log_stds))
    # A mean of 20 with a deviation of 0.14 leaves five digits to the noise.
    np.testing.assert_allclose(log_prob, density, rtol=1e-4, atol=1e-4)
