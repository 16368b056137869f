"""Stages of an iteration as CUDA graphs: recorded once, then replayed without a launch from Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Generator

T = TypeVar("T")


def captured(function: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
    """Capture what a function does; return the graph, and what the function returned.

    Args:
        function: Was called before, so that kernels are compiled and loaded. What it draws is the same at each replay.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph):
            result = function()
    finally:
        # A capture that fails leaves another.
        torch.cuda.set_stream(stream)
    return graph, result


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
        if self._wanted and self._warm and self._graph is None:
            self._capture()
        if self._graph is not None:
            self._graph.replay()
        elif self._wanted:
            self._warm_up()
        else:
            self._function()

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
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        current = torch.cuda.current_stream(self._device)
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._function()
        except Exception as error:
            self._wanted, self.failure = False, f"{type(error).__name__}: {error}"
            # A capture that failed leaves its generators waiting for its end, and its memory pool in the allocator.
            for generator, backup in zip(drawn, backups, strict=True):
                generator.graphsafe_set_state(backup)
            self._failed_graph = graph
        else:
            self._graph = graph
        finally:
            # Nor does it restore the stream.
            torch.cuda.set_stream(current)
