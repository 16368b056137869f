"""Stages of an iteration as CUDA graphs: recorded once, then replayed without a launch from Python."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator

from operant_gpu.vector.graphs import captured, warmed_up


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
        self._stream = warmed_up(self._function, self._device)
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
