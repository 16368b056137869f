"""The terms of the objective against numbers worked out by hand, and against naive NumPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from operant_gpu.models.ppo import losses

pytestmark = pytest.mark.quick

NUMBERS = st.floats(-100, 100, width=32)
RATIOS = st.floats(0.0625, 8, width=32)
SHAPES = st.sampled_from([(1,), (2,), (7,), (3, 4)])
EPSILONS = st.sampled_from([0.05, 0.2, 1.0])


def columns(*elements: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[np.ndarray, ...]]:
    """Draw float32 arrays of one shape."""
    return SHAPES.flatmap(lambda shape: st.tuples(*(arrays(np.float32, shape, elements=e) for e in elements)))


def tensors(*values: list[float]) -> tuple[Tensor, ...]:
    return tuple(map(torch.tensor, values))


def assert_is(loss: Tensor, expected: float) -> None:
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("advantage", [0.1, -3.3, 1e6])
@pytest.mark.parametrize("size", [3, 41, 4096])
def test_equal_advantages_are_normalized_to_zero(size: int, advantage: float) -> None:
    assert losses.normalized(torch.full((size,), advantage)).abs().max() < 1e-6 * max(1.0, abs(advantage))


def test_the_surrogate_is_the_worse_of_two() -> None:
    # clip_eps = 0.2, ratio * advantage against clipped ratio * advantage:
    # 1.5 * 2 = 3 against 1.2 * 2 = 2.4, taken 2.4: a good action is made likelier only so far.
    # 0.5 * 2 = 1 against 0.8 * 2 = 1.6, taken 1.
    # 1.5 * -2 = -3 against 1.2 * -2 = -2.4, taken -3: a bad one that became likelier is felt in full.
    # 0.5 * -2 = -1 against 0.8 * -2 = -1.6, taken -1.6.
    ratio, advantages = tensors([1.5, 0.5, 1.5, 0.5], [2.0, 2.0, -2.0, -2.0])
    assert_is(losses.clipped_surrogate(ratio, advantages, 0.2), -(2.4 + 1.0 - 3.0 - 1.6) / 4)


def test_the_surrogate_is_flat_where_the_ratio_has_moved_far_enough() -> None:
    ratio, advantages = tensors([1.5, 0.5, 1.5, 0.5, 1.1], [2.0, 2.0, -2.0, -2.0, 2.0])
    ratio.requires_grad_()
    losses.clipped_surrogate(ratio, advantages, 0.2).backward()
    torch.testing.assert_close(ratio.grad * 5, torch.tensor([0.0, -2.0, 2.0, 0.0, -2.0]))


@given(arrays=columns(RATIOS, NUMBERS), eps=EPSILONS)
@settings(max_examples=60, deadline=None)
def test_the_surrogate_is_that_of_numpy(arrays: tuple[np.ndarray, ...], eps: float) -> None:
    ratio, advantages = (array.astype(np.float64) for array in arrays)
    expected = -np.minimum(ratio * advantages, np.clip(ratio, 1 - eps, 1 + eps) * advantages).mean()
    assert_is(losses.clipped_surrogate(*map(torch.from_numpy, arrays), eps), expected)


def test_twice_the_weight_of_the_halved_error_is_that_of_the_mean_squared_error() -> None:
    """As docs/migration/stable_baselines3.md says of Stable-Baselines3."""
    values, returns = torch.tensor([1.0, 2.0, -0.5]), torch.tensor([0.5, 4.0, 0.0])
    theirs = 0.5 * torch.nn.functional.mse_loss(returns, values)
    assert 1.0 * losses.squared_error(values, values.detach(), returns, math.inf) == pytest.approx(theirs.item())


def test_the_squared_error_is_halved() -> None:
    # Errors 1 and -3: (1 + 9) / 2 / 2.
    values, returns = tensors([2.0, 1.0], [1.0, 4.0])
    values.requires_grad_()
    loss = losses.squared_error(values, values.detach(), returns, math.inf)
    assert_is(loss, 2.5)
    loss.backward()
    # Half the square has the error itself as its slope, here of a mean of two.
    assert values.grad.tolist() == [0.5, -1.5]


@given(arrays=columns(NUMBERS, NUMBERS, NUMBERS))
@settings(max_examples=60, deadline=None)
def test_the_squared_error_is_that_of_numpy(arrays: tuple[np.ndarray, ...]) -> None:
    values, _, returns = (array.astype(np.float64) for array in arrays)
    assert_is(losses.squared_error(*map(torch.from_numpy, arrays), math.inf), 0.5 * ((values - returns) ** 2).mean())


def test_the_clipped_error_is_the_larger_of_two() -> None:
    # clip_eps = 0.5, old value 0:
    # value 2 of return 3: error 1, clipped to 0.5 it is 2.5, taken 6.25.
    # value 2 of return -1: error 3, clipped 1.5, taken 9.
    # value -2 of return -3: error 1, clipped to -0.5 it is 2.5, taken 6.25.
    # value 0.25 of return 1: nothing to clip, 0.5625.
    values, old, returns = tensors([2.0, 2.0, -2.0, 0.25], [0.0] * 4, [3.0, -1.0, -3.0, 1.0])
    values.requires_grad_()
    loss = losses.squared_error(values, old, returns, 0.5)
    assert_is(loss, 0.5 * (6.25 + 9.0 + 6.25 + 0.5625) / 4)
    loss.backward()
    # Where the clipped error is taken there is no slope.
    assert (values.grad * 4).tolist() == [0.0, 3.0, 0.0, -0.75]


@given(arrays=columns(NUMBERS, NUMBERS, NUMBERS), eps=EPSILONS)
@settings(max_examples=60, deadline=None)
def test_the_clipped_error_is_that_of_numpy(arrays: tuple[np.ndarray, ...], eps: float) -> None:
    values, old, returns = (array.astype(np.float64) for array in arrays)
    near = np.clip(values, old - eps, old + eps)
    expected = 0.5 * np.maximum((values - returns) ** 2, (near - returns) ** 2).mean()
    assert_is(losses.squared_error(*map(torch.from_numpy, arrays), eps), expected)


@given(arrays=columns(NUMBERS, NUMBERS, NUMBERS))
@settings(max_examples=60, deadline=None)
def test_without_a_clip_the_error_is_that_of_the_values_to_the_bit(arrays: tuple[np.ndarray, ...]) -> None:
    values, old, returns = map(torch.from_numpy, arrays)
    own, other = values.clone().requires_grad_(), values.clone().requires_grad_()
    found = losses.squared_error(own, old, returns, torch.tensor(math.inf))
    expected = 0.5 * (other - returns).square().mean()
    found.backward()
    expected.backward()
    assert torch.equal(found, expected)
    # Half of a number that is almost nothing is rounded.
    torch.testing.assert_close(own.grad, other.grad, rtol=0, atol=1e-37)


def test_advantages_come_to_mean_zero_and_deviation_one() -> None:
    # Mean 2, deviation sqrt((1 + 0 + 1) / 2) = 1.
    torch.testing.assert_close(losses.normalized(torch.tensor([1.0, 2.0, 3.0])), torch.tensor([-1.0, 0.0, 1.0]))
    assert losses.normalized(torch.full((4,), 7.0)).tolist() == [0.0] * 4


@given(arrays=columns(NUMBERS))
@settings(max_examples=60, deadline=None)
def test_normalized_advantages_are_those_of_numpy(arrays: tuple[np.ndarray, ...]) -> None:
    (advantages,) = (array.astype(np.float64) for array in arrays)
    # Where all are nearly alike, rounding is all that there is to scale.
    if advantages.size < 2 or advantages.std(ddof=1) < 0.01:
        return
    expected = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)
    result = losses.normalized(torch.from_numpy(arrays[0]))
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-2, atol=1e-2)


def test_the_divergence_is_estimated_by_its_third_estimator() -> None:
    # Ratio 2: 2 - 1 - ln 2 = 0.3069; ratio 0.5: 0.5 - 1 + ln 2 = 0.1931; together a mean of 0.25.
    ratio = torch.tensor([2.0, 0.5])
    assert losses.approximate_kl(ratio, ratio.log()).item() == pytest.approx(0.25)
    assert losses.approximate_kl(torch.ones(3), torch.zeros(3)) == 0


@given(arrays=columns(RATIOS))
@settings(max_examples=60, deadline=None)
def test_the_divergence_is_that_of_numpy_and_never_negative(arrays: tuple[np.ndarray, ...]) -> None:
    ratio = torch.from_numpy(arrays[0])
    result = losses.approximate_kl(ratio, ratio.log())
    exact = arrays[0].astype(np.float64)
    assert_is(result, (exact - 1 - np.log(exact)).mean())
    assert result > -1e-6


def test_the_divergence_is_unbiased() -> None:
    """Over draws of the policy that collected, the mean is the divergence from it."""
    old, new = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.4, 0.2])
    # Ten draws that have the frequencies of the old policy.
    drawn = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    ratio = (new / old)[drawn]
    divergence = sum(p * math.log(p / q) for p, q in zip(old.tolist(), new.tolist(), strict=True))
    assert losses.approximate_kl(ratio, ratio.log()).item() == pytest.approx(divergence, rel=1e-4)


def test_the_clip_fraction_counts_ratios_beyond_on_both_sides() -> None:
    # 0.7 and 1.3 are beyond 0.25, the edge is not.
    assert losses.clip_fraction(torch.tensor([0.7, 1.0, 1.25, 1.3, 0.75]), 0.25).item() == pytest.approx(0.4)


@given(arrays=columns(RATIOS), eps=EPSILONS)
@settings(max_examples=60, deadline=None)
def test_the_clip_fraction_is_that_of_numpy(arrays: tuple[np.ndarray, ...], eps: float) -> None:
    assert_is(losses.clip_fraction(torch.from_numpy(arrays[0]), eps), (np.abs(arrays[0] - np.float32(1)) > eps).mean())


def test_explained_variance_is_one_none_or_negative() -> None:
    # Returns 1, 2, 3, 4 vary by 5 / 3.
    returns = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert losses.explained_variance(returns.clone(), returns) == 1
    # An error that is the same everywhere does not count.
    assert losses.explained_variance(returns + 7, returns) == 1
    assert losses.explained_variance(torch.full((4,), 2.5), returns) == 0
    # Errors -3, -1, 1, 3 vary by 20 / 3: 1 - 4.
    assert losses.explained_variance(returns.flip(0), returns).item() == pytest.approx(-3)


@given(arrays=columns(NUMBERS, NUMBERS))
@settings(max_examples=60, deadline=None)
def test_explained_variance_is_that_of_numpy(arrays: tuple[np.ndarray, ...]) -> None:
    values, returns = (array.astype(np.float64) for array in arrays)
    if returns.std() < 0.1:
        return
    expected = 1 - (returns - values).var() / returns.var()
    result = losses.explained_variance(*map(torch.from_numpy, arrays))
    assert result.item() == pytest.approx(expected, rel=1e-3, abs=1e-3)
