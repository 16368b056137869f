"""CUDA graphs of what a function does: recorded once, then replayed without a launch from Python."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Generator

T = TypeVar("T")

# Those whose capture failed: PyTorch does not always undo what one of them has begun when it is collected.
_failed: list[torch.cuda.CUDAGraph] = []


def captured(
    function: Callable[[], T], stream: torch.cuda.Stream | None = None, generator: Generator | None = None
) -> tuple[torch.cuda.CUDAGraph, T]:
    """Capture what a function does on the current device; return the graph, and what the function returned.

    Args:
        function: Was called before, so that kernels are compiled and loaded. What it draws is the same at each replay.
        stream: Where it is captured; one of PyTorch's own if None.
        generator: Of its draws, which go on with each replay.

    Raises:
        Exception: What the function raised; or what CUDA said of the whole, if it did not.
    """
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    if generator is not None:
        _register(graph, generator)
    pool = torch.cuda.graph_pool_handle()
    reason: BaseException | None = None
    try:
        # Other threads may allocate meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            try:
                result = function()
            except BaseException as error:
                reason = error
                raise
    except BaseException as error:
        _failed.append(graph)
        # Until 2.13 PyTorch takes a capture that failed to be under way for good, and frees less memory meanwhile.
        with contextlib.suppress(AttributeError, RuntimeError):
            torch._C._cuda_endAllocateToPool(before.device.index, pool)
        # Of a function that failed, CUDA tells no more than that the capture did.
        raise reason or error from None
    finally:
        # A capture that fails leaves another.
        torch.cuda.set_stream(before)
    return graph, result


def _register(graph: torch.cuda.CUDAGraph, generator: Generator) -> None:
    """Have replays draw on, which newer releases of PyTorch do by themselves, and say so."""
    if hasattr(graph, "register_generator_state"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph.register_generator_state(generator)


def warmed_up(function: Callable[[], Any], device: torch.device) -> torch.cuda.Stream:
    """Call a function on a stream apart, on which it is to be captured, and return the stream.

    Kernels are then compiled, and libraries have what they allocate. Gradients are summed on the stream that first saw
    them, which has to be that of the capture.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    current = torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        function()
    current.wait_stream(stream)
    return stream


def has_graphs(device: torch.device) -> bool:
    """Tell whether a device has them."""
    return device.type == "cuda"
