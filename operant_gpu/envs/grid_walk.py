"""GridWalk: walk to a goal on a grid.

Observation: Positions are scaled: -1 is the first column or row, 1 the last one.
    0: column of the walker
    1: row of the walker, from the top
    2: column of the goal
    3: row of the goal, from the top
Action: The walker stays where it is if it would leave the grid.
    0: one cell up
    1: one cell down
    2: one cell to the left
    3: one cell to the right
Start: Start and goal are drawn from all cells. They are never the same.
Reward: 1 for reaching the goal, -0.01 for every other step.
End: The walker is at the goal.
"""

from __future__ import annotations

from typing import NamedTuple

from gymnasium import spaces

from operant_gpu.environment import Environment
from operant_gpu.envs.drawing import draw_grid
from operant_gpu.errors import InvalidConfig
from operant_gpu.lang import jit, tl
from operant_gpu.random import integers


class State(NamedTuple):
    x: tl.int32
    y: tl.int32
    goal_x: tl.int32
    goal_y: tl.int32


class Params(NamedTuple):
    grid_size: int = 10  # cells a side


@jit
def reset(rng, params):
    cells = params.grid_size * params.grid_size
    start = integers(rng, 0, 0, cells)
    # One cell fewer, and those from the start on shifted by one: uniform over all but the start.
    goal = integers(rng, 1, 0, cells - 1)
    goal += (goal >= start).to(tl.int32)
    return State(
        x=start % params.grid_size,
        y=start // params.grid_size,
        goal_x=goal % params.grid_size,
        goal_y=goal // params.grid_size,
    )


@jit
def step(state, action, rng, params):
    right = (action == 3).to(tl.int32) - (action == 2).to(tl.int32)
    down = (action == 1).to(tl.int32) - (action == 0).to(tl.int32)
    x = tl.minimum(tl.maximum(state.x + right, 0), params.grid_size - 1)
    y = tl.minimum(tl.maximum(state.y + down, 0), params.grid_size - 1)
    terminated = (x == state.goal_x) & (y == state.goal_y)
    return State(x, y, state.goal_x, state.goal_y), tl.where(terminated, 1.0, -0.01), terminated


@jit
def observe(state, params):
    scale = 2.0 / (params.grid_size - 1)
    return state.x * scale - 1.0, state.y * scale - 1.0, state.goal_x * scale - 1.0, state.goal_y * scale - 1.0


def validate(params: Params) -> None:
    if not 2 <= params.grid_size <= 32_768:
        raise InvalidConfig("grid_size", f"expected 2 to 32768, got {params.grid_size}")


GridWalk = Environment(
    id="GridWalk-v0",
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    observation_space=spaces.Box(-1.0, 1.0, (4,)),
    action_space=spaces.Discrete(4),
    max_episode_steps=100,
    validate=validate,
    draw=draw_grid,
    keys={"up": 0, "down": 1, "left": 2, "right": 3},
)
