"""Records: structures of 64-bit integers that tell compiled kernels where things lie, and how."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from operant_gpu.memory.columns import Outputs
from operant_gpu.memory.trajectory import Trajectory

# As `kernels/cuda/block.cuh` has them.
SAME_STEP, NEXT_STEP, DISABLED = range(3)
MODES = {
    AutoresetMode.SAME_STEP: SAME_STEP,
    AutoresetMode.NEXT_STEP: NEXT_STEP,
    AutoresetMode.DISABLED: DISABLED,
}
# How given actions lie in memory.
INT32, INT64, FLOAT32 = range(3)
_KINDS = {torch.int32: INT32, torch.int64: INT64, torch.float32: FLOAT32}
# The fields of a call that say where given actions are; they come first.
GIVEN = ("actions", "actions_kind", "actions_step", "actions_row", "actions_column")

# What one call reads and writes: addresses (0 for none), and strides in elements.
CALL = (
    *GIVEN,
    *("obs", "obs_step", "obs_row", "obs_column"),
    *("action_mask", "action_mask_step", "action_mask_row", "action_mask_column"),
    *("action", "action_kind", "action_step", "action_row", "action_column"),
    *("final_obs", "final_obs_step", "final_obs_row", "final_obs_column"),
    *("reward", "reward_step", "terminated", "terminated_step", "truncated", "truncated_step"),
    *("present_obs", "present_obs_row", "present_obs_column"),
    *("present_mask", "present_mask_row", "present_mask_column", "counts_late"),
)


@functools.cache
def record_dtype(names: tuple[str, ...]) -> np.dtype[Any]:
    """Return the structure of 64-bit integers with these fields."""
    return np.dtype([(name, np.int64) for name in names])


class Record:
    """A structure of 64-bit integers in memory that a kernel reads; what is not named is 0.

    Attributes:
        words: The memory.
        address: Where it is.
        structure: The same memory, as an array of one structure.
    """

    def __init__(self, names: tuple[str, ...], values: Mapping[str, int]) -> None:
        self._names = names
        self.words = np.array([values.get(name, 0) for name in names], np.int64)
        self.address = int(self.words.ctypes.data)
        self.structure = self.words.view(record_dtype(names))

    def set(self, name: str, value: int) -> None:
        """Change one field."""
        self.words[self._names.index(name)] = value


def given(actions: Tensor, step_stride: int) -> tuple[int, ...]:
    """Return the fields of `GIVEN` for the actions (num_envs, ...) of the first step."""
    row, column = (*actions.stride(), 0)[:2]
    return actions.data_ptr(), _KINDS[actions.dtype], step_stride, row, column


def present(outputs: Outputs) -> dict[str, int]:
    """Return where a call writes the state's observation and action mask after the last step."""
    fields = _placed("present_obs", outputs.obs, ("row", "column"))
    if outputs.action_mask is not None:
        fields |= _placed("present_mask", outputs.action_mask, ("row", "column"))
    return fields


def stored(trajectory: Trajectory) -> dict[str, int]:
    """Return where a call stores a trajectory."""
    fields: dict[str, int] = {}
    for name, tensor in trajectory._asdict().items():
        if tensor is not None:
            fields |= _placed(name, tensor, ("step", "row", "column"))
    if trajectory.action is not None:
        fields["action_kind"] = _KINDS[trajectory.action.dtype]
    return fields


def _placed(name: str, tensor: Tensor, axes: tuple[str, ...]) -> dict[str, int]:
    return {name: tensor.data_ptr()} | {f"{name}_{axis}": stride for axis, stride in zip(axes, tensor.stride())}
