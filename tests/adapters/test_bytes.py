"""Adapters copy what their trainer keeps, and nothing more: as many bytes as the documentation says."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from here import ROOT
from trainers import adapter

from operant_gpu import VecEnv
from operant_gpu.adapters import ADAPTERS

pytestmark = pytest.mark.adapters

N = 64
CARTPOLE, PENDULUM = 16, 12


def sb3(actions: torch.Tensor) -> tuple[VecEnv, list[Any]]:
    env = adapter("sb3")("CartPole-v1", N, device="cpu")
    env.reset()
    obs, reward, done, _ = env.step(actions.numpy())
    # Two flags are copied, of which one is made.
    return env.env, [obs, reward, done, done]


def skrl(actions: torch.Tensor) -> tuple[VecEnv, list[Any]]:
    env = adapter("skrl")("CartPole-v1", N, device="cpu")
    env.reset()
    return env.env, list(env.step(actions)[:4])


def torchrl(actions: torch.Tensor) -> tuple[VecEnv, list[Any]]:
    env = adapter("torchrl")("CartPole-v1", N, device="cpu")
    following = env.step(env.reset().set("action", actions))["next"]
    return env.env, list(following.values())


def rsl_rl(actions: torch.Tensor) -> tuple[VecEnv, list[Any]]:
    env = adapter("rsl_rl")("Pendulum-v1", N, device="cpu")
    obs, reward, done, extras = env.step(actions[:, None].float())
    return env.env, [*obs.values(), reward, done, *extras.values()]


@pytest.mark.parametrize(
    ("step", "observation"),
    [(sb3, CARTPOLE), (skrl, CARTPOLE), (torchrl, CARTPOLE), (rsl_rl, PENDULUM)],
    ids=["sb3", "skrl", "torchrl", "rsl_rl"],
)
def test_a_step_copies_what_the_page_says(step: Callable[..., Any], observation: int) -> None:
    env, returned = step(torch.ones(N, dtype=torch.int64))
    obs, reward, terminated, truncated, _ = env.step(np.ones(env.action_space.shape, env.action_space.dtype))
    live = {tensor.untyped_storage().data_ptr() for tensor in (obs, reward, terminated, truncated)}
    tensors = [torch.as_tensor(one) for one in returned]
    copied = sum(tensor.nbytes for tensor in tensors if tensor.untyped_storage().data_ptr() not in live)
    name = ADAPTERS[step.__name__].name
    [row] = re.findall(rf"{name}.* \| observation[^+|]*\+ (\d+)[^|]*\|", (ROOT / "docs" / "migration.md").read_text())
    assert copied == N * (observation + int(row))
