"""What is compiled while a program runs: counted, and told in the log, for a first step may take seconds."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

log = logging.getLogger("operant_gpu")
_made: list[None] = []


def count() -> int:
    """Return how many programs and kernels this process has compiled, and not found on disk."""
    return len(_made)


def note() -> None:
    """Count one."""
    _made.append(None)


@contextlib.contextmanager
def told(what: str, where: Callable[[], str]) -> Iterator[None]:
    """Say in the log what the block has compiled, for what, and how long it took; nothing if it compiled nothing.

    Args:
        what: Name of what is compiled, and of the environment.
        where: Tells what it is compiled for.
    """
    before, started = count(), time.perf_counter()
    try:
        yield
    finally:
        if count() > before:
            seconds = time.perf_counter() - started
            log.info("compiled %s for %s in %.1f s", what, where(), seconds)
