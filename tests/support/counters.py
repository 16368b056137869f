"""Environments that count, here and in Gymnasium: what they return can be worked out, so trainers' records compare.

Of three side by side, one ends by termination, one by termination and time in the same step, and one by time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from operant_gpu import Environment
from operant_gpu.lang import jit, tl
from operant_gpu.metrics import Sum

ENDS, LIMIT = (3.0, 5.0, 50.0), 5
SPACES = {"Tally-v0": spaces.Discrete(2, start=5), "TallyBox-v0": spaces.Box(-1.0, 1.0, (1,))}


class TallyState(NamedTuple):
    count: tl.float32


class TallyParams(NamedTuple):
    end: float = 3.0


class TallyMetrics(NamedTuple):
    pushed: Sum = 0.0


@jit
def reset(rng, params):
    return TallyState(0.0)


@jit
def step(state, action, rng, params):
    count = state.count + 1
    return TallyState(count), 0.25 * count + action, count >= params.end, TallyMetrics(pushed=action)


@jit
def box_step(state, action, rng, params):
    (push,) = action
    count = state.count + 1
    return TallyState(count), 0.25 * count + push, count >= params.end, TallyMetrics(pushed=push)


@jit
def observe(state, params):
    return state.count, params.end


Tally, TallyBox = (
    Environment(
        id=name,
        state=TallyState,
        params=TallyParams,
        reset=reset,
        step=function,
        observe=observe,
        observation_space=spaces.Box(0.0, 100.0, (2,)),
        action_space=SPACES[name],
        max_episode_steps=LIMIT,
        metrics=TallyMetrics,
    )
    for name, function in (("Tally-v0", step), ("TallyBox-v0", box_step))
)


NAMES = {"Tally-v0": Tally, "TallyBox-v0": TallyBox}


class TallyEnv(gymnasium.Env[Any, Any]):
    """The same in Gymnasium. Actions of Discrete are counted from 0: some trainers know no other."""

    observation_space = spaces.Box(0.0, 100.0, (2,))

    def __init__(self, name: str, end: float) -> None:
        self._start = getattr(SPACES[name], "start", 0)
        self.action_space = spaces.Discrete(2) if self._start else SPACES[name]
        self._end = end

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._count = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._count += 1
        reward = 0.25 * self._count + float(np.asarray(action).item()) + float(self._start)
        return self._obs(), reward, self._count >= self._end, False, {}

    def _obs(self) -> Any:
        return np.array([self._count, self._end], np.float32)


def peers(name: str) -> list[Callable[[], Any]]:
    """Return what makes Gymnasium's environments, with their time limit."""
    return [lambda end=end: TimeLimit(TallyEnv(name, end), LIMIT) for end in ENDS]


def settings() -> dict[str, Any]:
    """Return the arguments for the same environments here."""
    return {"num_envs": len(ENDS), "end": torch.tensor(ENDS), "device": "cpu"}


def choices(name: str, steps: int, seed: int = 0) -> np.ndarray:
    """Return actions of each step, (steps, 3) whole numbers from 0, or (steps, 3, 1) numbers of a Box."""
    rng, shape = np.random.default_rng(seed), (steps, len(ENDS))
    return rng.integers(0, 2, shape) if name == "Tally-v0" else rng.uniform(-1, 1, (*shape, 1)).astype(np.float32)


def scripted(name: str, steps: int) -> Callable[[Any], Any]:
    """Return a policy of TorchRL's that takes these actions in any environment."""
    actions = iter(choices(name, steps))
    return lambda tensordict: tensordict.set("action", torch.from_numpy(next(actions)).to(tensordict.device))
