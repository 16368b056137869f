"""What an iteration's episodes came to, beside a loop over its steps."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contract_envs import EVERY_MAKER

import operant_gpu
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.models.policies.making import make_policy
from operant_gpu.models.ppo.rollout import Rollout
from operant_gpu.models.ppo.telemetry import Telemetry

NUM_STEPS, NUM_ENVS = 5, 41


def make_rollout() -> Rollout:
    env = operant_gpu.make("Pendulum-v1", NUM_ENVS, device="cpu")
    policy = make_policy(env.single_observation_space, env.single_action_space, PPOConfig())
    return Rollout(env, policy, NUM_STEPS)


def under_way(*columns: torch.Tensor) -> Any:
    return SimpleNamespace(episode_so_far=columns, metric_sums={})


@pytest.mark.parametrize("is_staggered", [False, True])
def test_episodes_that_ended_are_those_of_a_loop_over_all_steps(is_staggered: bool) -> None:
    rollout, telemetry = make_rollout(), Telemetry([], NUM_ENVS, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    total, length = torch.arange(float(NUM_ENVS)), torch.arange(NUM_ENVS, dtype=torch.int32)
    count, returns, lengths = 0, 0.0, 0
    is_whole = torch.ones(NUM_ENVS, dtype=torch.bool)
    if is_staggered:
        telemetry.begin(length)
        is_whole = length == 0
    for _ in range(3):
        has_ended = torch.zeros(NUM_ENVS, dtype=torch.bool)
        rollout.note(under_way(total, length), 0)
        for step in range(NUM_STEPS):
            reward = torch.randn(NUM_ENVS, generator=generator)
            terminated, truncated = torch.rand(2, NUM_ENVS, generator=generator) < 0.1
            rollout.reward[step], rollout.terminated[step], rollout.truncated[step] = reward, terminated, truncated
            total, length, ended = total + reward, length + 1, terminated | truncated
            counts = ended & is_whole
            count += int(counts.sum())
            returns, lengths = returns + float(total[counts].sum()), lengths + int(length[counts].sum())
            has_ended |= ended
            total, length = total.masked_fill(ended, 0.0), length.masked_fill(ended, 0)
        rollout.note(under_way(total, length), 1)
        telemetry.add_iteration(rollout, torch.zeros(()))
        is_whole |= has_ended
    metrics, faults, _ = telemetry.read(clear=True)
    assert not faults
    assert metrics["episodes"] == count > 0
    assert metrics["episodic_return"] == pytest.approx(returns / count, rel=1e-5)
    assert metrics["episodic_length"] == pytest.approx(lengths / count, rel=1e-12)


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
def test_an_episode_with_a_fault_spoils_no_later_reading(reward: float) -> None:
    rollout = make_rollout()
    returns = torch.ones(NUM_ENVS)
    returns[1] = reward
    rollout.note(under_way(returns, torch.ones(NUM_ENVS, dtype=torch.int32)), 1)
    assert rollout.under_way[1].sum(1).tolist() == [NUM_ENVS - 1.0, NUM_ENVS]


@pytest.mark.parametrize("name", ["Pendulum-v1", "Ledge-v0"])
def test_all_that_is_read_of_an_iteration_is_one_transfer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = EVERY_MAKER[name](8, device="cpu", backend="numpy")
    learner = PPO(env, PPOConfig(n_steps=8, batch_size=32, engine="eager", lr=1e-3)).learn(64)
    learner._iterate()
    read: list[str] = []
    for way in ("item", "tolist", "__bool__", "__int__", "__float__", "cpu"):
        plain = getattr(torch.Tensor, way)

        def noted(tensor: torch.Tensor, way: str = way, plain: Any = plain) -> Any:
            read.append(way)
            return plain(tensor)

        monkeypatch.setattr(torch.Tensor, way, noted)
    metrics = learner._loop.read(learner.iterations, is_due=True)
    assert read == ["tolist"]
    assert metrics["lr"] == 1e-3
