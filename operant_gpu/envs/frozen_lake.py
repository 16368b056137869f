"""FrozenLake: walk over slippery ice to the goal, around holes.

The rules are those of Gymnasium's environment of the same name. The map has the letters S(tart), F(rozen), H(ole) and
G(oal). Cells are numbered row by row, from 0. `frozen_lake_map` makes both tables of rows of text.

Observation: The number of the cell that the walker is in.
Action: On slippery ice the walker goes that way with probability `success_rate`, and otherwise to one of its two sides.
    It stays where it is if it would leave the lake.
    0: to the left
    1: down
    2: to the right
    3: up
Start: A cell with S; if there are several, one of them is drawn.
Reward: 1 for reaching the goal, 0 for every other step. Parameters can change these.
End: The walker is at the goal or in a hole.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from gymnasium import spaces

from operant_gpu.arrays import length, lookup
from operant_gpu.environment import Environment
from operant_gpu.envs.drawing import draw_lake
from operant_gpu.envs.lakes import LARGE, SMALL, check_lake, frozen_lake_map
from operant_gpu.lang import Table, jit, tl
from operant_gpu.random import integers, uniform

HOLE, GOAL = map(tl.constexpr, b"HG")


class State(NamedTuple):
    row: tl.int32
    column: tl.int32


class Params(NamedTuple):
    is_slippery: bool = True  # whether the walker may slip to either side
    success_rate: float = 1 / 3  # probability that slippery ice lets the walker go where it wants to
    goal_reward: float = 1.0  # reward of a step to the goal
    hole_reward: float = 0.0  # reward of a step into a hole
    frozen_reward: float = 0.0  # reward of any other step


class Tables(NamedTuple):
    desc: Table(tl.uint8, (None, None))  # letters of the map
    starts: Table(tl.int32, (None,))  # numbers of the cells that are S


@jit
def reset(rng, params, tables):
    cell = lookup(tables.starts, integers(rng, 0, 0, length(tables.starts)))
    return State(cell // length(tables.desc, 1), cell % length(tables.desc, 1))


@jit
def step(state, action, rng, params, tables):
    aside, chance = tl.where(params.is_slippery, 0.5 * (1.0 - params.success_rate), 0.0), uniform(rng, 0)
    way = (action + tl.where(chance < aside, 3, tl.where(chance < 1.0 - aside, 0, 1))) % 4
    # Who was put into a hole, or at the goal, stays there.
    here = lookup(tables.desc, state.row, state.column)
    goes = ((here != HOLE) & (here != GOAL)).to(tl.int32)
    down, right = goes * ((way == 1).to(tl.int32) - (way == 3)), goes * ((way == 2).to(tl.int32) - (way == 0))
    row = tl.minimum(tl.maximum(state.row + down, 0), length(tables.desc) - 1)
    column = tl.minimum(tl.maximum(state.column + right, 0), length(tables.desc, 1) - 1)
    there = lookup(tables.desc, row, column)
    pay = tl.where(there == GOAL, params.goal_reward, tl.where(there == HOLE, params.hole_reward, params.frozen_reward))
    return State(row, column), goes * pay, (there == HOLE) | (there == GOAL)


@jit
def observe(state, params, tables):
    return (state.row * length(tables.desc, 1) + state.column,)


FrozenLake = Environment(
    id="FrozenLake-v1",
    state=State,
    params=Params,
    tables=Tables(**frozen_lake_map(SMALL)),
    reset=reset,
    step=step,
    observe=observe,
    observation_space=lambda params, tables: spaces.Discrete(tables.desc.size),
    action_space=spaces.Discrete(4),
    max_episode_steps=100,
    reward_threshold=0.7,
    validate=check_lake,
    draw=draw_lake,
    keys={"left": 0, "down": 1, "right": 2, "up": 3},
)
_larger = replace(FrozenLake, id="FrozenLake8x8-v1", tables=Tables(**frozen_lake_map(LARGE)))
FrozenLake8x8 = replace(_larger, max_episode_steps=200, reward_threshold=0.85)
