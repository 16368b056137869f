"""What makes operant_gpu's CUDA backend launch on the executor: NVRTC's PTX of the same program, CuPy's place taken.

Kernels find addresses in structures, and so no launch says what lies there. A kernel may touch the tensors of its
batch and those that the call of the backend was given or has made, from the first number of each to its last.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cupy_backends.cuda.libs import nvrtc
from torch import Tensor
from torch.overrides import TorchFunctionMode

from operant_gpu.backends import select
from operant_gpu.backends.base import Batch
from operant_gpu.backends.cuda import backend
from ptx_executor.kernels import Kernel, Module, Queue


def install(queue: Queue, patch: pytest.MonkeyPatch | None = None, capability: int = 80) -> None:
    """Run `backend="cuda"` with `device="cpu"` on the executor from now on, or until the patch is undone."""
    patch, driver = patch or pytest.MonkeyPatch(), _CudaDriver(queue)
    compile_for = backend.cubin
    patch.setattr(backend, "cubin", lambda one, params, arch: compile_for(one, params, arch.replace("sm", "compute")))
    patch.setattr(backend, "_loadable", nvrtc.getPTX)
    patch.setattr(backend, "cupy", SimpleNamespace(cuda=_cupy(driver)))
    patch.setattr(backend, "CudaBackend", _backend(driver))
    patch.setattr(select, "_check_interpreter", lambda *_: None)
    patch.setattr(torch.cuda, "get_device_capability", lambda device=None: divmod(capability, 10))
    patch.setattr(torch.cuda, "current_stream", lambda device=None: SimpleNamespace(cuda_stream=0))


def _cupy(driver: _CudaDriver) -> SimpleNamespace:
    """Return what the backend asks of `cupy.cuda`."""
    return SimpleNamespace(
        Device=lambda index: contextlib.nullcontext(),
        Stream=SimpleNamespace(from_external=lambda stream: contextlib.nullcontext()),
        function=SimpleNamespace(Module=lambda: _Loaded(driver)),
    )


@functools.cache
def _module(text: bytes) -> Module:
    return Module(text.decode())


class _Loaded:
    """Stands for `cupy.cuda.function.Module`."""

    def __init__(self, driver: _CudaDriver) -> None:
        self._driver = driver

    def load(self, text: bytes) -> None:
        self._module = _module(text)

    def get_function(self, name: str) -> Callable[..., None]:
        return functools.partial(self._driver.launch, self._module.kernel(name))


class _CudaDriver:
    """Loads and launches, and knows what kernels may touch."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._reached: list[Tensor] = []

    def launch(self, kernel: Kernel, grid: Any, block: Any, arguments: tuple[Any, ...]) -> None:
        """Launch a kernel as CuPy does, which gives a parameter the memory of a structure, or of a number."""
        packed = kernel.packed([value.tobytes() for value in arguments])
        buffers = [(tensor.data_ptr(), _extent(tensor), f"tensor {i}") for i, tensor in enumerate(self._reached)]
        self._queue.launch(kernel, grid, block, packed, buffers, keep=list(self._reached))

    @contextlib.contextmanager
    def reaching(self, batch: Batch, given: Any) -> Iterator[None]:
        """Let kernels touch a batch, what a call of the backend is given, and the tensors that are made meanwhile."""
        outer, reached = self._reached, (batch.state, batch.columns, batch.memory, batch.tables, given)
        self._reached = list(_tensors(reached))
        try:
            with _Noting(self._reached):
                yield
        finally:
            self._reached = outer


class _Noting(TorchFunctionMode):
    """Notes the tensors that PyTorch's functions return."""

    def __init__(self, noted: list[Tensor]) -> None:
        super().__init__()
        self._noted = noted

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self._noted.extend(_tensors(result))
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _extent(tensor: Tensor) -> int:
    """Return the bytes from a tensor's first number to its last."""
    if not tensor.numel():
        return 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.itemsize


def _backend(driver: _CudaDriver) -> type[backend.CudaBackend]:
    class Executed(backend.CudaBackend):
        """Says what its kernels may touch."""

        def reset(self, *given: Any) -> None:
            with driver.reaching(self.batch, given):
                super().reset(*given)

        def step(self, *given: Any) -> None:
            with driver.reaching(self.batch, given):
                super().step(*given)

        def rollout(self, *given: Any) -> None:
            with driver.reaching(self.batch, given):
                super().rollout(*given)

        def _draw(self, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
            with driver.reaching(self.batch, given):
                return super()._draw(*given)

    return Executed
