"""What makes operant_gpu's Triton backend launch as on a GPU, on tensors in the host's memory.

Its backend and its learner leave out warps and options where the device is a CPU, which there means Triton's
interpreter. `install` gives them a device that is no CPU to them and does nothing.
"""

from __future__ import annotations

from typing import Any

import torch

from operant_gpu.backends import select
from operant_gpu.backends.triton import backend
from operant_gpu.backends.triton import update as triton_update
from ptx_executor.kernels import Executor
from ptx_executor.triton_driver import PtxDriver, activate


class _Device:
    """Stands for `torch.cuda.device`."""

    idx = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        pass


def install(executor: Executor | None = None, capability: int = 80) -> PtxDriver:
    """Run `backend="triton"` with `device="cpu"`, and the fused learner, on the executor from now on."""
    assert not backend.INTERPRETED, "unset TRITON_INTERPRET: kernels are to be compiled"
    found = activate(executor, capability)
    torch.cuda.get_device_capability = lambda device=None: divmod(capability, 10)
    plain = backend.TritonBackend.__init__

    def with_device(self: Any, batch: Any) -> None:
        plain(self, batch)
        self._device = _Device()

    backend.TritonBackend.__init__ = with_device
    select._check_interpreter = lambda *_: None
    launch = triton_update.launch
    triton_update.launch = lambda kernel, grid, arguments, constants, warps, device: launch(
        kernel, grid, arguments, constants, warps, _Device()
    )
    # What an A100 gives a program.
    triton_update._shared_memory = lambda device: 166_912
    triton_update._programs_at_once = lambda device, roles: 3
    return found
