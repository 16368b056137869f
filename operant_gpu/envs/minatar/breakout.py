"""Breakout of MinAtar: return a ball with a paddle and break three rows of bricks, which come back when all are gone.

The rules are those of MinAtar (Young and Tian, 2019). The board has 10 by 10 cells.

Observation: A cell of a plane is 1 where something is.
    0: paddle
    1: ball
    2: where the ball was one step before
    3: bricks
Action: With `minimal_actions=False` the actions are MinAtar's six: nothing, left, up, right, down, fire.
    0: nothing
    1: left
    2: right
Start: The ball comes from the left or from the right edge, by chance. All bricks are there.
Reward: 1 for each brick.
End: The ball passes the paddle.
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
    sticky_action_prob: float = 0.1  # probability that the last action is taken again
    minimal_actions: bool = True  # only the actions that the game uses, not all six


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
