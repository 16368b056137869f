"""SpaceInvaders of MinAtar: shoot aliens that come down row by row, and dodge their bullets.

The rules are those of MinAtar (Young and Tian, 2019). The board has 10 by 10 cells. When all aliens are shot, new ones
come. With `difficulty_ramping` they move faster than those before.

Observation: A cell of a plane is 1 where something is.
    0: cannon
    1: aliens
    2: the same aliens while they move to the left
    3: the same aliens while they move to the right
    4: bullets of the cannon
    5: bullets of aliens
Action: With `minimal_actions=False` the actions are MinAtar's six: nothing, left, up, right, down, fire.
    0: nothing
    1: left
    2: right
    3: fire
Start: The cannon is near the middle of the lowest row. All aliens are there.
Reward: 1 for each alien.
End: A bullet or an alien hits the cannon, or the aliens come down once more when one is in the lowest row.
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
    sticky_action_prob: float = 0.1  # probability that the last action is taken again
    difficulty_ramping: bool = True  # whether the game gets faster with time
    minimal_actions: bool = True  # only the actions that the game uses, not all six


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
