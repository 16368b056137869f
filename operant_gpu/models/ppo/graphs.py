"""Stages of an iteration as CUDA graphs: recorded once, then replayed without a launch from Python."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import TypeVar

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


class Stage:
    """A function without arguments or result, which works in place on device memory.

    On a GPU the first call runs it eagerly, which compiles kernels and lets libraries allocate; the second captures it,
    and from then on it is replayed. If it cannot be captured, it runs eagerly for good.

    Args:
        function: Must do the same work on the same memory at each call, and not wait for the device.
        generator: What it draws from; replays draw on from where the generator stands.
        capture: Whether to capture, where the generator is on a GPU.

    Attributes:
        captured: Whether calls replay a graph.
        failure: Why it could not be captured; None while nothing has failed.
    """

    def __init__(self, function: Callable[[], None], generator: Generator, capture: bool) -> None:
        self._function, self._generator, self._device = function, generator, generator.device
        self._wanted, self._warm = capture and self._device.type == "cuda", False
        self._graph: torch.cuda.CUDAGraph | None = None
        self.failure: str | None = None

    @property
    def captured(self) -> bool:
        """Whether calls replay a graph."""
        return self._graph is not None

    def __call__(self) -> None:
        """Run the function once."""
        if self._graph is not None:
            self._graph.replay()
        elif not self._wanted:
            self._function()
        else:
            # PyTorch makes what belongs to a graph on the current device.
            with torch.cuda.device(self._device):
                self._capture() if self._warm else self._warm_up()

    def run_eagerly(self) -> None:
        """Capture no more, and replay nothing."""
        self._wanted, self._graph = False, None

    def _warm_up(self) -> None:
        """Run on a stream apart, as the capture will: gradients are summed on the stream that first saw them."""
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            self._function()
        current.wait_stream(self._stream)
        self._warm = True

    def _capture(self) -> None:
        drawn = [self._generator, torch.cuda.default_generators[self._device.index]]
        backups = [generator.clone_state() for generator in drawn]
        try:
            self._graph, _ = captured(self._function, self._stream, self._generator)
        except BaseException as error:
            self._wanted, self.failure = False, f"{type(error).__name__}: {error}"
            # A capture that failed leaves its generators waiting for its end.
            for generator, backup in zip(drawn, backups, strict=True):
                generator.graphsafe_set_state(backup)
            if not isinstance(error, Exception):
                raise
            self._function()
        else:
            self._graph.replay()
