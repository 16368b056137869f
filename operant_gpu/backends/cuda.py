"""The CUDA backend: a CudaEnvironment's source compiled by NVRTC, one environment a thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cupy
import numpy as np
import torch

from operant_gpu.backends.base import Batch
from operant_gpu.backends.compiled import Record
from operant_gpu.backends.cuda_base import CudaSourceBackend
from operant_gpu.backends.cuda_source import KERNELS, explained, program
from operant_gpu.errors import BackendError

_THREADS = 128


class CudaBackend(CudaSourceBackend):
    """Implements `Backend` with one launch a call on torch's current stream, and no synchronisation."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self._device: torch.device = batch.columns.seed.device
        with cupy.cuda.Device(self._device.index):
            self._kernels = kernels(batch.environment, batch.params)

    def launch(self, kernel: str, call: Record, argument: int, num_steps: int) -> None:
        """Call a kernel for all environments."""
        stream = torch.cuda.current_stream(self._device)
        grid = (-(-self.batch.num_envs // _THREADS),)
        # CuPy passes arrays of one structure by value.
        arguments = (self.record.structure, call.structure, np.int64(argument))
        with cupy.cuda.Device(self._device.index), cupy.cuda.Stream.from_external(stream):
            self._kernels[kernel](grid, (_THREADS,), arguments)


def options(environment: Any) -> tuple[str, ...]:
    """Return what NVRTC is told beside the architecture: fused multiply-add would round as no other backend does."""
    return ("--std=c++17", "--fmad=false", f"-I{Path(environment.source).resolve().parent}")


def kernels(environment: Any, params: Any) -> dict[str, Any]:
    """Return the kernels of an environment, compiled for the present device and loaded there.

    Raises:
        BackendError: If NVRTC is missing.
        InvalidConfig: If the author's file does not compile.
    """
    module = cupy.RawModule(code=program(environment, params), options=options(environment), backend="nvrtc")
    try:
        module.compile()
    except cupy.cuda.compiler.CompileException as error:
        raise explained(environment, params, str(error)) from error
    except (ImportError, OSError, RuntimeError) as error:
        if "nvrtc" not in str(error).lower():
            raise
        advice = "pip install 'operant-gpu[gpu]', or use backend='cpp' on the CPU"
        raise BackendError(f"the cuda backend needs NVRTC ({str(error).splitlines()[0]}): {advice}") from error
    return {name: module.get_function(name) for name in KERNELS}
