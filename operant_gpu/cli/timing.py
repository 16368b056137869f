"""Timing of contenders that take turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from operant_gpu.processes import ALONE, Processes

# A benchmark of many contenders leaves out one that needs longer for one call.
MAX_SECONDS = 2.0


@dataclass
class Contender:
    """One way to do some work again and again.

    Attributes:
        name: What the table calls it.
        call: `call(i)` does the work number i.
        wait: Returns once all is done.
        work: How many units one call does, such as environment steps.
        notes: What else the report should keep of it.
    """

    name: str
    call: Callable[[int], Any]
    wait: Callable[[], None] = lambda: None
    work: int = 1
    notes: dict[str, Any] | None = None


def race(
    contenders: Iterable[Contender],
    repeats: int,
    seconds: float,
    max_seconds: float = MAX_SECONDS,
    processes: Processes = ALONE,
) -> list[dict[str, Any]]:
    """Return a row for each contender: units a second at the median of interleaved repeats, slowest and fastest.

    Args:
        contenders: Who takes part.
        repeats: Turns of each.
        seconds: About how long a turn takes.
        max_seconds: A contender that needs longer for one call is left out.
        processes: Those that do this together, each with as many calls.
    """
    everybody = list(contenders)
    own = {contender.name: calibrate(contender, seconds, max_seconds) for contender in everybody}
    calls = processes.first(lambda: own)
    runners = [contender for contender in everybody if calls[contender.name]]
    times: dict[str, list[float]] = {contender.name: [] for contender in runners}
    for _ in range(repeats):
        for contender in runners:
            times[contender.name].append(timed(contender, calls[contender.name]))
    return [
        {
            "contender": contender.name,
            "per_second": contender.work / statistics.median(times[contender.name]),
            "slowest": contender.work / max(times[contender.name]),
            "fastest": contender.work / min(times[contender.name]),
            "seconds_per_call": statistics.median(times[contender.name]),
            **(contender.notes or {}),
        }
        for contender in runners
    ]


def calibrate(contender: Contender, seconds: float, max_seconds: float) -> int:
    """Warm up; return how many calls fill the time, 0 if one call takes too long."""
    timed(contender, 1)
    once = timed(contender, 2)
    return max(1, int(seconds / once)) if once < max_seconds else 0


def timed(contender: Contender, calls: int) -> float:
    """Return the seconds that one call takes, over several of them."""
    contender.wait()
    started = time.perf_counter()
    for number in range(calls):
        contender.call(number)
    contender.wait()
    return (time.perf_counter() - started) / calls


def waiter(device: torch.device | str) -> Callable[[], None]:
    """Return what waits for a device."""
    if torch.device(device).type == "cuda":
        return functools.partial(torch.cuda.synchronize, device)
    return lambda: None
