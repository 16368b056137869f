"""The best action of a Box is learned as soon in any units: by the eager engine, and fused in C++ and in Triton."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from here import HAS_TRITON
from learning_envs import Level, observe_level, reset_level

from operant_gpu import Environment, VecEnv
from operant_gpu.lang import jit
from operant_gpu.models import PPO, PPOConfig

INF = math.inf
# In the policy's units, in which deviations are 1 at first: where the best action is, and how near counts as found.
BEST, NEAR = (0.4, -0.6), 0.1
ENVS = 64
# Bounds, and the units that best actions are counted in: those of the bounds, where they are finite.
BOXES: dict[str, tuple[list[float], list[float], list[float], list[float]]] = {
    "unit": ([-1, -1], [1, 1], [0, 0], [1, 1]),
    "far": ([100, 100], [200, 200], [150, 150], [50, 50]),
    "narrow": ([-0.01, -0.01], [0.01, 0.01], [0, 0], [0.01, 0.01]),
    "uneven": ([0, -5], [1, 1000], [0.5, 497.5], [0.5, 502.5]),
    "half bounded": ([-1, -INF], [INF, 1], [0, 0], [1, 1]),
    "unbounded": ([-INF, -INF], [INF, INF], [0, 0], [1, 1]),
}
FINITE = ("far", "narrow", "uneven")
every_engine = pytest.mark.parametrize("engine", ["fused"] if HAS_TRITON else ["eager", "fused"])


class Target(NamedTuple):
    x: float = 0.0
    y: float = 0.0
    x_unit: float = 1.0
    y_unit: float = 1.0


@jit
def step(state, action, rng, params):
    x, y = (action[0] - params.x) / params.x_unit, (action[1] - params.y) / params.y_unit
    return state, -x * x - y * y, True


def aim(name: str) -> VecEnv:
    """Return episodes of one step, rewarded for how near the action is to the best."""
    low, high, center, unit = BOXES[name]
    made = Environment(
        id=f"Aim{name.title().replace(' ', '')}-v0",
        state=Level,
        params=Target,
        reset=reset_level,
        step=step,
        observe=observe_level,
        observation_space=spaces.Box(-1.0, 1.0, (1,)),
        action_space=spaces.Box(np.array(low, np.float32), np.array(high, np.float32)),
        max_episode_steps=1,
    )
    x, y = (middle + radius * best for middle, radius, best in zip(center, unit, BEST, strict=True))
    places = {"x": x, "y": y, "x_unit": unit[0], "y_unit": unit[1]}
    return made(ENVS, device="cpu", backend="triton" if HAS_TRITON else "auto", **places)


def steps_to_find(name: str, engine: str, seed: int) -> float:
    """Train until the mean is near the best action in each component; return the steps that it took."""
    settings = {"n_steps": 4, "batch_size": 128, "n_epochs": 2, "hidden_sizes": (4,), "lr": 1e-2, "vf_coef": 0.1}
    learner = PPO(aim(name), PPOConfig(**settings, seed=seed, engine=engine, total_timesteps=60 * 4 * ENVS))
    assert learner.engine == engine
    _, _, center, unit = map(torch.tensor, BOXES[name])
    found: list[float] = []

    def is_looking(metrics: dict[str, float]) -> bool:
        away = (learner.predict(torch.zeros(1)) - center) / unit - torch.tensor(BEST)
        if away.abs().max() < NEAR:
            found.append(metrics["timesteps"])
        return not found

    learner.learn(callback=is_looking)
    return found[0] if found else INF


@pytest.mark.parametrize("name", [name for name in BOXES if name != "unit"])
@every_engine
def test_the_best_action_of_any_box_is_found(name: str, engine: str) -> None:
    if HAS_TRITON and name != "uneven":
        pytest.skip("compiled kernels take a while: one box, and all in the test below")
    assert steps_to_find(name, engine, seed=1) < INF


@pytest.mark.thorough
@every_engine
def test_it_is_found_as_soon_in_any_units(engine: str, record_property: Callable[[str, object], None]) -> None:
    medians = {name: statistics.median(steps_to_find(name, engine, seed) for seed in range(5)) for name in BOXES}
    record_property("summary", f"steps to the best action, {engine}: {medians}")
    # Where nothing is clipped, what was drawn tells more.
    assert all(median <= 1.15 * medians["unit"] for median in medians.values())
    assert all(medians[name] >= 0.85 * medians["unit"] for name in FINITE)
