"""What makes operant_gpu's Triton backend and its learner launch as on a GPU, on tensors in the host's memory."""

from __future__ import annotations

import contextlib

import torch

from operant_gpu.backends.triton import launching, prepared
from operant_gpu.backends.triton import update as triton_update
from ptx_executor.kernels import Executor
from ptx_executor.triton_driver import PtxDriver, activate


def install(executor: Executor | None = None, capability: int = 80) -> PtxDriver:
    """Run `backend="triton"` with `device="cpu"`, and the fused learner, on the executor from now on.

    Args:
        executor: What runs kernels.
        capability: The generation that they are compiled for.
    """
    # It finds by tensors what memory there is.
    prepared.address = lambda tensor: tensor
    assert not launching.INTERPRETED, "unset TRITON_INTERPRET: kernels are to be compiled"
    found = activate(executor, capability)
    torch.cuda.get_device_capability = lambda device=None: divmod(capability, 10)
    torch.cuda.device = lambda device: contextlib.nullcontext()
    launching.takes_host = True
    triton_update._programs_at_once = lambda device, fit: 6
    return found
