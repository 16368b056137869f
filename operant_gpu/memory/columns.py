"""The columns of memory that a vector environment and its backends share, one tensor each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Columns(NamedTuple):
    """What the library keeps of each environment, beside its state. Tensors of shape (num_envs,).

    `episode` and `elapsed` are the clock of the random streams, the time limit and the statistics in one.
    Sums are float64 and counts int64, so that long runs lose nothing; `episode` and `elapsed` are words of the random
    streams, of 32 bits.

    An ended episode leaves `elapsed` and `episode_return` standing until the next step, which reads them as zero
    where `ended` is set: so they serve as the statistics of the episode that ended, at no cost.
    """

    seed: Tensor  # key of the streams
    env_id: Tensor  # environment id in the streams
    episode: Tensor  # number of the present episode, -1 before the first
    elapsed: Tensor  # steps taken in the episode
    episode_return: Tensor  # sum of its rewards
    ended: Tensor  # the last step ended an episode
    log_count: Tensor  # episodes finished since the logs were cleared
    log_return: Tensor  # sum of their returns
    log_length: Tensor  # sum of their lengths
    bad_actions: Tensor  # actions out of range or not finite
    late_steps: Tensor  # steps after an episode's end (DISABLED mode)
    # (rows, num_envs) each, a row as `Definition.metric_rows` has them; None if the environment has no metrics.
    metrics: Tensor | None = None  # what they have come to in the episode; they stand as `episode_return` does
    log_metrics: Tensor | None = None  # sums of what they had come to in episodes that finished
    outside: Tensor | None = None  # the last index beyond a table, as `tables.report` takes it; None if nobody asks


class Outputs(NamedTuple):
    """What a step writes.

    Observations and action masks are (num_envs, size), with any strides; the rest is (num_envs,).
    """

    obs: Tensor  # of the observation space's dtype
    final_obs: Tensor  # likewise
    reward: Tensor  # float32
    terminated: Tensor  # bool
    truncated: Tensor  # bool
    action_mask: Tensor | None = None  # bool; None if the environment has none


COLUMN_DTYPES = {
    "seed": torch.int64,
    "env_id": torch.int32,
    "episode": torch.int32,
    "elapsed": torch.int32,
    "episode_return": torch.float64,
    "ended": torch.bool,
    "log_count": torch.int64,
    "log_return": torch.float64,
    "log_length": torch.int64,
    "bad_actions": torch.int64,
    "late_steps": torch.int64,
    "metrics": torch.float64,
    "log_metrics": torch.float64,
    "outside": torch.int64,
}
# What every environment has; the others are there if it uses them.
USUAL_COLUMNS = tuple(name for name in Columns._fields if name not in Columns._field_defaults)
