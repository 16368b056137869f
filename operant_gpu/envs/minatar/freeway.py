"""Freeway of MinAtar: lead a chicken across eight lanes of cars, again and again.

The rules are those of MinAtar (Young and Tian, 2019). The board has 10 by 10 cells. A car that meets the chicken sends
it back to the start. After each crossing every car gets a new speed.

Observation: A cell of a plane is 1 where something is.
    0: chicken
    1: cars
    2 to 6: where the cars were that move every 2, 3, 4, 5 and 6 steps; a plane for each of these speeds
Action: With `minimal_actions=False` the actions are MinAtar's six: nothing, left, up, right, down, fire.
    0: nothing
    1: up
    2: down
Start: The chicken is below the lanes. Each car has a random speed and direction.
Reward: 1 for each crossing.
End: 2501 steps have been taken. The episode then counts as terminated, as in MinAtar, and not as truncated.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from operant_gpu.cuda_environment import CudaEnvironment
from operant_gpu.envs.minatar.shared import action_space, board, image, keys, validate
from operant_gpu.lang import Array, tl


class State(NamedTuple):
    chicken_y: tl.int32
    x: Array(tl.int8, (8,))  # of each lane's car
    timer: Array(tl.int8, (8,))  # steps until it moves
    speed: Array(tl.int8, (8,))  # -5 to 5: steps between its moves, and where it goes
    move_timer: tl.int32
    time_left: tl.int32
    last_action: tl.int32


class Params(NamedTuple):
    sticky_action_prob: float = 0.1  # probability that the last action is taken again
    minimal_actions: bool = True  # only the actions that the game uses, not all six


Freeway = CudaEnvironment(
    id="MinAtar-Freeway-v1",
    source=Path(__file__).with_suffix(".cu"),
    state=State,
    params=Params,
    observation_space=image(7),
    action_space=action_space("nud"),
    keys=keys("nud"),
    validate=validate,
    draw=board("MinAtar-Freeway-v1", "ffd166", "ef476f", "8a3b50", "74435f", "5e4a6e", "48527d", "32598c"),
)
