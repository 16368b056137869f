"""What is stored of an iteration, the values and advantages estimated from it, and its minibatches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learning_envs import Forbidden, Locate

import operant_gpu
from operant_gpu.models import PPOConfig
from operant_gpu.models.policies.making import make_policy
from operant_gpu.models.policies.policy import Policy
from operant_gpu.models.ppo.rollout import (
    Rollout,
    collect,
    generalized_advantages,
    make_batch,
    minibatches,
    next_values,
)
from operant_gpu.vector import VecEnv

SMALL = PPOConfig(hidden_sizes=(16,), cnn_channels=(4,), batch_size=8, n_steps=8)
GAMMA, LAM = 0.9, 0.7


def column(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None]


def flags(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.bool)[:, None]


def make_rollout(env: VecEnv, n_steps: int, gru_size: int = 0) -> tuple[Rollout, Policy]:
    """Collect twice, so that the second rollout begins in the middle of episodes."""
    spaces = env.single_observation_space, env.single_action_space
    policy = make_policy(*spaces, PPOConfig(hidden_sizes=(16,), cnn_channels=(4,), gru_size=gru_size))
    env.reset(seed=1)
    rollout, generator = Rollout(env, policy, n_steps), torch.Generator().manual_seed(0)
    rollout.begin(env)
    for _ in range(2):
        collect(env, policy, rollout, generator)
    return rollout, policy


def test_advantages_worked_out_by_hand() -> None:
    # gamma 0.5, lambda 0.5. Step 1 terminates, step 3 is truncated.
    # deltas: 1 + 0.5*4 - 2 = 1;  2 + 0 - 4 = -2;  3 + 0.5*8 - 6 = 1;  4 + 0.5*10 - 8 = 1;  5 + 0.5*2 - 1 = 5
    # advantages, from the end: 5;  1 (cut);  1 + 0.25*1 = 1.25;  -2 (cut);  1 + 0.25*-2 = 0.5
    advantages = generalized_advantages(
        rewards=column(1, 2, 3, 4, 5),
        values=column(2, 4, 6, 8, 1),
        following=column(4, 6, 8, 10, 2),
        terminated=flags(0, 1, 0, 0, 0),
        ended=flags(0, 1, 0, 1, 0),
        gamma=0.5,
        lam=0.5,
    )
    torch.testing.assert_close(advantages, column(0.5, -2, 1.25, 1, 5))


def test_a_step_that_terminates_and_truncates_is_worth_nothing_further() -> None:
    both = generalized_advantages(column(1), column(0), column(100), flags(1), flags(1), 0.99, 0.95)
    torch.testing.assert_close(both, column(1))


def naive_advantages(rewards, values, following, terminated, ended):
    """The definition: sums of discounted deltas up to the episode's end, in float64."""
    advantages = np.zeros_like(rewards)
    for env in range(rewards.shape[1]):
        for start in range(len(rewards)):
            weight = 1.0
            for t in range(start, len(rewards)):
                onwards = 0.0 if terminated[t, env] else following[t, env]
                advantages[start, env] += weight * (rewards[t, env] + GAMMA * onwards - values[t, env])
                if ended[t, env]:
                    break
                weight *= GAMMA * LAM
    return advantages


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 5), st.floats(0, 0.6))
def test_advantages_equal_the_definition_in_float64(seed: int, n_steps: int, num_envs: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    rewards, values, following = rng.normal(size=(3, n_steps, num_envs))
    terminated, truncated = rng.random((2, n_steps, num_envs)) < rate
    arguments = rewards, values, following, terminated, terminated | truncated
    expected = naive_advantages(*arguments)
    tensors = (torch.as_tensor(a, dtype=torch.bool if a.dtype == bool else torch.float32) for a in arguments)
    torch.testing.assert_close(
        generalized_advantages(*tensors, GAMMA, LAM).double(), torch.as_tensor(expected), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("limit", [1, 3, 7, 16, 100])
@pytest.mark.parametrize("gru_size", [0, 8])
def test_what_follows_a_truncation_is_worth_the_value_of_its_final_observation(limit: int, gru_size: int) -> None:
    """Stretches of the rollout against a plain loop over its steps."""
    env = operant_gpu.make("CartPole-v1", 6, device="cpu", max_episode_steps=limit)
    rollout, policy = make_rollout(env, n_steps=16, gru_size=gru_size)
    found = next_values(rollout, policy, env.max_episode_steps)
    no_start = torch.zeros(6, dtype=torch.bool) if gru_size else None
    with torch.no_grad():
        for t in range(16):
            after = policy.value(*rollout.inputs(t + 1))
            memory = rollout.states[t + 1] if gru_size else None
            final = policy.value(rollout.final_obs[t], memory, no_start)
            cut = rollout.truncated[t] & ~rollout.terminated[t]
            torch.testing.assert_close(found[t], torch.where(cut, final, after))
    assert rollout.truncated.any() == (limit <= 16)


def test_a_recurrent_rollout_can_be_run_again_as_one_sequence() -> None:
    """What the update computes from the first state equals what acting computed step by step."""
    env = operant_gpu.make("CartPole-v1", 6, device="cpu", max_episode_steps=5)
    rollout, policy = make_rollout(env, n_steps=16, gru_size=8)
    assert rollout.starts[:16].any()
    assert rollout.states[0].abs().sum() > 0
    with torch.no_grad():
        again = policy.evaluate(rollout.obs[:-1], rollout.policy_action, rollout.states[0], rollout.starts[:-1], None)
    torch.testing.assert_close(again.log_prob, rollout.log_prob)
    torch.testing.assert_close(again.value, rollout.value)


def test_starts_mark_the_observations_that_begin_episodes() -> None:
    env = operant_gpu.make("CartPole-v1", 6, device="cpu", max_episode_steps=5)
    rollout, _ = make_rollout(env, n_steps=16, gru_size=8)
    assert torch.equal(rollout.starts[1:], rollout.ended)
    before = rollout.starts[-1].clone()
    rollout.begin(env)
    assert rollout.starts[-1].all()
    assert not before.all()


def test_the_environment_writes_into_the_rollout() -> None:
    """The stored steps are those that the same actions give elsewhere."""
    env = operant_gpu.make("CartPole-v1", 6, device="cpu", max_episode_steps=5)
    rollout, policy = make_rollout(env, n_steps=8)
    other = operant_gpu.make("CartPole-v1", 6, device="cpu", max_episode_steps=5)
    other.reset(seed=1)
    again, generator = Rollout(other, policy, 8), torch.Generator().manual_seed(0)
    again.begin(other)
    collect(other, policy, again, generator)
    # The first of the two rollouts; its last observation begins the second.
    torch.testing.assert_close(again.obs[-1], rollout.obs[0], rtol=0, atol=0)
    for t in range(8):
        decision = policy.act(again.obs[-1], None, None, None, generator)
        obs, reward, terminated, truncated, info = other.step(decision.actions)
        for stored, expected in (
            (rollout.policy_action[t], decision.actions),
            (rollout.action[t], decision.actions),
            (rollout.obs[t + 1], obs),
            (rollout.final_obs[t], info["final_obs"]),
            (rollout.reward[t], reward),
            (rollout.terminated[t], terminated),
            (rollout.truncated[t], truncated),
        ):
            torch.testing.assert_close(stored, expected, rtol=0, atol=0)
        again.obs[-1] = obs


def test_masks_are_stored_with_the_observations_they_belong_to() -> None:
    env = Forbidden(5, device="cpu")
    rollout, _ = make_rollout(env, n_steps=8)
    turns = (rollout.obs[..., 0] * 4).round().long()
    expected = torch.ones(9, 5, 5, dtype=torch.bool)
    expected.scatter_(2, turns[..., None], False)
    expected.scatter_(2, ((turns + 1) % 5)[..., None], False)
    assert torch.equal(rollout.action_mask, expected)


@pytest.mark.parametrize("gru_size", [0, 8])
def test_minibatches_are_a_shuffled_partition_of_the_steps(gru_size: int) -> None:
    env = operant_gpu.make("CartPole-v1", 10, device="cpu", max_episode_steps=5)
    rollout, _ = make_rollout(env, n_steps=7, gru_size=gru_size)
    # Marks each step, so that columns can be matched.
    marks = torch.arange(70.0).view(7, 10)
    rollout.log_prob.copy_(marks)
    batch = make_batch(rollout, marks.clone())
    parts = list(minibatches(batch, 15, torch.Generator().manual_seed(0)))
    for part in parts:
        assert torch.equal(part.log_prob, part.advantages)
        assert part.log_prob.numel() >= 15
        rows = part.log_prob.long().flatten()
        torch.testing.assert_close(part.obs.flatten(0, -2), rollout.obs[:-1].reshape(70, 4)[rows])
        assert torch.equal(part.policy_action.flatten(), rollout.policy_action.flatten()[rows])
    everything = torch.cat([part.log_prob.flatten() for part in parts])
    assert torch.equal(everything.sort().values, torch.arange(70.0))
    assert not torch.equal(everything, torch.arange(70.0))
    assert len(parts) == (3 if gru_size else 4)


def test_recurrent_minibatches_are_whole_sequences_with_their_state() -> None:
    env = operant_gpu.make("CartPole-v1", 10, device="cpu", max_episode_steps=5)
    rollout, _ = make_rollout(env, n_steps=7, gru_size=8)
    marks = torch.arange(10.0).expand(7, 10)
    for part in minibatches(make_batch(rollout, marks), 14, torch.Generator().manual_seed(0)):
        environments = part.advantages[0].long()
        assert (part.advantages == part.advantages[0]).all()
        assert torch.equal(part.state[0], rollout.states[0, environments])
        assert torch.equal(part.starts, rollout.starts[:-1, environments])


def test_images_keep_their_shape() -> None:
    rollout, _ = make_rollout(Locate(6, device="cpu"), n_steps=4)
    assert rollout.obs.shape == (5, 6, 1, 5, 5)
    batch = make_batch(rollout, rollout.reward)
    assert batch.obs.shape == (24, 1, 5, 5)
    assert batch.policy_action.shape == (24, 2)
    assert torch.equal(batch.obs.sum((1, 2, 3)), torch.ones(24))
