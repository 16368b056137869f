"""SpaceInvaders of MinAtar: shoot aliens that come down row by row, and dodge their bullets.

Observation: 6 channels of 10 by 10 cells, 0 or 1: cannon, aliens, aliens that go left, aliens that go right, bullets of
the cannon, bullets of aliens.
Action: 0 nothing, 1 left, 2 right, 3 fire; with `minimal_actions=False` MinAtar's six.
Reward: 1 for each alien. A wave that is gone is followed by one that moves faster. The episode ends when a bullet or an
alien hits the cannon, or aliens land.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from operant_gpu.cuda_environment import CudaEnvironment
from operant_gpu.envs.minatar.shared import action_space, board, image, keys, validate
from operant_gpu.lang import Array, tl


class State(NamedTuple):
    cannon_x: tl.int32
    aliens: Array(tl.int16, (10,))  # bit x of row y
    bullets: Array(tl.int16, (10,))
    alien_bullets: Array(tl.int16, (10,))
    heading: tl.int32  # -1 or 1
    move_interval: tl.int32  # steps
    move_timer: tl.int32
    shot_timer: tl.int32
    cool_down: tl.int32
    last_action: tl.int32


class Params(NamedTuple):
    sticky_action_prob: float = 0.1  # of the last action being taken again
    difficulty_ramping: bool = True  # harder in time
    minimal_actions: bool = True  # those that the game knows, not all six


SpaceInvaders = CudaEnvironment(
    id="MinAtar-SpaceInvaders-v1",
    source=Path(__file__).with_suffix(".cu"),
    state=State,
    params=Params,
    observation_space=image(6),
    action_space=action_space("nlrf"),
    keys=keys("nlrf"),
    validate=validate,
    draw=board("MinAtar-SpaceInvaders-v1", "4cc9f0", "9ef01a", "70e000", "38b000", "ffffff", "ef476f"),
)
