"""FrozenLake: walk over slippery ice to the goal, around holes.

After Gymnasium's environment of the same name. Tables are a map of letters, S(tart), F(rozen), H(ole) and G(oal), and
the numbers of the cells that episodes start from; `frozen_lake_map` makes both of text. Cells are numbered row by row.

Observation: the number of the walker's cell.
Action: 0 left, 1 down, 2 right, 3 up; the edge of the lake holds. On slippery ice the walker goes that way in one of
three steps, and to either side of it in the others.
Reward: 1 at the goal, 0 elsewhere. Goal and holes end the episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from operant_gpu.arrays import length, lookup
from operant_gpu.environment import Environment
from operant_gpu.envs.drawing import draw_lake
from operant_gpu.errors import InvalidConfig
from operant_gpu.lang import Table, jit, tl
from operant_gpu.random import integers, uniform

START, HOLE, GOAL = map(tl.constexpr, b"SHG")


class State(NamedTuple):
    row: tl.int32
    column: tl.int32


class Params(NamedTuple):
    is_slippery: bool = True
    success_rate: float = 1 / 3  # how often slippery ice leads where the walker wants to
    goal_reward: float = 1.0
    hole_reward: float = 0.0
    frozen_reward: float = 0.0


class Tables(NamedTuple):
    desc: Table(tl.uint8, (None, None))
    starts: Table(tl.int32, (None,))


@jit
def reset(rng, params, tables):
    cell = lookup(tables.starts, integers(rng, 0, 0, length(tables.starts)))
    return State(cell // length(tables.desc, 1), cell % length(tables.desc, 1))


@jit
def step(state, action, rng, params, tables):
    rate = tl.where(params.is_slippery, params.success_rate, 1.0)
    aside, chance = 0.5 * (1.0 - rate), uniform(rng, 0)
    way = (action + tl.where(chance < aside, 3, tl.where(chance < aside + rate, 0, 1))) % 4
    here = lookup(tables.desc, state.row, state.column)
    goes = (here != HOLE) & (here != GOAL)
    down = (goes & (way == 1)).to(tl.int32) - (goes & (way == 3)).to(tl.int32)
    right = (goes & (way == 2)).to(tl.int32) - (goes & (way == 0)).to(tl.int32)
    row = tl.clamp(state.row + down, 0, length(tables.desc) - 1)
    column = tl.clamp(state.column + right, 0, length(tables.desc, 1) - 1)
    there = lookup(tables.desc, row, column)
    reward = tl.where(
        there == GOAL, params.goal_reward, tl.where(there == HOLE, params.hole_reward, params.frozen_reward)
    )
    return State(row, column), tl.where(goes, reward, 0.0), (there == HOLE) | (there == GOAL)


@jit
def observe(state, params, tables):
    return (state.row * length(tables.desc, 1) + state.column,)


def frozen_lake_map(rows: Sequence[str]) -> dict[str, Any]:
    """Return the tables of a map: `make("FrozenLake-v1", **frozen_lake_map(["SFH", "FFG"]))`."""
    text = "".join(rows)
    return {"desc": rows, "starts": [cell for cell, letter in enumerate(text) if letter == "S"] or [-1]}


def validate(params: Any, tables: Any) -> None:
    if not 0 <= params.success_rate <= 1:
        raise InvalidConfig("success_rate", f"expected a number from 0 to 1, got {params.success_rate}")
    if unknown := set(bytes(tables.desc)) - set(b"SFHG"):
        raise InvalidConfig("desc", f"expected the letters S, F, H and G, got {bytes(sorted(unknown)).decode()!r}")
    starts = np.flatnonzero(tables.desc == START.value)
    if not np.array_equal(np.unique(tables.starts), starts):
        message = f"expected the cells that are S, {starts.tolist()}: `frozen_lake_map` gives them"
        raise InvalidConfig("starts", f"{message}, got {tables.starts.tolist()}")


def _lake(id: str, rows: list[str], max_episode_steps: int, reward_threshold: float) -> Environment:
    return Environment(
        id=id,
        state=State,
        params=Params,
        tables=Tables(**frozen_lake_map(rows)),
        reset=reset,
        step=step,
        observe=observe,
        observation_space=lambda params, tables: spaces.Discrete(tables.desc.size),
        action_space=spaces.Discrete(4),
        max_episode_steps=max_episode_steps,
        reward_threshold=reward_threshold,
        validate=validate,
        draw=draw_lake,
        keys={"left": 0, "down": 1, "right": 2, "up": 3},
    )


FrozenLake = _lake("FrozenLake-v1", ["SFFF", "FHFH", "FFFH", "HFFG"], 100, 0.7)
_LARGE = ["SFFFFFFF", "FFFFFFFF", "FFFHFFFF", "FFFFFHFF", "FFFHFFFF", "FHHFFFHF", "FHFFHFHF", "FFFHFFFG"]
FrozenLake8x8 = _lake("FrozenLake8x8-v1", _LARGE, 200, 0.85)
