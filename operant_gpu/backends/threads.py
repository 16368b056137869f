"""Kernels on the CPU in parts, by as many threads as their work is worth."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


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
    others = [_pool().submit(kernel, *arguments) for arguments in parts[1:]]
    kernel(*parts[0])
    for other in others:
        other.result()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="operant_gpu")


# The threads of a pool do not live on in a forked process.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
