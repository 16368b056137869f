"""Running statistics against NumPy in float64, and what is scaled by them against naive loops."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from operant_gpu.models.policies.normalization import (
    ObservationNormalizer,
    RewardNormalizer,
    RunningMoments,
    discounted_returns,
)

# As the library: what keeps a variance of zero from a division by zero.
EPS = 1e-8


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def assert_moments(moments: RunningMoments, seen: np.ndarray, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    """Compare with the mean and the variance over all leading axes."""
    samples = seen.reshape(-1, *moments.mean.shape).astype(np.float64)
    np.testing.assert_allclose(moments.mean.numpy(), samples.mean(0), rtol=rtol, atol=atol)
    np.testing.assert_allclose(moments.var.numpy(), samples.var(0), rtol=rtol, atol=atol)
    assert moments.count == len(samples)


def reloaded(source: nn.Module, target: nn.Module) -> nn.Module:
    """Return the target with the source's state, by way of a file."""
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target.load_state_dict(torch.load(file, weights_only=True))
    return target


@st.composite
def splits(draw: st.DrawFn) -> list[np.ndarray]:
    """Draw numbers of three columns about an offset, cut into batches."""
    count, offset, seed = draw(st.integers(1, 60)), draw(st.floats(-1e3, 1e3)), draw(st.integers(0, 2**32 - 1))
    samples = offset + np.random.default_rng(seed).normal(size=(count, 3)) * [1e-3, 1.0, 100.0]
    cuts = draw(st.lists(st.integers(1, max(1, count - 1)), max_size=8, unique=True))
    return [part for part in np.split(samples, sorted(cuts)) if len(part)]


@given(parts=splits())
@settings(max_examples=100, deadline=None)
def test_moments_are_those_of_all_that_was_seen_in_any_split(parts: list[np.ndarray]) -> None:
    moments = RunningMoments((3,))
    for part in parts:
        moments.update(torch.from_numpy(part))
    assert_moments(moments, np.concatenate(parts))


@given(parts=splits())
@settings(max_examples=50, deadline=None)
def test_moments_of_float32_are_as_good_as_float32(parts: list[np.ndarray]) -> None:
    moments = RunningMoments((3,))
    narrow = [part.astype(np.float32) for part in parts]
    for part in narrow:
        moments.update(torch.from_numpy(part))
    assert moments.mean.dtype == moments.var.dtype == torch.float64
    # Means of batches about 1000 are good to 6e-5.
    assert_moments(moments, np.concatenate(narrow), rtol=1e-4, atol=1e-4)


def test_leading_axes_are_samples_and_the_rest_is_one() -> None:
    samples = random(4, 5, 2, 3)
    for shape in ((), (3,), (2, 3)):
        moments = RunningMoments(shape)
        moments.update(samples[:1])
        moments.update(samples[1:])
        assert_moments(moments, samples.numpy(), rtol=1e-5, atol=1e-6)


