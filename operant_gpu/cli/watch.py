"""`operant-gpu monitor`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from operant_gpu.cli.common import say
from operant_gpu.errors import InvalidConfig
from operant_gpu.monitor.curve import draw_curve, png
from operant_gpu.monitor.reader import latest_run, runs_in
from operant_gpu.monitor.watch import Watcher, watch


@dataclass
class Monitor:
    """Show runs while they train, or afterwards. It only reads their files, so it does not disturb the training.

    One run is shown in full, several as a table. Below the runs of one directory, as `train --seeds` makes it, stands
    the interquartile mean of their returns. The display ends when the runs end, or at Ctrl-C.
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")] = ()
    """Directories of runs, such as runs/CartPole-v1-1, or of several runs."""
    latest: bool = False
    """Take the run in runs/ that was written to last."""
    once: bool = False
    """Print how the runs stand once, and end."""
    curve: Path | None = None
    """PNG file to which the learning curves are also drawn. Several seeds are one line with a 95 % band."""

    def run(self, console: Console) -> int:
        """Watch; return the exit status."""
        if bool(self.runs) is self.latest:
            given = "both" if self.latest else "neither"
            raise InvalidConfig("monitor", f"expected directories of runs, or --latest, got {given}")
        folders = [latest_run(Path("runs"))] if self.latest else list(self.runs)
        curve = None if self.curve is None else png("curve", self.curve)
        watcher = Watcher(lambda: [runs_in(folder) for folder in folders])
        views = watch(watcher, console, self.once)
        if curve is not None:
            try:
                draw_curve(views, curve)
            except OSError as error:
                raise InvalidConfig("curve", f"cannot write {str(curve)!r}: {error}") from error
            say(console, f"Curves in {curve}")
        return 0
