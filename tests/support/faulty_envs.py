"""Environments that go wrong: a division by zero, a root of a negative number, an overflow; physics and boards."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gymnasium import spaces

from operant_gpu import Environment
from operant_gpu.arrays import cells, get
from operant_gpu.lang import Array, jit, tl
from operant_gpu.metrics import Sum
from operant_gpu.random import uniform

WIDTH = tl.constexpr(3)


class BallState(NamedTuple):
    height: tl.float32
    speed: tl.float32
    heat: tl.float32


class BallParams(NamedTuple):
    kind: int = 0
    drag: float = 0.1


class BallMetrics(NamedTuple):
    way: Sum = 0.0


@jit
def drag_of(speed, params):
    root = tl.sqrt(speed + 1.0)
    return params.drag * root


@jit
def ball_reset(rng, params):
    return BallState(uniform(rng, 0, 4.0, 8.0), 0.0, 1.0)


@jit
def ball_step(state, action, rng, params):
    push = action - 1.0
    speed, heat = state.speed + 0.0, state.heat + 0.0
    if params.kind == 0:
        # At a height of exactly 0.
        share = 1.0 / state.height
        speed += 0.01 * share
    elif params.kind == 1:
        speed -= drag_of(speed, params)
    else:
        heat = tl.exp(state.heat * 40.0)
    height = tl.maximum(state.height + push + uniform(rng, 1, -0.2, 0.2), 0.0)
    speed = speed + push
    return BallState(height, speed, heat), height * 1.0, height > 40.0, BallMetrics(push)


@jit
def ball_observe(state, params):
    return state.height, state.speed, state.heat


# Kind 0 divides by a height that reaches zero, 1 takes the root of a speed that falls below -1, 2 overflows in heat.
Ball = Environment(
    id="Ball-v0",
    state=BallState,
    params=BallParams,
    metrics=BallMetrics,
    reset=ball_reset,
    step=ball_step,
    observe=ball_observe,
    observation_space=spaces.Box(-np.inf, np.inf, (3,)),
    action_space=spaces.Discrete(3),
    max_episode_steps=30,
)


class PlatesState(NamedTuple):
    heights: Array(tl.float32, (3,))
    place: tl.int32


class PlatesParams(NamedTuple):
    kind: int = 0


@jit
def plates_reset(rng, params):
    return PlatesState(cells(WIDTH) * 0.0 + 1.0, 0)


@jit
def plates_step(state, action, rng, params):
    place = (state.place + action) % WIDTH
    chosen = cells(WIDTH) == place[:, None]
    here = get(state.heights, place)
    if params.kind == 0:
        shares = state.heights / (here[:, None] - 0.25 * action[:, None])
    elif params.kind == 1:
        shares = tl.sqrt(state.heights - 0.3 * (1 - action)[:, None])
    else:
        shares = state.heights * tl.exp(state.heights * 20.0)
    heights = tl.where(chosen, state.heights * 0.5, shares)
    return PlatesState(heights, place), tl.max(heights, 1), here > 100.0


@jit
def plates_observe(state, params):
    return (state.heights,)


# Kind 0 divides by zero where a height was halved twice, 1 takes the root of a height that fell, 2 overflows in a few
# steps.
Plates = Environment(
    id="Plates-v0",
    state=PlatesState,
    params=PlatesParams,
    reset=plates_reset,
    step=plates_step,
    observe=plates_observe,
    observation_space=spaces.Box(-np.inf, np.inf, (3,)),
    action_space=spaces.Discrete(2),
)
