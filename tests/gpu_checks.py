"""What tests on a GPU share: no waiting, no allocation, capture in a graph, compilations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from operant_gpu import VecEnv

T = TypeVar("T")


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """Make every wait for the device an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def no_allocation() -> Iterator[None]:
    """Assert that PyTorch takes no memory of the device meanwhile."""
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    yield
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Collect the names of the kernels that Triton compiles meanwhile."""
    import triton

    names: list[str] = []

    def note(*_args: Any, **kwargs: Any) -> None:
        names.append(kwargs["fn"].name)

    triton.knobs.runtime.jit_post_compile_hook = note
    try:
        yield names
    finally:
        triton.knobs.runtime.jit_post_compile_hook = None


def capture(env: VecEnv, run: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
    """Capture what `run` does with the environments; return the graph and what `run` returned, all as before it."""
    start = env.state_dict()
    # Kernels are compiled and loaded before the capture.
    run()
    env.load_state_dict(start)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    env.load_state_dict(start)
    return graph, result
