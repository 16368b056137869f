"""The numba backend: an environment's functions compiled to loops over blocks of columns, on all cores of a CPU."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from operant_gpu.backends.base import Batch
from operant_gpu.backends.numba_layout import COLUMN_KINDS, BatchLayout
from operant_gpu.backends.stepwise import StepwiseRollout
from operant_gpu.columns import Outputs
from operant_gpu.kernels import cpu
from operant_gpu.kernels.cpu_memory import BLOCK
from operant_gpu.mlp import MLP
from operant_gpu.trajectory import Trajectory

_ROLLOUT, _RESET = cpu.rollout.ctypes, cpu.reset.ctypes
# The fields of a call that say where given actions are.
_GIVEN = ("actions", "actions_kind", "actions_step", "actions_row", "actions_column")
_GIVEN_KINDS = {torch.int32: cpu.INT32, torch.int64: cpu.INT64, torch.float32: cpu.FLOAT32}
# Environment steps that are worth a thread of their own: to wake one takes some 20 us.
_STEPS_PER_THREAD = 16_384


class NumbaBackend:
    """Implements `Backend` on the CPU, in the memory of the batch's tensors.

    Uses as many threads as PyTorch may (`torch.set_num_threads`), for calls that are worth it.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch, self._num_envs, self._layout = batch, batch.num_envs, BatchLayout(batch)
        self._record = _Record(cpu.LAYOUT, self._layout.fields)
        self._workspaces: list[tuple[Tensor, int]] = []
        self._stepwise = StepwiseRollout(self, batch)
        self._known: tuple[Outputs | None, Any] = (None, None)

    def reset(self, mask: Tensor, outputs: Outputs) -> None:
        """Begin a new episode where `mask` holds and write every row's observation and action mask."""
        self._run(_RESET, _Record(cpu.CALL, _present(outputs)), mask.data_ptr(), 1)

    def step(self, actions: Tensor, outputs: Outputs) -> None:
        """Advance every environment by one action."""
        if self._known[0] is not outputs:
            self._known = outputs, self._call_of_step(outputs)
        call = self._known[1]
        call.words[: len(_GIVEN)] = _given(actions, 0)
        self._run(_ROLLOUT, call, 1, 1)

    def rollout(self, num_steps: int, policy: Tensor | MLP | None, trajectory: Trajectory, outputs: Outputs) -> None:
        """Take many steps, in one call unless a network acts."""
        if isinstance(policy, MLP):
            self._stepwise.run(num_steps, policy, trajectory, outputs)
            return
        values = _present(outputs)
        if policy is None:
            self._record.set("random", self._layout.random_policy)
        else:
            values |= zip(_GIVEN, _given(policy[0], policy.stride(0)), strict=True)
            if trajectory.action is not None:
                trajectory.action.copy_(policy)
            trajectory = trajectory._replace(action=None)
        self._run(_ROLLOUT, _Record(cpu.CALL, values | _stored(trajectory)), num_steps, num_steps)

    def _call_of_step(self, outputs: Outputs) -> _Record:
        """Return a step's call without its actions: a trajectory of one step."""
        names = ["reward", "terminated", "truncated"]
        if self._batch.autoreset_mode is AutoresetMode.SAME_STEP:
            names.append("final_obs")
        row = Trajectory(**{name: getattr(outputs, name)[None] for name in names})
        return _Record(cpu.CALL, _present(outputs) | _stored(row) | {"counts_late": 1})

    def _run(self, kernel: Callable[..., None], call: _Record, argument: int, num_steps: int) -> None:
        """Call a kernel on all environments, in parts by as many threads as the work is worth."""
        num_envs = self._num_envs
        threads = min(torch.get_num_threads(), num_envs * num_steps // _STEPS_PER_THREAD)
        if threads <= 1:
            kernel(self._record.address, call.address, self._workspace(0), 0, num_envs, argument)
            return
        part = -(-num_envs // (threads * BLOCK)) * BLOCK
        calls = [
            (self._record.address, call.address, self._workspace(number), first, min(first + part, num_envs), argument)
            for number, first in enumerate(range(0, num_envs, part))
        ]
        others = [_pool().submit(kernel, *arguments) for arguments in calls[1:]]
        kernel(*calls[0])
        for other in others:
            other.result()

    def _workspace(self, thread: int) -> int:
        """Return the address of the memory that a thread works in."""
        while len(self._workspaces) <= thread:
            # PyTorch's memory begins with a cache line, NumPy's may not: every other vector would lie in two.
            memory = torch.empty(self._layout.workspace_bytes, dtype=torch.int8, device="cpu")
            self._workspaces.append((memory, memory.data_ptr()))
        return self._workspaces[thread][1]


class _Record:
    """A structure of integers in memory that a kernel reads; what is not named is 0."""

    def __init__(self, fields: np.dtype[Any], values: Mapping[str, int]) -> None:
        self._names: tuple[str, ...] = fields.names or ()
        self.words = np.array([values.get(name, 0) for name in self._names], np.int64)
        self.address = int(self.words.ctypes.data)

    def set(self, name: str, value: int) -> None:
        """Change one field."""
        self.words[self._names.index(name)] = value


def _given(actions: Tensor, step_stride: int) -> tuple[int, ...]:
    """Return the fields of `_GIVEN` for the actions (num_envs, ...) of the first step."""
    row, column = (*actions.stride(), 0)[:2]
    return actions.data_ptr(), _GIVEN_KINDS[actions.dtype], step_stride, row, column


def _present(outputs: Outputs) -> dict[str, int]:
    """Return where a call writes the state's observation and action mask after the last step."""
    fields = _placed("present_obs", outputs.obs, ("row", "column"))
    if outputs.action_mask is not None:
        fields |= _placed("present_mask", outputs.action_mask, ("row", "column"))
    return fields


def _stored(trajectory: Trajectory) -> dict[str, int]:
    """Return where a call stores a trajectory."""
    fields: dict[str, int] = {}
    for name, tensor in trajectory._asdict().items():
        if tensor is not None:
            fields |= _placed("mask" if name == "action_mask" else name, tensor, ("step", "row", "column"))
    if trajectory.action is not None:
        fields["action_kind"] = COLUMN_KINDS[trajectory.action.dtype]
    return fields


def _placed(name: str, tensor: Tensor, axes: tuple[str, ...]) -> dict[str, int]:
    return {name: tensor.data_ptr()} | {f"{name}_{axis}": stride for axis, stride in zip(axes, tensor.stride())}


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="operant_gpu")


# The threads of a pool do not live on in a forked process.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
