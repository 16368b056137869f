"""What the two backends of a CudaEnvironment share: its records, and how they draw from a network's distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from operant_gpu.backends.base import Batch
from operant_gpu.backends.compiled import CompiledBackend, NetworkActs
from operant_gpu.backends.cuda.source import DRAW, batch_record
from operant_gpu.backends.stepwise import StepwiseRollout
from operant_gpu.memory.columns import Outputs
from operant_gpu.memory.records import Record
from operant_gpu.mlp import MLP


class CudaSourceBackend(CompiledBackend):
    """Implements `Backend` with the three kernels of a CudaEnvironment's program, which subclasses launch.

    Attributes:
        record: What is the same for every call.
    """

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self.record = Record(*batch_record(batch))
        self.acting: NetworkActs = StepwiseRollout(self, batch, self._draw)

    def launch(self, kernel: str, call: Record, argument: int, num_steps: int) -> None:
        """Call "operant_steps", "operant_reset" or "operant_draw" for all environments."""
        raise NotImplementedError

    def run_steps(self, call: Record, num_steps: int) -> None:
        """Take steps; actions that are not given are random."""
        self.launch("operant_steps", call, num_steps, num_steps)

    def run_reset(self, call: Record, mask: Tensor) -> None:
        """Begin new episodes where the mask holds."""
        self.launch("operant_reset", call, mask.data_ptr(), 1)

    def _draw(self, network: MLP, network_outputs: Tensor, outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
        batch, device = self.batch, network_outputs.device
        shape = (batch.num_envs, *batch.actions.shape)
        drawn = torch.empty(shape, dtype=torch.int64 if batch.actions.is_discrete else torch.float32, device=device)
        taken = drawn if batch.actions.is_discrete else torch.empty_like(drawn)
        log_prob = torch.empty(batch.num_envs, dtype=torch.float32, device=device)
        network_outputs = network_outputs.detach()
        fields = {
            "outputs": network_outputs.data_ptr(),
            "outputs_row": network_outputs.stride(0),
            "outputs_column": network_outputs.stride(1),
            "drawn": drawn.data_ptr(),
            "taken": taken.data_ptr(),
            "log_prob": log_prob.data_ptr(),
            "scales": int(network.scales_actions),
        }
        if network.layout.is_gaussian:
            fields["log_std"] = network.views()[-1].data_ptr()
        if outputs.action_mask is not None:
            fields["action_mask"] = outputs.action_mask.data_ptr()
            fields["action_mask_row"], fields["action_mask_column"] = outputs.action_mask.stride()
        self.launch("operant_draw", Record(DRAW, fields), 0, 1)
        return drawn, taken, log_prob
