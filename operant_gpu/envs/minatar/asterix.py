"""Asterix of MinAtar: gather the treasures that cross eight rows and keep away from the enemies, faster and faster.

The rules are those of MinAtar (Young and Tian, 2019). The board has 10 by 10 cells.

Observation: A cell of a plane is 1 where something is.
    0: player
    1: enemies
    2: where enemies and treasures were before they moved
    3: treasures
Action: With `minimal_actions=False` there is also 5, which does nothing.
    0: nothing
    1: left
    2: up
    3: right
    4: down
Start: The player is near the middle of an empty board.
Reward: 1 for each treasure.
End: The player meets an enemy.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from operant_gpu.cuda_environment import CudaEnvironment
from operant_gpu.envs.minatar.shared import action_space, board, image, keys, validate
from operant_gpu.lang import Array, tl


class State(NamedTuple):
    player_x: tl.int32
    player_y: tl.int32
    x: Array(tl.int8, (8,))  # of what is in each row
    heading: Array(tl.int8, (8,))  # -1 or 1
    kind: Array(tl.int8, (8,))  # 0 nothing, 1 enemy, 2 treasure
    spawn_interval: tl.int32  # steps
    spawn_timer: tl.int32
    move_interval: tl.int32  # steps
    move_timer: tl.int32
    ramp_timer: tl.int32
    ramp_index: tl.int32
    last_action: tl.int32


class Params(NamedTuple):
    sticky_action_prob: float = 0.1  # probability that the last action is taken again
    difficulty_ramping: bool = True  # whether the game gets faster with time
    minimal_actions: bool = True  # only the actions that the game uses, not all six


Asterix = CudaEnvironment(
    id="MinAtar-Asterix-v1",
    source=Path(__file__).with_suffix(".cu"),
    state=State,
    params=Params,
    observation_space=image(4),
    action_space=action_space("nlurd"),
    keys=keys("nlurd"),
    validate=validate,
    draw=board("MinAtar-Asterix-v1", "4cc9f0", "ef476f", "4a4e69", "ffd166"),
)
