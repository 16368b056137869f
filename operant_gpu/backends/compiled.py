"""What backends share whose kernels take one record of addresses and strides: numba's, C++ and CUDA."""

from __future__ import annotations

from typing import Protocol

from gymnasium.vector import AutoresetMode
from torch import Tensor

from operant_gpu.backends.base import Batch
from operant_gpu.backends.threads import FIRST_STEPS, Pieces
from operant_gpu.memory.columns import Outputs
from operant_gpu.memory.records import CALL, GIVEN, Record, given, present, stored
from operant_gpu.memory.trajectory import Trajectory
from operant_gpu.mlp import MLP


class NetworkActs(Protocol):
    """Rollouts in which a network acts."""

    def run(self, num_steps: int, policy: MLP, trajectory: Trajectory, outputs: Outputs) -> None:
        """Do as `Backend.rollout`."""


class CompiledBackend:
    """Implements `Backend` by calls of two kernels, `run_steps` and `run_reset`, which subclasses launch.

    Attributes:
        batch: What it steps.
        acting: Rollouts in which a network acts; subclasses set it.
    """

    acting: NetworkActs

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        # A caller's outputs are not kept alive.
        self._own_step = self._call_of_step(batch.outputs)
        is_on_cpu = batch.columns.seed.device.type == "cpu"
        self._pieces = Pieces(FIRST_STEPS // batch.num_envs) if is_on_cpu else None

    def run_steps(self, call: Record, num_steps: int) -> None:
        """Take steps; actions that are not given are random."""
        raise NotImplementedError

    def run_reset(self, call: Record, mask: Tensor) -> None:
        """Begin new episodes where the mask holds."""
        raise NotImplementedError

    def reset(self, mask: Tensor, outputs: Outputs) -> None:
        """Begin a new episode where `mask` holds and write every row's observation and action mask."""
        self.run_reset(Record(CALL, present(outputs)), mask)

    def step(self, actions: Tensor, outputs: Outputs) -> None:
        """Advance every environment by one action."""
        call = self._own_step if outputs is self.batch.outputs else self._call_of_step(outputs)
        call.words[: len(GIVEN)] = given(actions, 0)
        self.run_steps(call, 1)

    def rollout(self, num_steps: int, policy: Tensor | MLP | None, trajectory: Trajectory, outputs: Outputs) -> None:
        """Take many steps: on a GPU in one call unless a network acts, on a CPU in pieces."""
        if isinstance(policy, MLP):
            self.acting.run(num_steps, policy, trajectory, outputs)
            return
        if self._pieces is None:
            self._roll_out(num_steps, policy, trajectory, outputs)
            return

        def take(first: int, count: int) -> None:
            given_actions = None if policy is None else policy[first : first + count]
            self._roll_out(count, given_actions, trajectory.part(first, count), outputs)

        self._pieces.each(num_steps, take)

    def _roll_out(self, num_steps: int, policy: Tensor | None, trajectory: Trajectory, outputs: Outputs) -> None:
        values = present(outputs)
        if policy is not None:
            values |= zip(GIVEN, given(policy[0], policy.stride(0)), strict=True)
            if trajectory.action is not None:
                trajectory.action.copy_(policy)
            trajectory = trajectory._replace(action=None)
        self.run_steps(Record(CALL, values | stored(trajectory)), num_steps)

    def _call_of_step(self, outputs: Outputs) -> Record:
        """Return a step's call without its actions: a trajectory of one step."""
        names = ["reward", "terminated", "truncated"]
        if self.batch.autoreset_mode is AutoresetMode.SAME_STEP:
            names.append("final_obs")
        row = Trajectory(**{name: getattr(outputs, name)[None] for name in names})
        return Record(CALL, present(outputs) | stored(row) | {"counts_late": 1})
