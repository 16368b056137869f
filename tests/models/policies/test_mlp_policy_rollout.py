"""Rollouts with an `MLPPolicy`: draws, probabilities and advantages are those that PyTorch and PPO find."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from contract_envs import Dials, Drift, Ledge, MaskedDials, make_cpu
from mlp_policies import policy_for
from rollouts import all_names, as_drawn, is_legal
from torch import Tensor

from operant_gpu import VecEnv
from operant_gpu.models import MLPPolicy
from operant_gpu.models.ppo.rollout import Rollout, generalized_advantages, next_values
from operant_gpu.spaces import action_layout

CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}
NAMES = ("CartPole-v1", "Pendulum-v1", Drift.id, Dials.id, MaskedDials.id, Ledge.id)


def started(name: str, num_envs: int = 64, limit: int = 15) -> VecEnv:
    env = make_cpu(name, num_envs, "numpy", max_episode_steps=limit)
    env.reset(seed=5)
    return env


def evaluated(env: VecEnv, policy: MLPPolicy, stored: dict[str, Tensor], name: str) -> Tensor:
    """Return the policy's own view of a rollout, (num_steps, num_envs)."""
    actions, mask = stored["policy_action"], stored.get("action_mask")
    with torch.no_grad():
        steps = [
            policy.evaluate(obs, action, None, None, None if mask is None else mask[step])
            for step, (obs, action) in enumerate(zip(stored["obs"], actions, strict=True))
        ]
    return torch.stack([getattr(one, name) for one in steps])


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "shared relu": {"shared_trunk": True, "activation": "relu", "hidden_sizes": (9, 33, 4)},
    "scaled": {"normalize_observations": True},
    "linear": {"hidden_sizes": ()},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_rollouts_store_what_the_policy_says_of_them(name: str, variant: str) -> None:
    env = started(name)
    policy = policy_for(env, **VARIANTS[variant])
    stored = env.rollout(20, policy, all_names(env))
    for key in ("log_prob", "value"):
        torch.testing.assert_close(stored[key], evaluated(env, policy, stored, key), **CLOSE)
        assert stored[key].std() > 0.01
    wanted = stored["final_value"] != 0
    following = torch.stack([policy.value(obs, None, None) for obs in stored["final_obs"]]).detach()
    torch.testing.assert_close(stored["final_value"][wanted], following[wanted], **CLOSE)
    assert wanted.any()
    assert not wanted.all()


def test_rollouts_see_what_training_has_changed() -> None:
    env = started("CartPole-v1")
    policy = policy_for(env)
    first = env.rollout(1, policy, ["obs", "value"])
    with torch.no_grad():
        policy.network.critic.bias += 5.0
    again = env.rollout(1, policy, ["obs", "value"])
    torch.testing.assert_close(first["value"][0], policy.value(first["obs"][0], None, None).detach() - 5.0, **CLOSE)
    torch.testing.assert_close(again["value"][0], policy.value(again["obs"][0], None, None).detach(), **CLOSE)


def test_choices_have_the_frequencies_of_the_logits() -> None:
    """Chi-square of the 3 x 4 pairs, at one in a thousand."""
    env = started(Dials.id, 1024)
    policy = policy_for(env)
    with torch.no_grad():
        policy.network.actor.weight.zero_()
    chances = [logits.softmax(0) for logits in policy.network.actor.bias.detach().double().split([3, 4])]
    actions = as_drawn(env, env.rollout(30, policy, "action")["action"]).flatten(0, 1)
    counts = torch.bincount(actions[:, 0] * 4 + actions[:, 1], minlength=12)
    expected = len(actions) * torch.outer(*chances).flatten()
    assert ((counts - expected).square() / expected).sum() < 31.26


