"""How long an iteration collects and how long it learns, on the device's own clock."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Measures the two stages of iterations: `start`, `lap` between them, `stop`. None of them waits for the device.

    On a GPU they are events, which captured graphs record too, and a reading is that of the last iteration. On a CPU it
    is the mean over the iterations since the last reading.

    Args:
        device: Where the stages run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._cuda = device, device.type == "cuda"
        if self._cuda:
            self._events = [
                torch.cuda.Event(enable_timing=True, external=True)  # type: ignore[no-untyped-call]
                for _ in range(3)
            ]
        self._times, self._sums, self._count = [0.0, 0.0, 0.0], [0.0, 0.0], 0

    def start(self) -> None:
        """Begin to collect."""
        self._mark(0)

    def lap(self) -> None:
        """Begin to learn."""
        self._mark(1)

    def stop(self) -> None:
        """End an iteration."""
        self._mark(2)

    def _mark(self, place: int) -> None:
        if self._cuda:
            # Not of the current device, which may be another.
            self._events[place].record(torch.cuda.current_stream(self._device))
            return
        self._times[place] = time.perf_counter()
        if place:
            self._sums[place - 1] += self._times[place] - self._times[place - 1]
        self._count += place == 2

    def read(self) -> tuple[float, float]:
        """Return the seconds that an iteration collects and learns; the device must have finished."""
        if self._cuda:
            begin, middle, end = self._events
            return begin.elapsed_time(middle) / 1e3, middle.elapsed_time(end) / 1e3
        count = max(1, self._count)
        collecting, learning = (total / count for total in self._sums)
        self._sums, self._count = [0.0, 0.0], 0
        return collecting, learning
