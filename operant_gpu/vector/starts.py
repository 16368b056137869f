"""Episodes that begin as if steps had been taken, so that not all of a batch reach the time limit together."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from operant_gpu.backends.lowering.operations import NumpyRng
from operant_gpu.backends.lowering.programs import lower_to_numpy
from operant_gpu.lang import constexpr_value
from operant_gpu.memory.columns import Columns
from operant_gpu.random import ELAPSED_STREAM, integers


def random_steps(columns: Columns, limit: int) -> Tensor:
    """Return for each environment a number of steps below the limit, drawn for its present episode, (num_envs,) int32.

    Waits for the device.
    """
    seed, env_id, episode = (column.cpu().numpy() for column in (columns.seed, columns.env_id, columns.episode))
    rng = NumpyRng(seed, env_id, episode, np.zeros_like(episode), constexpr_value(ELAPSED_STREAM))
    return torch.from_numpy(lower_to_numpy(integers)(rng, 0, 0, limit)).to(columns.elapsed.device)
