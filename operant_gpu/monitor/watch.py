"""Watching runs from another process, by their files alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live

from operant_gpu.monitor.dashboard import comparison, dashboard
from operant_gpu.monitor.display import is_lively
from operant_gpu.monitor.reader import RunReader
from operant_gpu.monitor.view import View

_PAUSE = 0.5


def watch(folders: Sequence[Path], console: Console, once: bool = False) -> list[View]:
    """Show runs until all are over or the user interrupts; return them as they stood last.

    Args:
        folders: The runs' directories.
        console: Where to draw; one picture only where it is no terminal.
        once: Whether to draw one picture only.

    Raises:
        InvalidConfig: If one is no run's directory.
    """
    readers = [RunReader(folder) for folder in folders]
    views = [reader.refresh() for reader in readers]
    if not once and is_lively(console) and _are_running(views):
        # On a screen apart, which a resize of the window leaves without traces.
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while _are_running(views):
                live.update(_picture(views, console.width), refresh=True)
                time.sleep(_PAUSE)
                views = [reader.refresh() for reader in readers]
    console.print(_picture(views, console.width))
    return views


def _are_running(views: Sequence[View]) -> bool:
    return any(view.state == "running" for view in views)


def _picture(views: Sequence[View], width: int) -> RenderableType:
    return dashboard(views[0], width) if len(views) == 1 else comparison(views, width)
