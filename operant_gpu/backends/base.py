"""What a backend is given and what it must do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode
from torch import Tensor

from operant_gpu.backends.lowering.trial import Trial
from operant_gpu.memory.columns import Columns, Outputs
from operant_gpu.memory.trajectory import Trajectory
from operant_gpu.mlp import MLP
from operant_gpu.spaces import ActionLayout, ObservationLayout

# What `elapsed`, an int32, can count to: without a time limit, episodes are truncated there.
NO_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Batch:
    """A batch of environments in memory: what every backend works on.

    Attributes:
        environment: The definition, of a kind that the backend runs.
        params: Its parameters, as they were given.
        memory: Those of them that are in memory, by name: live tensors () or (num_envs,).
        tables: Its tables, a NamedTuple of live tensors.
        state: One tensor per field of the environment's `State`.
        columns: The library's own columns.
        observations: Shape and dtype of one observation.
        actions: How actions lie in memory.
        outputs: The tensors that the environments' own steps and resets write; a step may be given others.
        max_episode_steps: The time limit, `NO_LIMIT` if there is none.
        autoreset_mode: When ended environments are reset.
        trial: What came of the environment's functions.
    """

    environment: Any
    params: Any
    memory: Mapping[str, Tensor]
    tables: Any
    state: Any
    columns: Columns
    observations: ObservationLayout
    actions: ActionLayout
    outputs: Outputs
    max_episode_steps: int
    autoreset_mode: AutoresetMode
    trial: Trial

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

    def rollout(self, num_steps: int, policy: Tensor | MLP | None, trajectory: Trajectory, outputs: Outputs) -> None:
        """Take many steps, and store of them what `trajectory` has memory for.

        Bit for bit the same as single steps, but that ended environments of DISABLED mode wait without being counted.
        Of `outputs`, the observation and the action mask of the state after the last step are written.

        Args:
            num_steps: How many, at least 1.
            policy: Actions (num_steps, num_envs, ...), a network that chooses them, or None for random ones.
            trajectory: Where to store.
            outputs: As for `step`.
        """


def numpy_view(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return a CPU tensor's memory as an array."""
    return tensor.detach().numpy()
