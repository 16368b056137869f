"""Environments whose only business is to draw random numbers and to show them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from operant_gpu import Environment, VecEnv
from operant_gpu.lang import jit, tl
from operant_gpu.random import integers, normal, philox_words, uniform

ANYTHING = spaces.Box(-np.inf, np.inf, (1,))


class Words(NamedTuple):
    w0: tl.int64
    w1: tl.int64
    w2: tl.int64
    w3: tl.int64


@jit
def words(rng, block):
    w0, w1, w2, w3 = philox_words(rng, block)
    return Words(w0.to(tl.int64), w1.to(tl.int64), w2.to(tl.int64), w3.to(tl.int64))


@jit
def reset_words(rng, params):
    return words(rng, 0)


@jit
def step_words(state, action, rng, params):
    return words(rng, 0), 0.0, False


@jit
def observe_first_word(state, params):
    return (state.w0.to(tl.float32),)


PhiloxWords = Environment(
    id="PhiloxWords-v0",
    state=Words,
    reset=reset_words,
    step=step_words,
    observe=observe_first_word,
    observation_space=ANYTHING,
    action_space=spaces.Discrete(1),
)


class Draws(NamedTuple):
    """Ten draws of one kind each; `low` and `high` bound the integers."""

    low: tl.int32
    high: tl.int32
    whole: tl.int32
    u0: tl.float32
    u1: tl.float32
    u2: tl.float32
    u3: tl.float32
    u4: tl.float32
    u5: tl.float32
    u6: tl.float32
    u7: tl.float32
    u8: tl.float32
    u9: tl.float32
    scaled: tl.float32
    n0: tl.float32
    n1: tl.float32
    n2: tl.float32
    n3: tl.float32
    n4: tl.float32
    n5: tl.float32


@jit
def draw_all(low, high, rng):
    return Draws(
        low=low,
        high=high,
        whole=integers(rng, 0, low, high),
        u0=uniform(rng, 0),
        u1=uniform(rng, 1),
        u2=uniform(rng, 2),
        u3=uniform(rng, 3),
        u4=uniform(rng, 4),
        u5=uniform(rng, 5),
        u6=uniform(rng, 6),
        u7=uniform(rng, 7),
        u8=uniform(rng, 8),
        u9=uniform(rng, 9),
        scaled=uniform(rng, 0, -3.0, 5.0),
        n0=normal(rng, 0),
        n1=normal(rng, 1),
        n2=normal(rng, 2),
        n3=normal(rng, 3),
        n4=normal(rng, 4),
        n5=normal(rng, 5),
    )


@jit
def reset_draws(rng, params):
    return draw_all(0, 2, rng)


@jit
def step_draws(state, action, rng, params):
    return draw_all(state.low, state.high, rng), 0.0, False


@jit
def observe_draw(state, params):
    return (state.u0,)


AllDraws = Environment(
    id="AllDraws-v0",
    state=Draws,
    reset=reset_draws,
    step=step_draws,
    observe=observe_draw,
    observation_space=ANYTHING,
    action_space=spaces.Discrete(1),
)

UNIFORMS = [f"u{i}" for i in range(10)]
NORMALS = [f"n{i}" for i in range(6)]


def started(environment: Environment, num_envs: int, backend: str = "numpy", seed: int = 0, first: int = 0) -> VecEnv:
    env = environment(num_envs, device="cpu", backend=backend, first_env_id=first)
    env.reset(seed=seed)
    return env


def step(env: VecEnv) -> None:
    env.step(torch.zeros(env.num_envs, dtype=torch.int32))


def columns(env: VecEnv) -> dict[str, np.ndarray]:
    """Return copies of the state's columns."""
    return {name: column.numpy().copy() for name, column in env.state._asdict().items()}
