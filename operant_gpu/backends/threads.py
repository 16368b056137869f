"""Kernels on the CPU: in parts for several threads, and in pieces between which Python handles signals."""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from queue import Empty, SimpleQueue
from typing import Any

import torch

# Environment steps of the first piece of rollouts: few, for it is not known yet how long they take.
FIRST_STEPS = 4096
_SECONDS_OF_PIECE = 0.25
# For a call that a signal has taken from a waiting thread.
_SECONDS_OF_WAIT = 0.01


def in_parts(
    kernel: Callable[..., Any],
    arguments: Callable[[int, int, int], tuple[Any, ...]],
    num_envs: int,
    num_steps: int,
    steps_per_thread: int,
    multiple: int,
) -> Collection[Any]:
    """Call a kernel for parts of the environments that together are all of them; return what it returned.

    Uses as many threads as PyTorch may (`torch.set_num_threads`), for calls that are worth it. Where a signal's handler
    raises meanwhile, all parts are done first: between the lines below Python may heed signals, in a call of C it does
    not.

    Args:
        kernel: A function of C.
        arguments: Returns its arguments for the environments from `first` up to `last`, in the memory of thread number
            `thread`: `arguments(thread, first, last)`.
        num_envs: How many environments there are.
        num_steps: How many steps the kernel takes of each.
        steps_per_thread: Environment steps that are worth a thread of their own: to wake one takes some 20 us.
        multiple: Of how many environments parts are, but for the last.
    """
    threads = min(torch.get_num_threads(), num_envs * num_steps // steps_per_thread)
    if threads <= 1:
        return [kernel(*arguments(0, 0, num_envs))]
    part = -(-num_envs // (threads * multiple)) * multiple
    firsts = enumerate(range(0, num_envs, part))
    work = _Work(kernel, [arguments(number, first, min(first + part, num_envs)) for number, first in firsts])
    tasks = _tasks(threads - 1)
    try:
        work.offered.extend(map(tasks.put, itertools.repeat(work, len(work.parts) - 1)))
        work.help()
    finally:
        work.finish()
    if work.failures:
        raise work.failures[0]
    return work.results


class _Work:
    """Parts of some work that threads share.

    Attributes:
        parts: Arguments of each.
        results: Of those that are done.
        offered: An entry for each thread that has been asked to help.
        failures: What went wrong in those.
    """

    def __init__(self, kernel: Callable[..., Any], parts: Sequence[tuple[Any, ...]]) -> None:
        self.parts, self._kernel, self._left = parts, kernel, iter(parts)
        self.results, self.offered, self.failures = deque[Any](), deque[None](), deque[BaseException]()
        self._gone, self._woken = deque[None](), SimpleQueue[None]()

    def help(self) -> None:
        """Do parts that nobody has begun, until none is left."""
        claimed = iter(functools.partial(next, self._left, None), None)
        self.results.extend(itertools.starmap(self._kernel, claimed))

    def follow(self) -> None:
        """Help, and say when there is nothing left to do."""
        try:
            self.help()
        except BaseException as error:
            self.failures.append(error)
        self._gone.append(None)
        self._woken.put(None)

    def finish(self) -> None:
        """Wait until all is done, whatever signals come meanwhile."""
        try:
            self.help()
            while len(self.results) < len(self.parts) and len(self._gone) < len(self.offered):
                with contextlib.suppress(Empty):
                    self._woken.get(timeout=_SECONDS_OF_WAIT)
        except BaseException:
            self.finish()
            raise


@functools.cache
def _helpers() -> tuple[SimpleQueue[_Work], list[threading.Thread]]:
    return SimpleQueue(), []


def _tasks(number: int) -> SimpleQueue[_Work]:
    """Return the queue that so many threads, or more, take work from."""
    tasks, threads = _helpers()
    while len(threads) < number:
        thread = threading.Thread(target=_serve, args=(tasks,), name="operant_gpu", daemon=True)
        thread.start()
        threads.append(thread)
    return tasks


def _serve(tasks: SimpleQueue[_Work]) -> None:
    while True:
        tasks.get().follow()


class Pieces:
    """Cuts long work into pieces of some tenths of a second, between which Python heeds signals such as Ctrl-C.

    Args:
        first: Steps of the first piece; later ones go by how long steps took.
    """

    def __init__(self, first: int) -> None:
        self._first, self._slowest = first, 0.0

    def each(self, steps: int, take: Callable[[int, int], None]) -> None:
        """Call `take(first, count)` for pieces that together are all steps."""
        first, slowest = 0, 0.0
        count = int(_SECONDS_OF_PIECE / self._slowest) if self._slowest else self._first
        while first < steps:
            count, before = min(max(1, count), steps - first), time.perf_counter()
            take(first, count)
            first += count
            seconds = max(time.perf_counter() - before, 1e-9) / count
            # Some steps take no time, such as those of an iteration that has stopped.
            slowest, count = max(slowest, seconds), min(2 * count, int(_SECONDS_OF_PIECE / seconds))
        self._slowest = slowest


def begin_anew() -> None:
    """Let a forked process have threads of its own: those of its parent do not live on in it."""
    _helpers.cache_clear()
    # PyTorch's operations on large tensors would wait for OpenMP's threads for ever; one thread needs no other.
    torch.set_num_threads(1)
