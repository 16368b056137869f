"""What a terminal shows of a training run: a live line, or plain lines where there is no terminal."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from operant_gpu.models.telemetry import Metrics

# Seconds between lines that are not drawn over each other.
_LINE_INTERVAL = 1.0


class TrainingDisplay:
    """Show timesteps, mean return and speed while PPO learns; a context manager.

    Args:
        console: Where to draw.
        title: Name of the environment.
        total_timesteps: Steps at which the training ends at the latest.
        goal: Mean return at which it ends, or None.
    """

    def __init__(self, console: Console, title: str, total_timesteps: int, goal: float | None) -> None:
        self._console, self._title = console, title
        self._goal = "" if goal is None else f" of {goal:g}"
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=total_timesteps, status="starting")
        self._last_line = -math.inf

    def __enter__(self) -> TrainingDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, metrics: Metrics) -> None:
        """Show the metrics of one iteration."""
        score = (
            f"return {metrics['episodic_return']:7.4g}{self._goal}"
            if metrics["episodes"]
            else "no episode finished yet"
        )
        status = f"{score}  {metrics['sps']:,.0f} steps/s"
        self._progress.update(self._task, completed=metrics["timesteps"], status=status)
        if not self._console.is_terminal and time.monotonic() - self._last_line >= _LINE_INTERVAL:
            self._last_line = time.monotonic()
            self._console.print(f"{self._title}  {metrics['timesteps']:>9,} steps  {status}", highlight=False)
