"""Watching runs from another process, by their files alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live

from operant_gpu.monitor.dashboard import comparison, dashboard
from operant_gpu.monitor.display import is_lively
from operant_gpu.monitor.reader import RunReader
from operant_gpu.monitor.view import View

_PAUSE = 0.5

Groups = list[list[View]]


class Watcher:
    """Follows runs in groups, such as those of several seeds.

    Args:
        find: Returns the directories of the runs of each group; called anew each time, since a group may grow.
    """

    def __init__(self, find: Callable[[], Sequence[Sequence[Path]]]) -> None:
        self._find, self._readers = find, dict[Path, RunReader]()

    def refresh(self) -> Groups:
        """Return the runs as they stand.

        Raises:
            InvalidConfig: If one is no run's directory.
        """
        return [[self._reader(folder).refresh() for folder in group] for group in self._find()]

    def _reader(self, folder: Path) -> RunReader:
        if folder not in self._readers:
            self._readers[folder] = RunReader(folder)
        return self._readers[folder]


def watch(watcher: Watcher, console: Console, once: bool = False) -> Groups:
    """Show runs until all are over or the user interrupts; return them as they stood last.

    Args:
        watcher: What follows the runs.
        console: Where to draw; one picture only where it is no terminal.
        once: Whether to draw one picture only.

    Raises:
        InvalidConfig: If one is no run's directory.
    """
    groups = watcher.refresh()
    if not once and is_lively(console) and _are_running(groups):
        # On a screen apart, which a resize of the window leaves without traces.
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while _are_running(groups):
                live.update(picture(groups, console.width), refresh=True)
                time.sleep(_PAUSE)
                groups = watcher.refresh()
    console.print(picture(groups, console.width))
    return groups


def _are_running(groups: Groups) -> bool:
    return any(view.state == "running" for group in groups for view in group)


def picture(groups: Groups, width: int) -> RenderableType:
    """Return one run in full, or several as a table.

    Args:
        groups: The runs.
        width: Columns of the terminal.
    """
    is_one = [len(group) for group in groups] == [1]
    return dashboard(groups[0][0], width) if is_one else comparison(groups, width)
