"""What a backend is given and what it must do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode
from torch import Tensor

from operant_gpu.columns import Columns, Outputs
from operant_gpu.environment import Environment
from operant_gpu.spaces import ActionLayout

# What `elapsed`, an int32, can count to: without a time limit, episodes are truncated there.
NO_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Batch:
    """A batch of environments in memory: what every backend works on.

    Attributes:
        environment: The definition.
        params: Its constants.
        state: One tensor per field of the environment's `State`.
        columns: The library's own columns.
        actions: How actions lie in memory.
        max_episode_steps: The time limit, `NO_LIMIT` if there is none.
        autoreset_mode: When ended environments are reset.
    """

    environment: Environment
    params: Any
    state: Any
    columns: Columns
    actions: ActionLayout
    max_episode_steps: int
    autoreset_mode: AutoresetMode

    @property
    def num_envs(self) -> int:
        """How many environments the batch holds."""
        return self.columns.seed.shape[0]


class Backend(Protocol):
    """Steps and resets a batch in place."""

    def reset(self, mask: Tensor, outputs: Outputs) -> None:
        """Begin a new episode where `mask` (bool, (num_envs,)) holds; write every row's observation and action mask."""

    def step(self, actions: Tensor, outputs: Outputs) -> None:
        """Advance every environment by one action and write what came of it."""


def numpy_view(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return a CPU tensor's memory as an array."""
    return tensor.detach().numpy()
