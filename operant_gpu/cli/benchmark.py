"""A quick look at how fast environments and training are here; `bench/` in the repository has the long one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from operant_gpu.cli.common import preset_size
from operant_gpu.cli.timing import Contender, race, waiter
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


def measure(
    id: str, num_envs: int, device: str, seconds: float = 0.3, params: Mapping[str, Any] | None = None
) -> tuple[VecEnv, list[Speed]]:
    """Return the environments, and the speeds of single steps, of rollouts, of training and of Gymnasium's own.

    Several processes that torchrun has started do this together, and get the sums of their speeds.

    Args:
        id: Environment.
        num_envs: How many.
        device: As `VecEnv` takes it.
        seconds: About how long one repeat takes.
        params: The environment's parameters that are not to have their default values; Gymnasium's has its own.

    Raises:
        InvalidConfig: If an argument makes no sense.
    """
    if not 0 < seconds <= _MOST_SECONDS:
        raise InvalidConfig("seconds", f"expected a number above 0, at most {_MOST_SECONDS:g}, got {seconds:g}")
    env = make(id, num_envs, device=device, params=params)
    env.reset(seed=0)
    stored = env.rollout(1, "random", out=["action"])["action"][0].clone()
    wait = waiter(env.device)
    config = PPOConfig.for_env(id, size=preset_size(id, str(env.device))[0]) if id in PRESETS else PPOConfig()
    learner = PPO(make(id, config.num_envs, device=device, params=params), config)
    size, steps = learner.processes.size, config.n_steps * config.num_envs
    # Each call of `learn` sends a few messages more.
    rounds = 1 if size == 1 else 8
    # On a GPU, the engine is known at the second iteration.
    learner.learn(2 * steps * size)
    training = f"training, {config.num_envs:,} environments, {learner.engine}"
    contenders = [
        Contender("single steps", lambda _: env.step(stored), wait, num_envs),
        Contender(f"rollouts of {_ROLLOUT} random steps", lambda _: env.rollout(_ROLLOUT), wait, _ROLLOUT * num_envs),
        Contender(training, lambda _: learner.learn(rounds * steps * size), wait, rounds * steps),
    ]
    if peer := own_vector_environment(id, num_envs):
        actions = np.asarray(peer.action_space.sample())
        contenders.append(Contender("Gymnasium's vector environment", lambda _: peer.step(actions), work=num_envs))
    processes = learner.processes
    rows = race(contenders, _REPEATS, seconds, max_seconds=math.inf, processes=processes)
    of_each = zip(*processes.gather_objects(rows), strict=True)
    speeds = ("per_second", "slowest", "fastest")
    return env, [Speed(one[0]["contender"], *(sum(row[name] for row in one) for name in speeds)) for one in of_each]


def own_vector_environment(id: str, num_envs: int) -> VectorEnv[Any, Any, Any] | None:
    """Return Gymnasium's own vectorized environment of this name, after a reset; None if it has none."""
    spec = gymnasium.registry.get(id)
    if spec is None or spec.vector_entry_point is None:
        return None
    env = gymnasium.make_vec(id, num_envs, vectorization_mode="vector_entry_point")
    env.reset(seed=0)
    return env
