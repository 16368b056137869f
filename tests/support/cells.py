"""A bench for single constructs: an environment whose step is any function over a few columns."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from operant_gpu import Environment, VecEnv
from operant_gpu.lang import jit, tl


class Cells(NamedTuple):
    """Operands, and the answers `whole` and `real`, wide enough to show where an operand overflowed or was rounded."""

    i: tl.int32
    j: tl.int32
    x: tl.float32
    y: tl.float32
    small: tl.int8
    fine: tl.float64
    whole: tl.int64
    real: tl.float64


class Settings(NamedTuple):
    doubled: bool = False
    power: int = 3
    tenth: float = 0.1


@jit
def blank(rng, params):
    return Cells(i=0, j=0, x=0.0, y=0.0, small=0, fine=0.0, whole=0, real=0.0)


@jit
def watch(state, params):
    return (state.x,)


@jit
def answer(state, whole, real):
    """Return the state with its answers filled in."""
    return Cells(state.i, state.j, state.x, state.y, state.small, state.fine, whole, real)


def environment(step: Any, **parts: Any) -> Environment:
    """Return an Environment around one function, or with other parts in place."""
    defaults = {
        "id": "Cells-v0",
        "state": Cells,
        "params": Settings,
        "reset": blank,
        "step": step,
        "observe": watch,
        "observation_space": spaces.Box(-np.inf, np.inf, (1,)),
        "action_space": spaces.Discrete(2),
    }
    return Environment(**{**defaults, **parts})


def bench(step: Any, backend: str, operands: dict[str, Any], **params: Any) -> VecEnv:
    """Return an environment whose columns hold the operands."""
    num_envs = max(np.size(values) for values in operands.values()) if operands else 1
    env = environment(step)(num_envs, device="cpu", backend=backend, **params)
    env.reset(seed=0)
    for name, values in operands.items():
        getattr(env.state, name).copy_(torch.as_tensor(values))
    return env


def run(step: Any, backend: str, operands: dict[str, Any], **params: Any) -> dict[str, np.ndarray]:
    """Take one step; return the columns and the reward after it."""
    env = bench(step, backend, operands, **params)
    _, reward, *_ = env.step(torch.zeros(env.num_envs, dtype=torch.int32))
    return {name: column.numpy() for name, column in (*env.state._asdict().items(), ("reward", reward))}
