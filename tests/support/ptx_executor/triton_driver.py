"""A driver for Triton whose device is the executor: kernels are compiled as for a GPU and launched here.

`activate` makes it Triton's driver. Arguments then take the whole way of a launch on a GPU: Triton's own specialization
on ones and multiples of 16, its signature, and the order of parameters in the PTX. Tensors live in the host's memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime import driver

from ptx_executor.kernels import Executor, Kernel, Module, Queue

# Bytes that a program can have, by compute capability: the most of any GPU of these, and of all others.
_SHARED, _SHARED_OF_OTHERS = {75: 65_536, 80: 166_912, 90: 232_448, 100: 232_448}, 101_376


def shared_memory_of(capability: int) -> int:
    """Return how many bytes of shared memory a program can have."""
    return _SHARED.get(capability, _SHARED_OF_OTHERS)


class PtxDriver(Queue):
    """What Triton asks of a driver."""

    def __init__(self, executor: Executor, capability: int = 80) -> None:
        super().__init__(executor)
        self._capability = capability
        self.launcher_cls = self._launcher
        self.utils = self
        self._text = ""
        self._kernels: dict[str, Kernel] = {}
        knobs.runtime.kernel_load_start_hook.add(self._note_text)

    # What a launch asks for.

    def get_current_device(self) -> int:
        # Triton keeps what it has compiled by device.
        return self._capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": shared_memory_of(self._capability)}

    def unload_module(self, module: Any) -> None:
        pass

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[Any, Any, int, int, int]:
        """Return what stands for a loaded kernel: the PTX was noted right before."""
        kernel = self._kernels.get(self._text)
        if kernel is None:
            kernel = self._kernels[self._text] = Module(self._text).kernel(name)
        return kernel.module, kernel, 0, 0, 1024

    def _note_text(self, *arguments: Any, **named: Any) -> None:
        values = [*arguments, *named.values()]
        (group,) = [value for value in values if isinstance(value, dict)]
        (path,) = [Path(path) for file, path in group.items() if file.endswith(".ptx")]
        self._text = path.read_text()

    def _launcher(self, source: Any, metadata: Any) -> Any:
        signature = list(source.signature.values())

        def launched(
            x: int, y: int, z: int, stream: Any, kernel: Kernel, packed: Any, launch: Any, enter: Any, leave: Any,
            *arguments: Any,
        ) -> None:  # fmt: skip
            flat = list(flattened(signature, arguments))
            values, buffers = [], []
            for kind, value in flat:
                if isinstance(value, torch.Tensor):
                    storage = value.untyped_storage()
                    buffers.append((storage.data_ptr(), storage.nbytes(), f"argument {len(values)} ({kind})"))
                    value = value.data_ptr()
                elif kind.startswith("*") and value is not None:
                    raise TypeError(f"a pointer {value!r} that is no tensor")
                values.append(float(value) if kind.startswith("fp") else int(value))
            block, parameters = (32 * metadata.num_warps,), kernel.packed(values)
            self.launch(kernel, (x, y, z), block, parameters, buffers, metadata.shared, keep=arguments)

        return launched


def flattened(signature: Any, arguments: Any) -> Iterator[tuple[str, Any]]:
    """Return type and value of each parameter of the PTX: constants leave none."""
    for kind, value in zip(signature, arguments, strict=True):
        if isinstance(kind, tuple):
            yield from flattened(kind, value)
        elif kind != "constexpr":
            yield kind, value


def activate(executor: Executor | None = None, capability: int = 80, runs_ptxas: bool = False) -> PtxDriver:
    """Make the executor Triton's device, with the shared memory that its capability has; return its driver.

    What `ptxas` makes of the PTX is not run here, and of large blocks it takes minutes: it is left out unless asked
    for. There are no binaries in the cache then, so it is one apart, unless TRITON_CACHE_DIR names another.
    """
    if "TRITON_CACHE_DIR" not in os.environ:
        knobs.cache.dir = os.path.join(tempfile.gettempdir(), "ptx-executor")
    found = PtxDriver(executor or Executor(), capability)
    found.executor.max_shared = shared_memory_of(capability)
    if not runs_ptxas:
        CUDABackend.make_cubin = lambda self, text, metadata, options, capability: b"no binary"
    driver.set_active(found)
    return found
