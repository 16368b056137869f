"""What lets programs for GPUs run on the executor: for them "cuda" is the host's memory.

Environments made for "cuda", or for "auto", have the device "cpu" and the backend "triton", or "cuda" where CuPy is.
What asks whether there is a GPU is told so. Graphs replay what they captured: kernels of backends, and nothing else.
What there is no stand-in for fails as in PyTorch without CUDA: the allocator's counts, clocks.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from triton import runtime

from operant_gpu.backends import select
from operant_gpu.vector import graphs
from ptx_executor.triton_driver import PtxDriver

# By this object, environments that were made for "cuda" are told from those that were made for a CPU.
_HOST = torch.device("cpu")


def _is_cuda(device: Any) -> bool:
    return device is _HOST or str(device).startswith("cuda")


class _OnHost(TorchFunctionMode):
    """Has PyTorch's functions take the CPU for "cuda"."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_cuda(kwargs.get("device")):
            kwargs = {**kwargs, "device": "cpu"}
        if function is torch.Tensor.to:
            args = (args[0], *("cpu" if _is_cuda(x) else x for x in args[1:]))
        return function(*args, **kwargs)


class _Refusing(TorchDispatchMode):
    """Refuses what PyTorch computes while a graph is captured: a replay would leave it out."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not function.is_view and not function.name().startswith(("aten::empty", "aten::detach")):
            raise NotImplementedError(f"{function} while a graph is captured: here it holds kernels of backends alone")
        return function(*args, **(kwargs or {}))


class _Stream:
    """Stands for `torch.cuda.Stream`: all have launches done in the order in which they come, so none has to wait."""

    cuda_stream = 0

    def __init__(self, device: Any = None) -> None:
        self.device = torch.device("cuda", 0)

    def wait_stream(self, other: Any) -> None:
        """Wait for nothing."""


@contextlib.contextmanager
def _current(streams: list[Any], stream: Any) -> Iterator[None]:
    streams.append(stream)
    yield
    streams.pop()


class Graph:
    """Stands for `torch.cuda.CUDAGraph`: the kernels that were launched while it was captured, in order."""

    def __init__(self) -> None:
        self.launches: list[Callable[[], None]] = []

    def replay(self) -> None:
        """Launch them."""
        for launch in self.launches:
            launch()


def pretend(patch: pytest.MonkeyPatch | None = None) -> None:
    """Do so from now on, or until the patch is undone, with what `operant.install` made Triton's driver.

    The mode of PyTorch's functions stays.
    """
    patch, driver = patch or pytest.MonkeyPatch(), runtime.driver.active
    assert isinstance(driver, PtxDriver), "call ptx_executor.operant.install() first"
    if importlib.util.find_spec("cupy") is not None:
        from ptx_executor import cuda_driver

        cuda_driver.install(driver, patch, driver.get_current_target().arch)
    _OnHost().__enter__()
    patch.setattr(torch.Tensor, "cuda", lambda self, *_, **__: self)
    plain_to = torch.nn.Module.to
    patch.setattr(
        torch.nn.Module,
        "to",
        lambda self, *args, **named: plain_to(self, *("cpu" if _is_cuda(x) else x for x in args), **named),
    )
    streams = [_Stream()]
    capability = driver.get_current_target().arch
    properties = SimpleNamespace(
        name=f"PTX executor, sm_{capability}",
        major=capability // 10,
        minor=capability % 10,
        # As few as the learner is told of: what fills them is soon done.
        multi_processor_count=3,
        total_memory=2**32,
    )

    @contextlib.contextmanager
    def capturing(graph: Graph, **_: Any) -> Iterator[None]:
        driver.captured = graph.launches
        try:
            with _Refusing():
                yield
        finally:
            driver.captured = None

    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda device=None: properties.name,
        "get_device_capability": lambda device=None: (properties.major, properties.minor),
        "get_device_properties": lambda device=None: properties,
        "synchronize": lambda device=None: None,
        "Stream": _Stream,
        "stream": lambda stream: _current(streams, stream),
        "current_stream": lambda device=None: streams[-1],
        "set_stream": lambda stream: None,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: None,
        "graph_pool_handle": lambda: (0, 1),
        "CUDAGraph": Graph,
        "graph": capturing,
    }
    for name, answer in answers.items():
        patch.setattr(torch.cuda, name, answer)
    patch.setattr(graphs, "has_graphs", lambda device: device is _HOST)
    resolve = select.resolve

    def resolved(environment: Any, params: Any, device: Any, backend: str) -> Any:
        on_gpu = select.backends_of(environment)[0]
        if _is_cuda(device) or (device == "auto" and backend in ("auto", on_gpu)):
            return _HOST, resolve(environment, params, "cpu", on_gpu)[1]
        return resolve(environment, params, device, backend)

    patch.setattr(select, "resolve", resolved)
