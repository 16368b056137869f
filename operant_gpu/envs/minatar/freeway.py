"""Freeway of MinAtar: lead a chicken across eight lanes of cars, again and again, for 2501 steps.

Observation: 7 channels of 10 by 10 cells, 0 or 1: chicken, cars, and where the cars of each of five speeds were.
Action: 0 nothing, 1 up, 2 down; with `minimal_actions=False` MinAtar's six.
Reward: 1 for each crossing, after which every car changes speed. A car that meets the chicken sends it back. The
episode ends after 2501 steps, and then counts as terminated, as in MinAtar.
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
    sticky_action_prob: float = 0.1  # of the last action being taken again
    minimal_actions: bool = True  # those that the game knows, not all six


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