@given(first=splits(), second=splits(), third=splits())
@settings(max_examples=50, deadline=None)
def test_merging_is_associative(first: list[np.ndarray], second: list[np.ndarray], third: list[np.ndarray]) -> None:
    def moments(parts: list[np.ndarray]) -> RunningMoments:
        result = RunningMoments((3,))
        result.update(torch.from_numpy(np.concatenate(parts)))
        return result

    def merged(one: RunningMoments, other: RunningMoments) -> RunningMoments:
        result = reloaded(one, RunningMoments((3,)))
        result.merge(other.mean, other.var, other.count)
        return result

    a, b, c = map(moments, (first, second, third))
    left, right = merged(merged(a, b), c), merged(a, merged(b, c))
    torch.testing.assert_close(left.state_dict(), right.state_dict(), rtol=1e-9, atol=1e-9)
    assert_moments(left, np.concatenate([*first, *second, *third]), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(merged(RunningMoments((3,)), a).state_dict(), a.state_dict())
    torch.testing.assert_close(merged(a, RunningMoments((3,))).state_dict(), a.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_large_offset_costs_no_accuracy(dtype: torch.dtype) -> None:
    """Sums of squares in float32 would be of 1e12, with an error of 1e5."""
    samples = (1e6 + random(400, 50).double()).to(dtype)
    moments = RunningMoments()
    for batch in samples:
        moments.update(batch)
    # A mean in float32 is good to 0.06 here, and its error goes into the variance squared.
    assert moments.mean.item() == pytest.approx(samples.double().mean().item(), abs=0.03)
    assert moments.var.item() == pytest.approx(samples.double().var(correction=0).item(), rel=5e-3)


def test_many_batches_add_up_in_float64() -> None:
    """In float32 a count of 2**24 could not grow by one."""
    moments = RunningMoments()
    moments.merge(torch.tensor(0.0).double(), torch.tensor(1.0).double(), 2.0**24)
    for _ in range(3):
        moments.update(torch.ones(1))
    assert moments.count == 2**24 + 3
    assert moments.mean.item() == pytest.approx(3 / (2**24 + 3), rel=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("before", [True, False])
def test_a_batch_that_is_not_finite_is_left_out_whole(bad: float, before: bool) -> None:
    moments = RunningMoments((2,))
    if before:
        moments.update(random(5, 2))
    expected = {name: value.clone() for name, value in moments.state_dict().items()}
    batch = random(4, 2, seed=1)
    batch[2, 1] = bad
    moments.update(batch)
    torch.testing.assert_close(moments.state_dict(), expected, rtol=0, atol=0)
    good = random(4, 2, seed=2)
    moments.update(good)
    seen = np.concatenate([random(5, 2).numpy(), good.numpy()]) if before else good.numpy()
    assert_moments(moments, seen, rtol=1e-5, atol=1e-6)


def test_numbers_whose_squares_are_beyond_float32_are_taken_in() -> None:
    moments = RunningMoments()
    moments.update(torch.tensor([1e30, -1e30]))
    assert moments.count == 2
    assert moments.var.item() == pytest.approx(1e60)


def test_observations_pass_before_the_first_update() -> None:
    obs = random(7, 3).clamp(-9, 9)
    assert torch.equal(ObservationNormalizer((3,))(obs), obs)


def test_observations_come_to_mean_zero_and_deviation_one() -> None:
    normalizer = ObservationNormalizer((3,))
    scales, offsets = torch.tensor([1e-3, 1.0, 50.0]), torch.tensor([5.0, 0.0, -300.0])
    obs = random(20, 50, 3) * scales + offsets
    for batch in obs.split(5):
        normalizer.update(batch)
    scaled = normalizer(obs)
    assert scaled.dtype == torch.float32
    samples = obs.double().numpy()
    expected = (samples - samples.mean((0, 1))) / np.sqrt(samples.var((0, 1)) + EPS)
    np.testing.assert_allclose(scaled.numpy(), expected, rtol=1e-3, atol=1e-3)


def test_observations_are_clipped_to_ten_deviations() -> None:
    normalizer = ObservationNormalizer((1,))
    normalizer.update(torch.tensor([[1.0], [-1.0]]))
    obs = torch.tensor([[9.9], [10.1], [-1e6], [math.inf]])
    torch.testing.assert_close(normalizer(obs), torch.tensor([[9.9], [10.0], [-10.0], [10.0]]))


def test_an_observation_that_never_changes_stays_zero() -> None:
    normalizer = ObservationNormalizer((2,))
    obs = torch.tensor([[3.0, 1.0], [3.0, -1.0]])
    normalizer.update(obs)
    torch.testing.assert_close(normalizer(obs), torch.tensor([[0.0, 1.0], [0.0, -1.0]]))


def test_observations_that_are_not_finite_do_not_move_the_scale() -> None:
    normalizer = ObservationNormalizer((2,))
    normalizer.update(random(9, 2))
    expected = normalizer(torch.ones(2)).clone()
    normalizer.update(torch.tensor([[math.nan, 0.0], [1e3, 1e3]]))
    assert torch.equal(normalizer(torch.ones(2)), expected)


def naive_rewards(batches: list[tuple[Tensor, Tensor]], gamma: float) -> list[np.ndarray]:
    """Scale batch after batch in float64, one environment and one step at a time."""
    num_envs = batches[0][0].shape[1]
    running, seen, scaled = [0.0] * num_envs, [], []
    for rewards, ended in batches:
        for step in range(len(rewards)):
            for environment in range(num_envs):
                running[environment] = gamma * running[environment] + rewards[step, environment].item()
                seen.append(running[environment])
                if ended[step, environment]:
                    running[environment] = 0.0
        scaled.append(np.clip(rewards.double().numpy() / np.sqrt(np.var(seen) + EPS), -10, 10))
    return scaled


def test_rewards_are_those_of_a_naive_loop_over_episodes() -> None:
    normalizer = RewardNormalizer(3, 0.9)
    batches = [(5 * random(8, 3, seed=i) + 2, random(8, 3, seed=i + 10) > 1.0) for i in range(5)]
    assert all(ended.any() for _, ended in batches)
    for (rewards, ended), expected in zip(batches, naive_rewards(batches, 0.9), strict=True):
        given = rewards.clone()
        np.testing.assert_allclose(normalizer(rewards, ended).numpy(), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(rewards, given)


def test_returns_go_on_from_batch_to_batch() -> None:
    rewards, ended = random(12, 3) + 1, random(12, 3, seed=1) > 1.5
    whole, parts = RewardNormalizer(3, 0.99), RewardNormalizer(3, 0.99)
    whole(rewards, ended)
    for part in range(0, 12, 4):
        parts(rewards[part : part + 4], ended[part : part + 4])
    torch.testing.assert_close(parts.moments.state_dict(), whole.moments.state_dict(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.returns, whole.returns)


@settings(deadline=None)
@given(steps=st.integers(1, 70), seed=st.integers(0, 2**31))
def test_discounted_returns_are_those_of_a_loop(steps: int, seed: int) -> None:
    rewards, ended = random(steps, 3, seed=seed), random(steps, 3, seed=seed + 1) > 1.2
    running, expected = random(3, seed=seed + 2), []
    for reward, over in zip(rewards, ended, strict=True):
        expected.append(running := reward + 0.97 * running)
        running = running * ~over
    found = discounted_returns(rewards, ended, random(3, seed=seed + 2), torch.tensor(0.97))
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-5)


def test_rewards_are_scaled_but_not_shifted_and_clipped_to_ten() -> None:
    normalizer = RewardNormalizer(1, 0.0)
    rewards = torch.zeros(1_000, 1)
    rewards[0] = 1_000.0
    scaled = normalizer(rewards, torch.zeros(1_000, 1, dtype=torch.bool))
    assert scaled[0].item() == 10.0
    assert (scaled[1:] == 0).all()
    assert (normalizer(-rewards, torch.zeros(1_000, 1, dtype=torch.bool))[0]).item() == -10.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [1, 5])
def test_rewards_that_are_not_finite_do_not_move_the_scale(bad: float, step: int) -> None:
    normalizer = RewardNormalizer(2, 0.9)
    rewards, ended = random(6, 2), torch.zeros(6, 2, dtype=torch.bool)
    ended[3] = True
    normalizer(rewards, ended)
    expected = {name: value.clone() for name, value in normalizer.moments.state_dict().items()}
    rewards[step, 0] = bad
    normalizer(rewards, ended)
    torch.testing.assert_close(normalizer.moments.state_dict(), expected, rtol=0, atol=0)
    assert normalizer.returns.isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_infinite_reward_is_forgotten(bad: float) -> None:
    normalizer, ended = RewardNormalizer(1, 0.5), torch.zeros(10, 1, dtype=torch.bool)
    normalizer(torch.full((10, 1), bad), ended)
    for _ in range(20):
        normalizer(torch.ones(10, 1), ended)
    # Returns of at most 1 / (1 - 0.5) vary by no more than 1.
    assert normalizer.moments.var < 1


@pytest.mark.parametrize("seed", range(2))
def test_a_saved_normalizer_goes_on_alike(seed: int) -> None:
    observations = ObservationNormalizer((3,))
    observations.update(random(9, 3, seed=seed) * 3 + 1)
    other = reloaded(observations, ObservationNormalizer((3,)))
    for batch in (random(5, 3, seed=5), random(5, 3, seed=6)):
        assert torch.equal(other(batch), observations(batch))
        other.update(batch)
        observations.update(batch)
    rewards, ended = random(6, 2, seed=seed), torch.zeros(6, 2, dtype=torch.bool)
    ended[-1] = True
    normalizer = RewardNormalizer(2, 0.9)
    normalizer(rewards, ended)
    # Where all episodes have ended, the statistics are all there is; another number of environments may go on.
    again = reloaded(normalizer, RewardNormalizer(2, 0.9))
    assert torch.equal(again(rewards, ended), normalizer(rewards, ended))
    reloaded(normalizer, RewardNormalizer(7, 0.9))
