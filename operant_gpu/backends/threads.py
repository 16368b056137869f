"""Kernels on the CPU: in parts, by as many threads as their work is worth, and in pieces, for signals to be heeded."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch

_SECONDS_OF_PIECE = 0.25


def in_parts(
    kernel: Callable[[int, int, int], None], num_envs: int, num_steps: int, steps_per_thread: int, multiple: int
) -> None:
    """Call `kernel(thread, first, last)` for parts of the environments that together are all of them.

    Uses as many threads as PyTorch may (`torch.set_num_threads`), for calls that are worth it.

    Args:
        kernel: Works on the environments from `first` up to `last`, in the memory of thread number `thread`.
        num_envs: How many environments there are.
        num_steps: How many steps the kernel takes of each.
        steps_per_thread: Environment steps that are worth a thread of their own: to wake one takes some 20 us.
        multiple: Of how many environments parts are, but for the last.
    """
    threads = min(torch.get_num_threads(), num_envs * num_steps // steps_per_thread)
    if threads <= 1:
        kernel(0, 0, num_envs)
        return
    part = -(-num_envs // (threads * multiple)) * multiple
    parts = [(number, first, min(first + part, num_envs)) for number, first in enumerate(range(0, num_envs, part))]
    others = list[Future[None]]()
    try:
        for arguments in parts[1:]:
            others.append(_pool().submit(kernel, *arguments))
        kernel(*parts[0])
    finally:
        # Also where a signal's handler raises: all environments are then as after the same step.
        _await(others)
    for other in others:
        other.result()


def _await(others: Sequence[Future[None]]) -> None:
    """Wait for threads, whatever signals come meanwhile."""
    try:
        wait(others)
    except BaseException:
        _await(others)
        raise


class Pieces:
    """Cuts long work into pieces of some tenths of a second, between which Python heeds signals such as Ctrl-C.

    Args:
        first: Steps of the first piece; later ones go by how long steps took.
    """

    def __init__(self, first: int) -> None:
        self._first, self._seconds_of_step = max(1, first), 0.0

    def each(self, steps: int, take: Callable[[int, int], None]) -> None:
        """Call `take(first, count)` for pieces that together are all steps."""
        first, taken = 0, [0.0]
        while first < steps:
            count = int(_SECONDS_OF_PIECE / self._seconds_of_step) if self._seconds_of_step else self._first
            count = min(max(1, count), steps - first)
            before = time.perf_counter()
            take(first, count)
            self._seconds_of_step = (time.perf_counter() - before) / count
            taken.append(self._seconds_of_step)
            first += count
        # Not of the last piece: once an iteration has stopped, gradient steps take no time.
        self._seconds_of_step = max(taken)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="operant_gpu")


def begin_anew() -> None:
    """Let a forked process have threads of its own: those of its parent do not live on in it."""
    _pool.cache_clear()
    # PyTorch's operations on large tensors would wait for OpenMP's threads for ever; one thread needs no other.
    torch.set_num_threads(1)
