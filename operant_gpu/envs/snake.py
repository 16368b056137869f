"""Snake: eat food and grow, and bite neither the walls nor yourself, on a board of 10 by 10 cells.

Observation: Each plane has 10 by 10 cells.
    0: 1 where the head is
    1: steps until the tail leaves a cell, divided by the length of the snake; 1 at the head
    2: 1 where the food is
Action:
    0: up
    1: down
    2: left
    3: right
Start: The snake has a length of 3, all of it in one random cell, and unfolds as it moves. Food lies in a random free
    cell.
Reward: 1 for food, -1 for a bite.
End: The snake bites a wall or itself, or it fills the board.
"""

from __future__ import annotations

from typing import NamedTuple

from gymnasium import spaces

from operant_gpu.arrays import cells, count, get, nth, put
from operant_gpu.environment import Environment
from operant_gpu.envs.drawing import draw_snake
from operant_gpu.lang import Array, jit, tl
from operant_gpu.random import integers

_SIDE = tl.constexpr(10)
_CELLS = tl.constexpr(100)
_START_LENGTH = tl.constexpr(3)


class State(NamedTuple):
    # Steps until the tail leaves a cell, 0 where the snake is not.
    body: Array(tl.int8, (10, 10))
    head: tl.int32
    food: tl.int32
    length: tl.int32


@jit
def _free_cell(rng, i: tl.constexpr, body):
    """Draw one of the cells where the snake is not; no cell at all if it is everywhere."""
    free = (body == 0) & (cells(_CELLS) < _CELLS)
    return nth(free, integers(rng, i, 0, tl.maximum(count(free), 1)))


@jit
def reset(rng, params):
    head = integers(rng, 0, 0, _CELLS)
    body = tl.where(cells(_CELLS) == head[:, None], _START_LENGTH, 0)
    return State(body, head, _free_cell(rng, 1, body), _START_LENGTH)


@jit
def step(state, action, rng, params):
    down = (action == 1).to(tl.int32) - (action == 0).to(tl.int32)
    right = (action == 3).to(tl.int32) - (action == 2).to(tl.int32)
    row, column = state.head // _SIDE + down, state.head % _SIDE + right
    inside = (row >= 0) & (row < _SIDE) & (column >= 0) & (column < _SIDE)
    head = row * _SIDE + column
    eats = inside & (head == state.food)
    # The tail leaves its cell before the head arrives, unless the snake grows.
    body = tl.where(eats[:, None], state.body, tl.maximum(state.body - 1, 0))
    length = state.length + eats.to(tl.int32)
    bites = ~inside | (get(body, head) > 0)
    body = put(body, tl.where(bites, -1, head), length)
    food = tl.where(eats, _free_cell(rng, 0, body), state.food)
    fills = length == _CELLS
    reward = eats.to(tl.float32) - bites.to(tl.float32)
    return State(body, tl.where(bites, state.head, head), food, length), reward, bites | fills


@jit
def observe(state, params):
    cell = cells(_CELLS)
    length = state.length.to(tl.float32)
    return cell == state.head[:, None], state.body / length[:, None], cell == state.food[:, None]


Snake = Environment(
    id="Snake-v0",
    state=State,
    reset=reset,
    step=step,
    observe=observe,
    observation_space=spaces.Box(0.0, 1.0, (3, 10, 10)),
    action_space=spaces.Discrete(4),
    max_episode_steps=2000,
    draw=draw_snake,
    keys={"up": 0, "down": 1, "left": 2, "right": 3},
)
