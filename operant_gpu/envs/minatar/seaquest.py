"""Seaquest of MinAtar: pick up divers with a submarine, shoot fish and other submarines, and come up for air in time.

The rules are those of MinAtar (Young and Tian, 2019). The board has 10 by 10 cells. The submarine has air for 200 steps
and gets new air at the surface. That costs one diver.

Observation: A cell of a plane is 1 where something is.
    0: front of the submarine
    1: back of the submarine
    2: bullets of the submarine
    3: where enemies and divers were before they moved
    4: bullets of enemies
    5: fish
    6: enemy submarines
    7: gauge of the air that is left, in the lowest row
    8: gauge of the divers aboard, in the lowest row
    9: divers
Action:
    0: nothing
    1: left
    2: up
    3: right
    4: down
    5: fire
Start: The submarine is at the surface with all its air, and the sea is empty.
Reward: 1 for each enemy that is shot. Up to 10, by the air that is left, for coming up with six divers aboard.
End: Something hits the submarine, or a step begins without air, or the submarine comes up without a diver.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from operant_gpu.cuda_environment import CudaEnvironment
from operant_gpu.envs.minatar.shared import action_space, board, image, keys, validate
from operant_gpu.lang import Array, tl


class State(NamedTuple):
    x: tl.int32
    y: tl.int32
    heading: tl.int32  # -1 or 1
    oxygen: tl.int32
    crew: tl.int32
    at_surface: tl.int32
    bullets_left: Array(tl.int16, (10,))  # bit x of row y
    bullets_right: Array(tl.int16, (10,))
    enemy_bullets_left: Array(tl.int16, (10,))
    enemy_bullets_right: Array(tl.int16, (10,))
    num_enemies: tl.int32
    enemy_x: Array(tl.int8, (32,))
    enemy_y: Array(tl.int8, (32,))
    enemy_heading: Array(tl.int8, (32,))
    enemy_timer: Array(tl.int8, (32,))  # steps until it moves
    enemy_shot: Array(tl.int8, (32,))  # steps until a submarine shoots, -1 for a fish
    num_divers: tl.int32
    diver_x: Array(tl.int8, (4,))
    diver_y: Array(tl.int8, (4,))
    diver_heading: Array(tl.int8, (4,))
    diver_timer_of: Array(tl.int8, (4,))
    spawn_interval: tl.int32  # steps
    spawn_timer: tl.int32
    diver_timer: tl.int32
    move_interval: tl.int32  # steps
    ramp_index: tl.int32
    cool_down: tl.int32
    last_action: tl.int32


class Params(NamedTuple):
    sticky_action_prob: float = 0.1  # probability that the last action is taken again
    difficulty_ramping: bool = True  # whether the game gets faster with time
    minimal_actions: bool = True  # only the actions that the game uses, not all six


Seaquest = CudaEnvironment(
    id="MinAtar-Seaquest-v1",
    source=Path(__file__).with_suffix(".cu"),
    state=State,
    params=Params,
    observation_space=image(10),
    action_space=action_space("nlurdf"),
    keys=keys("nlurdf"),
    validate=validate,
    draw=board(
        "MinAtar-Seaquest-v1",
        "ffd166",
        "e09f3e",
        "ffffff",
        "34405e",
        "ef476f",
        "06d6a0",
        "b5179e",
        "4cc9f0",
        "f8f9fa",
        "f8f9fa",
    ),
)
