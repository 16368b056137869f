"""`operant-gpu compare`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from operant_gpu.cli.common import say, say_json
from operant_gpu.errors import InvalidConfig
from operant_gpu.monitor.comparing import Comparison, Estimate, compare
from operant_gpu.monitor.curve import png
from operant_gpu.monitor.table import PlainTable


@dataclass
class Compare:
    """Compare runs with others of the same environments: interquartile means over seeds, with 95 % intervals.

    The last column says in how many of all pairs a run is better than one of the others. RUNS are better if its whole
    interval lies above 50 %. Intervals are those of the stratified bootstrap (Agarwal et al., 2021).
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUNS")]
    """Directories of runs, or of several seeds, as `train --seeds` makes them."""
    against: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUNS")]
    """Those to compare with."""
    goal: float | None = None
    """Mean return to which steps and seconds are counted; the runs' own if not given."""
    out: Path | None = None
    """Also draw their learning curves, with 95 % bands, into this PNG."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self, console: Console) -> int:
        """Compare; return the exit status."""
        out = None if self.out is None else png("out", self.out)
        found = compare(self.runs, self.against, self.goal)
        if out is not None:
            try:
                found.draw(out)
            except OSError as error:
                raise InvalidConfig("out", f"cannot write {str(out)!r}: {error}") from error
        if self.json:
            say_json(console, found.numbers())
            return 0
        _show(found, console)
        if out is not None:
            say(console, f"Curves in {out}")
        return 0


def _show(found: Comparison, console: Console) -> None:
    for env, measures in found.measures.items():
        title = f"{env}: {len(measures[0].runs)} runs against {len(measures[0].against)}"
        _table(console, title, {one.label: (*one.middle(), one.chance()) for one in measures})
    if overall := found.overall():
        title = f"all {len(found.measures)} environments, returns scaled from 0 (least of both) to 1 (greatest)"
        _table(console, title, {"return": overall})
    for name, (ours, theirs) in found.differences.items():
        say(console, f"{name}: {ours} against {theirs}")
    say(console, *(f"Note: {note}" for note in found.notes))


def _table(console: Console, title: str, rows: dict[str, tuple[Estimate, Estimate, Estimate]]) -> None:
    table = PlainTable("interquartile mean", "RUNS", "against", "RUNS better", title=title)
    for label, (runs, against, chance) in rows.items():
        table.add_row(label, said(runs), said(against), share(chance))
    console.print(table)


def said(estimate: Estimate) -> str:
    """Return an estimate as text, with its interval."""
    value, low, high = map(_number, estimate)
    return f"{value} ({low} to {high})"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "never"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def share(estimate: Estimate) -> str:
    """Return an estimate as a percentage, with its interval."""
    value, low, high = (f"{100 * number:.0f}" for number in estimate)
    return f"{value} % ({low} to {high} %)"
