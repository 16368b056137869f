"""The numba backend: an environment's functions compiled to loops over blocks of columns, on all cores of a CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from operant_gpu.backends.base import Batch
from operant_gpu.backends.compiled import CompiledBackend
from operant_gpu.backends.cpp.rollout import NetworkRollout
from operant_gpu.backends.numba.cache import kernels
from operant_gpu.backends.numba.record import BatchRecord
from operant_gpu.backends.stepwise import StepwiseRollout
from operant_gpu.backends.threads import in_parts
from operant_gpu.kernels.numba.memory import BLOCK
from operant_gpu.memory.records import Record

_ROLLOUT, _RESET = kernels()
_STEPS_PER_THREAD = 16_384


class NumbaBackend(CompiledBackend):
    """Implements `Backend` on the CPU, in the memory of the batch's tensors."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self._record = BatchRecord(batch)
        self._workspaces: list[tuple[Tensor, int]] = []
        stepwise = StepwiseRollout(self, batch)
        self.acting = NetworkRollout(self, batch, stepwise, _ROLLOUT.address, self._record.address, self._workspace)

    def run_steps(self, call: Record, num_steps: int) -> None:
        """Take steps; actions that are not given are random."""
        if call.words[0] == 0:
            self._record.set("random", self._record.random_policy)
        self._run(_ROLLOUT.ctypes, call, num_steps, num_steps)

    def run_reset(self, call: Record, mask: Tensor) -> None:
        """Begin new episodes where the mask holds."""
        self._run(_RESET.ctypes, call, mask.data_ptr(), 1)

    def _run(self, kernel: Callable[..., None], call: Record, argument: int, num_steps: int) -> None:
        own, address, workspace = self._record.address, call.address, self._workspace

        def arguments(thread: int, first: int, last: int) -> tuple[int, ...]:
            return own, address, workspace(thread), first, last, argument

        in_parts(kernel, arguments, self.batch.num_envs, num_steps, _STEPS_PER_THREAD, BLOCK)

    def _workspace(self, thread: int) -> int:
        """Return the address of the memory that a thread works in."""
        while len(self._workspaces) <= thread:
            # PyTorch's memory begins with a cache line, NumPy's may not: every other vector would lie in two.
            memory = torch.empty(self._record.workspace_bytes, dtype=torch.int8, device="cpu")
            self._workspaces.append((memory, memory.data_ptr()))
        return self._workspaces[thread][1]
