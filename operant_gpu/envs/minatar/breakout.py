"""Breakout of MinAtar: return a ball with a paddle and break three rows of bricks, which come back when all are gone.

Observation: 4 channels of 10 by 10 cells, 0 or 1: paddle, ball, where the ball was, bricks.
Action: 0 nothing, 1 left, 2 right; with `minimal_actions=False` MinAtar's six.
Reward: 1 for each brick. The episode ends when the ball passes the paddle.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from operant_gpu.cuda_environment import CudaEnvironment
from operant_gpu.envs.minatar.shared import action_space, board, image, keys, validate
from operant_gpu.lang import tl


class State(NamedTuple):
    ball_x: tl.int32
    ball_y: tl.int32
    velocity_x: tl.int32
    velocity_y: tl.int32
    last_x: tl.int32
    last_y: tl.int32
    paddle: tl.int32
    bricks: tl.int32
    strike: tl.int32
    last_action: tl.int32


class Params(NamedTuple):
    sticky_action_prob: float = 0.1  # of the last action being taken again
    minimal_actions: bool = True  # those that the game knows, not all six


Breakout = CudaEnvironment(
    id="MinAtar-Breakout-v1",
    source=Path(__file__).with_suffix(".cu"),
    state=State,
    params=Params,
    observation_space=image(4),
    action_space=action_space("nlr"),
    keys=keys("nlr"),
    validate=validate,
    draw=board("MinAtar-Breakout-v1", "4cc9f0", "ffffff", "6c7a96", "f4845f"),
)
