"""Small tasks that show whether learning is right: each can be solved only by what it is named for."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from gymnasium import spaces

from operant_gpu import Environment
from operant_gpu.lang import jit, tl
from operant_gpu.random import integers


class Level(NamedTuple):
    level: tl.float32


@jit
def reset_level(rng, params):
    return Level(0.0)


@jit
def step_forever(state, action, rng, params):
    return state, 1.0, False


@jit
def observe_level(state, params):
    return (state.level,)


# Rewards 1 forever: worth 1 / (1 - gamma), which a critic finds only if truncation is not an end.
Forever = Environment(
    id="Forever-v0",
    state=Level,
    reset=reset_level,
    step=step_forever,
    observe=observe_level,
    observation_space=spaces.Box(-1.0, 1.0, (1,)),
    action_space=spaces.Discrete(2),
    max_episode_steps=5,
)


class Cue(NamedTuple):
    cue: tl.int32
    clock: tl.int32


class CueParams(NamedTuple):
    delay: int = 4


@jit
def reset_cue(rng, params):
    return Cue(integers(rng, 0, 0, 2), 0)


@jit
def step_cue(state, action, rng, params):
    last = state.clock >= params.delay
    reward = tl.where(last & (action == state.cue), 1.0, 0.0)
    return Cue(state.cue, state.clock + 1), reward, last


@jit
def observe_cue(state, params):
    shown = (state.clock == 0).to(tl.float32)
    return (state.cue.to(tl.float32) * 2.0 - 1.0) * shown, (state.clock == params.delay).to(tl.float32)


# The cue is shown at the first step alone, the reward is for repeating it at the last: 0.5 without memory, 1 with.
Recall = Environment(
    id="Recall-v0",
    state=Cue,
    params=CueParams,
    reset=reset_cue,
    step=step_cue,
    observe=observe_cue,
    observation_space=spaces.Box(-1.0, 1.0, (2,)),
    action_space=spaces.Discrete(2),
)


class Turn(NamedTuple):
    turn: tl.int32
    illegal: tl.int32


@jit
def reset_turn(rng, params):
    return Turn(integers(rng, 0, 0, 5), 0)


@jit
def step_turn(state, action, rng, params):
    # Tempts: illegal actions pay.
    broken = (action == state.turn) | (action == (state.turn + 1) % 5)
    turn = integers(rng, 0, 0, 5)
    return Turn(turn, state.illegal + broken.to(tl.int32)), tl.where(broken, 10.0, 0.0), False


@jit
def observe_turn(state, params):
    return (state.turn.to(tl.float32) * 0.25,)


@jit
def mask_turn(state, params):
    legal = ()
    for action in tl.static_range(5):
        legal = legal + ((state.turn != action) & ((state.turn + 1) % 5 != action),)
    return legal


# Two of five actions are illegal, another two at each step; its state counts those that were taken all the same.
Forbidden = Environment(
    id="Forbidden-v0",
    state=Turn,
    reset=reset_turn,
    step=step_turn,
    observe=observe_turn,
    action_mask=mask_turn,
    observation_space=spaces.Box(-1.0, 1.0, (1,)),
    action_space=spaces.Discrete(5),
    max_episode_steps=1_000_000,
)


class Spot(NamedTuple):
    x: tl.int32
    y: tl.int32


@jit
def reset_spot(rng, params):
    return Spot(integers(rng, 0, 0, 5), integers(rng, 1, 0, 5))


@jit
def step_spot(state, action, rng, params):
    hit = (action[0] == state.x).to(tl.float32) + (action[1] == state.y).to(tl.float32)
    return Spot(integers(rng, 0, 0, 5), integers(rng, 1, 0, 5)), hit * 0.5, False


@jit
def observe_spot(state, params):
    pixels = ()
    for row in tl.static_range(5):
        for column in tl.static_range(5):
            pixels = pixels + (((state.x == column) & (state.y == row)).to(tl.float32),)
    return pixels


@jit
def observe_screen(state, params):
    pixels = ()
    for row in tl.static_range(5):
        for column in tl.static_range(5):
            bright = ((state.x == column) & (state.y == row)).to(tl.int32)
            pixels = pixels + (40 * row + 5 * column, 200 * bright + 55, 255 * bright)
    return pixels


# An image with one bright pixel, and two choices: its column and its row.
Locate = Environment(
    id="Locate-v0",
    state=Spot,
    reset=reset_spot,
    step=step_spot,
    observe=observe_spot,
    observation_space=spaces.Box(0.0, 1.0, (1, 5, 5)),
    action_space=spaces.MultiDiscrete([5, 5]),
    max_episode_steps=10,
)
# The same in colours, as screens have them: (height, width, channels) of bytes.
Screen = dataclasses.replace(
    Locate, id="Screen-v0", observe=observe_screen, observation_space=spaces.Box(0, 255, (5, 5, 3), np.uint8)
)
