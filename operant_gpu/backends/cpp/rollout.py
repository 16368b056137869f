"""Rollouts of the compiled backends on a CPU in which a network acts, by C++."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from operant_gpu.backends.base import Backend, Batch
from operant_gpu.backends.compiled import NetworkActs
from operant_gpu.backends.cpp.calls import KINDS, Rollout, Rows
from operant_gpu.backends.cpp.learner import address, library, network_of
from operant_gpu.backends.threads import FIRST_STEPS, Pieces, in_parts
from operant_gpu.errors import BackendError
from operant_gpu.memory.columns import Outputs
from operant_gpu.memory.records import CALL, GIVEN, Record, given, present, stored
from operant_gpu.memory.trajectory import NETWORK_OUTPUTS, Trajectory
from operant_gpu.mlp import MLP
from operant_gpu.spaces import Scaling

# Parts of the environments for threads: their rewards are a cache line.
_MULTIPLE = 16
_STEPS_PER_THREAD = 512
# What it writes of a trajectory itself, and reads to give values.
_STORED = ("action", *NETWORK_OUTPUTS, "final_obs", "terminated", "truncated")
# The columns that a stream's counter is made of, and what ends it.
_CLOCK = ("seed", "env_id", "episode", "elapsed", "ended")


class NetworkRollout:
    """Rollouts of a batch in which a network acts.

    Args:
        backend: Writes the first observation.
        batch: What is stepped.
        fallback: Is used where no compiler makes the kernels.
        kernel: Address of the kernel that takes a step.
        batch_address: Of the record that is the same for all its calls.
        workspace: Returns the address of the memory that a thread's kernel works in; 0 for kernels that need none.
    """

    def __init__(
        self,
        backend: Backend,
        batch: Batch,
        fallback: NetworkActs,
        kernel: int,
        batch_address: int,
        workspace: Callable[[int], int],
    ) -> None:
        self._backend, self._fallback, self._workspace = backend, fallback, workspace
        self._nobody = torch.zeros(batch.num_envs, dtype=torch.bool, device="cpu")
        self._batch, actions = batch, batch.actions
        self._pieces = Pieces(FIRST_STEPS // batch.num_envs)
        dtype = torch.int64 if actions.is_discrete else torch.float32
        self._taken = torch.zeros(batch.num_envs, *actions.shape, dtype=dtype, device="cpu")
        # For networks that draw in the environment's units, and for those that draw in their own.
        self._scalings = [
            torch.tensor(actions.scaling(scales), dtype=torch.float32, device="cpu") for scales in (False, True)
        ]
        restarts = batch.autoreset_mode is not AutoresetMode.DISABLED
        self._fixed = {
            "kernel": kernel,
            "batch": batch_address,
            "restarted": address(batch.columns.ended) if restarts else None,
            "taken": address(self._taken),
            **{name: address(getattr(batch.columns, name)) for name in _CLOCK},
        }

    def run(self, num_steps: int, policy: MLP, trajectory: Trajectory, outputs: Outputs) -> None:
        """Do as `Backend.rollout`."""
        if self._kernel is None:
            self._fallback.run(num_steps, policy, trajectory, outputs)
            return
        # The state may have been written since the last observation.
        self._backend.reset(self._nobody, outputs)
        if trajectory.final_value is not None:
            trajectory = self._with_spares(trajectory, num_steps)

        def take(first: int, count: int) -> None:
            self._take(count, first + count == num_steps, policy, trajectory.part(first, count), outputs)

        self._pieces.each(num_steps, take)

    def _take(self, num_steps: int, is_last: bool, policy: MLP, trajectory: Trajectory, outputs: Outputs) -> None:
        """Take some of a rollout's steps."""
        stepped = trajectory._replace(action=None, **dict.fromkeys(NETWORK_OUTPUTS))
        actions = dict(zip(GIVEN, given(self._taken, 0), strict=True))
        call = Record(CALL, present(outputs) | stored(stepped) | actions)
        strides = {CALL.index(name): _step(tensor) for name, tensor in stepped._asdict().items() if tensor is not None}
        moved, moves = (np.array([*numbers], np.int64) for numbers in (strides, strides.values()))
        rollout = Rollout(
            network=network_of(policy, self._batch.actions),
            num_steps=num_steps,
            is_last=is_last,
            call=call.address,
            call_size=len(CALL),
            num_moved=len(strides),
            moved=moved.ctypes.data,
            moves=moves.ctypes.data,
            obs=_rows(outputs.obs[None]),
            action_mask=_rows(None if outputs.action_mask is None else outputs.action_mask[None]),
            **{name: _rows(getattr(trajectory, name)) for name in _STORED},
            **dict(zip(Scaling._fields, map(address, self._scalings[policy.scales_actions]), strict=True)),
            **self._fixed,
        )
        roll_out = self._kernel

        def arguments(thread: int, first: int, last: int) -> tuple[Any, ...]:
            return ctypes.byref(rollout), self._workspace(thread), first, last

        if not all(in_parts(roll_out, arguments, self._batch.num_envs, num_steps, _STEPS_PER_THREAD, _MULTIPLE)):
            raise MemoryError("a rollout needs more memory than there is")

    @functools.cached_property
    def _kernel(self) -> Any:
        """The C++, or None; asked for when it is used first, since to compile it takes seconds."""
        try:
            return library().roll_out
        except BackendError:
            return None

    def _with_spares(self, trajectory: Trajectory, num_steps: int) -> Trajectory:
        """Return the trajectory with memory for what values are bootstrapped from, one step's for all."""
        num_envs, obs = self._batch.num_envs, self._batch.observations
        flag = torch.empty(1, num_envs, dtype=torch.bool, device="cpu")
        spares = {
            "terminated": flag,
            "truncated": torch.empty_like(flag),
            "final_obs": torch.empty(1, num_envs, obs.size, dtype=obs.torch_dtype, device="cpu"),
        }
        missing = {name: spare for name, spare in spares.items() if getattr(trajectory, name) is None}
        repeated = {name: spare.expand(num_steps, *spare.shape[1:]) for name, spare in missing.items()}
        return trajectory._replace(**repeated)


def _step(tensor: Tensor) -> int:
    """Return the bytes from one step to the next."""
    return tensor.stride(0) * tensor.itemsize


def _rows(tensor: Tensor | None) -> Any:
    """Return where the rows of a trajectory are."""
    if tensor is None:
        return Rows()
    return Rows(address(tensor), KINDS.get(tensor.dtype, 0), _step(tensor), *(*tensor.stride()[1:], 0)[:2])
