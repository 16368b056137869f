"""Pixels, bytes up to 255: policies see them from 0 to 1, with their channels where convolutions want them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from learning_envs import Screen
from torch import Tensor

from operant_gpu import CheckpointError
from operant_gpu.archives import archived
from operant_gpu.models import PPO, MLPPolicy, PPOConfig, evaluate
from operant_gpu.models.policies.making import make_policy
from operant_gpu.models.policies.policy import Policy

ACTIONS = spaces.Discrete(3)


def policy_for(shape: tuple[int, ...], dtype: Any = np.uint8, high: float = 255, **changes: Any) -> Policy:
    return make_policy(spaces.Box(0, high, shape, dtype), ACTIONS, PPOConfig(**changes))


def outputs(policy: Policy, obs: Tensor) -> Tensor:
    with torch.no_grad():
        return policy(obs, None, None)[0]


def images(*shape: int) -> Tensor:
    return torch.randint(0, 256, (6, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.quick
@pytest.mark.parametrize("shape", [(3, 8, 8), (7,)], ids=str)
def test_policies_see_pixels_from_0_to_1(shape: tuple[int, ...]) -> None:
    obs = images(*shape)
    floats = policy_for(shape, np.float32, 1.0)
    assert floats.normalizer is None
    torch.testing.assert_close(outputs(policy_for(shape), obs), outputs(floats, obs / 255))


@pytest.mark.quick
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("gru_size", [0, 4])
def test_channels_may_come_last(channels: int, gru_size: int) -> None:
    last, first = (policy_for(shape, gru_size=gru_size) for shape in ((8, 6, channels), (channels, 8, 6)))
    obs = images(8, 6, channels)
    memory = (torch.zeros(6, last.state_size), torch.ones(6, dtype=torch.bool)) if gru_size else (None, None)
    found, expected = (policy.value(seen, *memory) for policy, seen in ((last, obs), (first, obs.movedim(-1, 1))))
    torch.testing.assert_close(found, expected)
    assert "ChannelsFirst()" in repr(last)
    assert "ChannelsFirst()" not in repr(first)
    assert "Scaler((8, 6, " in repr(last)
    assert "scale=0.003922, clip=1" in repr(last)


@pytest.mark.parametrize(
    ("shape", "dtype", "high"),
    [
        pytest.param((8, 8, 3), np.float32, 255, id="numbers that are no bytes"),
        pytest.param((8, 8, 3), np.uint8, 254, id="bytes that are no pixels"),
        pytest.param((3, 8, 3), np.uint8, 255, id="channels first as well"),
        pytest.param((8, 8, 5), np.uint8, 255, id="not so many channels"),
    ],
)
def test_all_else_has_its_channels_first(shape: tuple[int, ...], dtype: Any, high: int) -> None:
    policy = policy_for(shape, dtype, high, cnn_channels=(4,))
    assert policy.network.trunks[0][0].in_channels == shape[0]
    assert (policy.normalizer is None) is (dtype is np.float32 or high != 255)


def test_running_statistics_take_the_place_of_the_scale() -> None:
    policy = policy_for((3, 8, 8), normalize_observations=True)
    obs = images(3, 8, 8).float()
    policy.normalizer.update(obs)
    torch.testing.assert_close(policy.normalizer(obs).std(0, correction=0), torch.ones(3, 8, 8), rtol=0.01, atol=0)


@pytest.mark.parametrize("engine", ["fused", "eager"])
def test_kernels_see_what_the_policy_sees(engine: str) -> None:
    env = Screen(16, device="cpu")
    learner = PPO(env, PPOConfig(n_steps=8, batch_size=64, cnn_channels=(), engine=engine)).learn(1024)
    assert isinstance(learner.policy, MLPPolicy)
    stored = env.rollout(3, learner.policy, ["obs", "value"])
    assert stored["obs"].shape == (3, 16, 5, 5, 3)
    values = torch.stack([learner.policy.value(obs, None, None) for obs in stored["obs"]]).detach()
    torch.testing.assert_close(stored["value"], values, rtol=1e-5, atol=1e-5)
    # The statistics of a normalizer would have moved.
    assert (learner.policy.normalizer.scale == 1 / 255).all()


def test_convolutions_learn_from_a_screen() -> None:
    config = PPOConfig(
        total_timesteps=40_000, n_steps=32, batch_size=256, lr=3e-3, cnn_channels=(8,), hidden_sizes=(32,)
    )
    learner = PPO(Screen(32, device="cpu"), config).learn()
    # Chance finds a column and a row in 2 of 10 steps each, of half a point.
    assert evaluate(learner, 50).returns.mean() > 7


def test_a_policy_that_was_trained_on_unscaled_pixels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "learner.pt"
    PPO(Screen(4, device="cpu"), PPOConfig(cnn_channels=())).save(path)
    content = torch.load(path, weights_only=True)
    for name in ("shift", "scale"):
        del content["policy"][f"normalizer.{name}"]
    path.write_bytes(archived(content))
    with pytest.raises(CheckpointError, match=r"was trained on observations from 0 to 255.*train anew$"):
        PPO.load(path, Screen(4, device="cpu"))