@pytest.mark.parametrize("name", [MaskedDials.id, Ledge.id])
def test_choices_are_legal_and_as_frequent_as_their_probabilities(name: str) -> None:
    env = started(name, 1024)
    policy = policy_for(env)
    stored = env.rollout(20, policy, all_names(env))
    mask = stored["action_mask"]
    assert not mask.all()
    assert is_legal(env, stored["action"], mask).all()
    with torch.no_grad():
        logits = policy(stored["obs"].flatten(0, 1), None, None)[0].masked_fill(~mask.flatten(0, 1), -torch.inf)
    layout = action_layout(env.single_action_space)
    drawn = as_drawn(env, stored["action"]).reshape(len(logits), -1)
    for i, (first, low, high) in enumerate(zip(layout.first_choices, layout.low, layout.high)):
        chances = logits[:, first : first + high - low].double().softmax(1)
        counts = torch.bincount(drawn[:, i], minlength=high - low)
        deviations = (chances * (1 - chances)).sum(0).sqrt()
        assert ((counts - chances.sum(0)).abs() < 3.5 * deviations + 1e-9).all()


def test_normal_actions_have_the_policys_mean_and_deviation() -> None:
    env = started(Drift.id, 1024)
    policy = policy_for(env)
    stored = env.rollout(20, policy, ["obs", "policy_action"])
    with torch.no_grad():
        means = policy(stored["obs"].flatten(0, 1), None, None)[0]
    noise = (stored["policy_action"].flatten(0, 1) - means) / policy.distribution.log_std.detach().exp()
    # Deviations of the estimates: 1/sqrt(n), and 1/sqrt(2n).
    assert (noise.mean(0).abs() < 3.5 / np.sqrt(len(noise))).all()
    assert ((noise.std(0) - 1).abs() < 3.5 / np.sqrt(2 * len(noise))).all()
    assert abs(torch.corrcoef(noise.T)[0, 1]) < 3.5 / np.sqrt(len(noise))


def replayed(env: VecEnv, policy: MLPPolicy, actions: Tensor) -> Rollout:
    """Take the steps as PPO does, one by one."""
    rollout = Rollout(env, policy, len(actions))
    rollout.obs[0] = env.observe()
    for step, action in enumerate(actions):
        rollout.value[step] = policy.value(rollout.obs[step], None, None).detach()
        env.step(policy.distribution.for_environment(action), out=rollout.outputs(step))
    return rollout


def advantages_of(stored: dict[str, Tensor], gamma: float, gae_lambda: float) -> Tensor:
    """Return the advantages from what a rollout stores: where it has no final value, the next value or nothing."""
    ended = stored["terminated"] | stored["truncated"]
    advantages, running = torch.zeros_like(stored["value"]), torch.zeros_like(stored["value"][0])
    steps = len(advantages)
    for step in reversed(range(steps)):
        over = ended[step] if step + 1 < steps else torch.ones_like(ended[step])
        following = torch.where(over, stored["final_value"][step], stored["value"][min(step + 1, steps - 1)])
        delta = stored["reward"][step] + gamma * following - stored["value"][step]
        running = delta + gamma * gae_lambda * running * ~over
        advantages[step] = running
    return advantages


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_advantages_are_those_of_ppo(name: str, variant: str) -> None:
    env, other = started(name), started(name)
    policy = policy_for(env, **VARIANTS[variant])
    names = ["policy_action", "value", "final_value", "reward", "terminated", "truncated"]
    for _ in range(2):
        stored = env.rollout(35, policy, names)
        rollout = replayed(other, policy, stored["policy_action"])
        for key, tensor in (("terminated", rollout.terminated), ("truncated", rollout.truncated)):
            assert torch.equal(stored[key], tensor)
        following = next_values(rollout, policy, env.max_episode_steps)
        flags = rollout.terminated, rollout.ended
        expected = generalized_advantages(rollout.reward, rollout.value, following, *flags, 0.97, 0.9)
        torch.testing.assert_close(advantages_of(stored, 0.97, 0.9), expected, rtol=1e-4, atol=1e-5)
    assert stored["truncated"].any()
    assert bool(stored["terminated"].any()) is (name not in ("Pendulum-v1",))


def test_components_have_the_order_of_flatten() -> None:
    """A linear critic picks single components."""
    env = started(Dials.id)
    policy = policy_for(env, hidden_sizes=())
    for place in range(4):
        with torch.no_grad():
            policy.network.critic.weight.copy_(torch.eye(4)[place])
            policy.network.critic.bias.zero_()
        stored = env.rollout(3, policy, ["obs", "value"])
        torch.testing.assert_close(stored["value"], stored["obs"][..., place // 2, place % 2], **CLOSE)
