"""A quick look at how fast environments and training are here; `bench/` in the repository has the long one."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from operant_gpu.errors import InvalidConfig
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.models.presets import PRESETS
from operant_gpu.registry import make
from operant_gpu.vector import VecEnv

_REPEATS, _ROLLOUT, _MOST_SECONDS = 5, 64, 3600.0


class Speed(NamedTuple):
    """How fast something is.

    Attributes:
        name: What.
        sps: Environment steps a second, the median of five repeats.
        low: The slowest of them.
        high: The fastest.
    """

    name: str
    sps: float
    low: float
    high: float


def measure(id: str, num_envs: int, device: str, seconds: float = 0.3) -> tuple[VecEnv, list[Speed]]:
    """Return the environments, and the speeds of single steps, of rollouts, of training and of Gymnasium's own.

    Args:
        id: Environment.
        num_envs: How many.
        device: As `VecEnv` takes it.
        seconds: About how long one repeat takes.

    Raises:
        InvalidConfig: If an argument makes no sense.
    """
    if not 0 < seconds <= _MOST_SECONDS:
        raise InvalidConfig("seconds", f"expected a number above 0, at most {_MOST_SECONDS:g}, got {seconds:g}")
    env = make(id, num_envs, device=device)
    env.reset(seed=0)
    stored = env.rollout(1, "random", out=["action"])["action"][0].clone()
    wait = functools.partial(torch.cuda.synchronize, env.device) if env.device.type == "cuda" else lambda: None
    config = PPOConfig.for_env(id) if id in PRESETS else PPOConfig()
    learner = PPO(make(id, config.num_envs, device=device), config)
    iteration = config.n_steps * config.num_envs
    # On a GPU, the engine is known at the second iteration.
    learner.learn(2 * iteration)
    contenders: dict[str, tuple[Callable[[], Any], int]] = {
        "single steps": (lambda: env.step(stored), num_envs),
        f"rollouts of {_ROLLOUT} random steps": (lambda: env.rollout(_ROLLOUT), _ROLLOUT * num_envs),
        f"training, {config.num_envs:,} environments, {learner.engine}": (lambda: learner.learn(iteration), iteration),
    }
    if peer := _gymnasium(id, num_envs):
        contenders["Gymnasium's vector environment"] = (peer, num_envs)
    return env, [_speed(name, function, steps, wait, seconds) for name, (function, steps) in contenders.items()]


def _speed(name: str, function: Callable[[], Any], steps: int, wait: Callable[[], None], seconds: float) -> Speed:
    """Time a function of so many environment steps."""
    # Compilation, and what is captured at the second call.
    for _ in range(3):
        function()
    rates: list[float] = []
    count = 1
    while len(rates) < _REPEATS:
        wait()
        began = time.perf_counter()
        for _ in range(count):
            function()
        wait()
        took = time.perf_counter() - began
        if took < seconds / 2 and not rates:
            count = max(count + 1, int(count * seconds / max(took, 1e-6)))
            continue
        rates.append(count * steps / took)
    return Speed(name, statistics.median(rates), min(rates), max(rates))


def _gymnasium(id: str, num_envs: int) -> Callable[[], Any] | None:
    """Return a step of Gymnasium's vectorized environment of the same name, if it has one."""
    spec = gymnasium.registry.get(id)
    if spec is None or spec.vector_entry_point is None:
        return None
    env = gymnasium.make_vec(id, num_envs, vectorization_mode="vector_entry_point")
    env.reset(seed=0)
    actions = np.asarray(env.action_space.sample())
    return lambda: env.step(actions)
