"""Runs as a terminal shows them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from operant_gpu.models.statistics import bootstrap, interquartile_mean
from operant_gpu.monitor.table import PlainTable
from operant_gpu.monitor.view import View

_BLOCKS = "▁▂▃▄▅▆▇█"
_COLORS = {
    "running": "green",
    "solved": "bright_green",
    "finished": "blue",
    "stopped": "yellow",
    "failed": "red",
    "killed": "red",
}
_LABEL_WIDTH, _VALUE_WIDTH, _NUMBER_WIDTH = 9, 12, 9
# What surrounds the second column: frame, padding, label.
_AROUND = _LABEL_WIDTH + 7
# What surrounds what is written in the frame.
_CORNERS = 6
# The shortest bar.
_BAR = 8
_REST = "bright_black"
_SHARES = ("cyan", "magenta", _REST)
_LOSSES = {"policy": "policy_loss", "value": "value_loss", "entropy": "entropy", "explained": "explained_variance"}
_UPDATE = {"approx_kl": "approx_kl", "clip_frac": "clip_frac", "grad_norm": "grad_norm", "lr": "lr"}
_UNITS = (("G", 1e9), ("M", 1e6), ("k", 1e3))


def dashboard(view: View, width: int) -> RenderableType:
    """Return one run in full.

    Args:
        view: The run.
        width: Columns of the terminal.
    """
    inner = max(20, width - _AROUND)
    rows = Table.grid(padding=(0, 2), expand=True)
    rows.add_column(style="dim", min_width=_LABEL_WIDTH)
    rows.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    progress, counts = _progress(view, inner)
    rows.add_row("progress", progress)
    if counts:
        rows.add_row("steps", counts)
    if view.latest:
        rows.add_row("return", _returns(view, inner))
        rows.add_row("speed", _speed(view, inner))
        rows.add_row("time", _split(view, inner))
        rows.add_row("losses", _named(view, _LOSSES, inner))
        rows.add_row("update", _named(view, _UPDATE, inner))
        if own := {name.removeprefix("env/"): name for name in view.latest if name.startswith("env/")}:
            rows.add_row("metrics", _named(view, own, inner))
        # In a narrow terminal its row is that of the steps.
        if not counts and (machine := _machine(view, inner)):
            rows.add_row("machine", machine)
    color = _COLORS[view.state]
    parts: list[RenderableType] = [rows]
    if view.message:
        parts.append(Text(view.message, style="red"))
    name = Text.assemble((view.title, "bold"), "  ", _end(view.folder or "", inner - len(view.title)))
    name.rstrip()
    return Panel(
        Group(*parts),
        title=name,
        title_align="left",
        subtitle=_foot(view, width - _CORNERS),
        subtitle_align="left",
        border_style=color,
        width=width,
    )


def comparison(groups: Sequence[Sequence[View]], width: int) -> RenderableType:
    """Return several runs as rows of a table.

    Args:
        groups: The runs; those of several seeds together, above a row for the interquartile mean of their returns.
        width: Columns of the terminal.
    """
    headings = ("run", "state", "return", "done", "steps", "steps/s", "left", "curve")
    table = PlainTable(*headings, least=("left", "steps/s", "steps", "curve", "done", "state"))
    notes = []
    for group in groups:
        for view in group:
            table.add_row(
                _end(view.folder or view.title, max(12, width // 3)),
                Text(view.state, style=_COLORS[view.state]),
                _score(view),
                f"{view.progress:.0%}",
                f"{int(view.latest.get('timesteps', view.start)):,}",
                short(view.latest.get("sps", math.nan)),
                _clock(view.seconds_left),
                Text(sparkline((value for _, value in view.returns), max(8, width // 6)), style="cyan"),
            )
        if len(group) > 1 and (text := over_runs(group)):
            name = str(Path(group[0].folder).parent) if group[0].folder else group[0].title
            notes.append(Text(f"{name}: {text}"))
    return Group(table, *notes)


def over_runs(views: Sequence[View]) -> str:
    """Return what several runs came to together, in a line; nothing if none has finished an episode."""
    returns = [view.latest.get("episodic_return", math.nan) for view in views]
    found = np.array([value for value in returns if math.isfinite(value)])
    if not len(found):
        return ""
    low, high = bootstrap([found], interquartile_mean)
    over = sum(view.state != "running" for view in views)
    states = f"{sum(view.state == 'solved' for view in views)} solved, " if views[0].goal is not None else ""
    return (
        f"{len(views)} runs, {over} over: {states}interquartile mean of the returns "
        f"{interquartile_mean(found):.4g} (95 % interval {low:.4g} to {high:.4g})"
    )


def line(view: View) -> str:
    """Return a run in one line, for outputs that are no terminal."""
    latest = view.latest
    goal = "" if view.goal is None else f" of {view.goal:g}"
    score = f"return {latest['episodic_return']:.4g}{goal}" if latest["episodes"] else "no episode finished yet"
    left = view.seconds_left
    rest = "" if left is None else f"  {_clock(left)} left"
    return f"{view.title}  {int(latest['timesteps']):>11,} steps  {score}  {short(latest['sps'])} steps/s{rest}"


def sparkline(values: Iterable[float], width: int) -> str:
    """Return numbers as a curve of block characters, from the least to the greatest; means where there are more."""
    points = [value for value in values if math.isfinite(value)]
    if not points:
        return ""
    width = min(width, len(points))
    edges = [round(place * len(points) / width) for place in range(width + 1)]
    means = [sum(points[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)


def short(number: float) -> str:
    """Return a number with at most four characters of digits and a unit."""
    if not math.isfinite(number):
        return "-"
    for unit, size in _UNITS:
        if abs(number) >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def _end(path: str, width: int) -> str:
    """Return the end of a path, which tells most, in so many columns."""
    return path if len(path) <= width else f"…{path[1 - width :]}"


def _foot(view: View, width: int) -> Text:
    """Return the state, and as much of what the run runs on and how as fits in whole parts."""
    text = Text(view.state, f"bold {_COLORS[view.state]}")
    for number, part in enumerate(view.details.split(", ") if view.details else ()):
        more = f"{', ' if number else '  '}{part}"
        if len(text) + len(more) > width:
            break
        text.append(more, "dim")
    return text


def _progress(view: View, width: int) -> tuple[Text, Text]:
    """Return a bar with its notes; and the count of steps and the time left, if there is no room for them there."""
    done, left = int(view.latest.get("timesteps", view.start)), view.seconds_left
    eta = "starting" if not view.latest else f"{_clock(left)} left" if left is not None else ""
    share, *counts = (
        Text(note) for note in (f"{view.progress:4.0%}", f"{done:,} of {view.target:,} steps", eta) if note
    )
    has_room = _BAR + sum(len(note) + 2 for note in (share, *counts)) <= width
    beside = [share, *counts] if has_room else [share]
    bar = max(_BAR, min(40, width - sum(len(note) + 2 for note in beside)))
    drawn = Text.assemble(*_bar((view.progress, 1.0 - view.progress), ("green", _REST), bar))
    below = [] if has_room else [Text(f"{short(done)} of {short(view.target)}"), *counts[1:]]
    return _fitting([drawn, *beside], width), _fitting(below, width)


def _bar(shares: Sequence[float], colors: Sequence[str], width: int) -> Iterator[tuple[str, str]]:
    """Yield the parts of a bar, with their colours."""
    edges = [round(edge * width) for edge in itertools.accumulate(shares, initial=0.0)]
    for (begin, end), color in zip(itertools.pairwise(edges), colors, strict=True):
        yield "━" * (end - begin), color


def _returns(view: View, width: int) -> Text:
    latest = view.latest
    score = Text(f"{_score(view):<{_VALUE_WIDTH}}", style="bold")
    goal = "" if view.goal is None else f"goal {view.goal:g}"
    best = f"best {view.best:.4g}" if math.isfinite(view.best) else ""
    episodes = f"{int(latest['episodes']):,} episodes of {short(latest['episodic_length'])} steps"
    notes = [Text(note, style="dim") for note in (goal, best, episodes) if note]
    room = width - _VALUE_WIDTH - sum(len(note) + 2 for note in notes) - 2
    curve = Text(sparkline((value for _, value in view.returns), max(8, min(48, room))), style="cyan")
    return _fitting([Text.assemble(score, curve), *notes], width)


def _speed(view: View, width: int) -> Text:
    parts = (("", "sps", " steps/s"), ("environments alone ", "env_sps", ""), ("learner alone ", "learner_sps", ""))
    values = [short(view.latest.get(key, math.nan)) for _, key, _ in parts]
    texts = [
        Text.assemble((name, "dim"), (value, "" if name else "bold"), (unit, "dim"))
        for (name, _, unit), value in zip(parts, values, strict=True)
    ]
    return _fitting(texts, width)


def _fitting(parts: Sequence[Text], width: int) -> Text:
    """Return parts beside each other, as many as fit as a whole."""
    text = Text()
    for part in parts:
        if text and len(text) + 2 + len(part) > width:
            break
        text = Text.assemble(text, "  " if text else "", part)
    return text


def _split(view: View, width: int) -> Text:
    """Return the shares of the time that go to acting in the environments, to learning and to all else."""
    latest, parts = view.latest, ("act", "learn", "rest")
    shares = [latest["sps"] / latest[key] for key in ("env_sps", "learner_sps")]
    shares.append(max(0.0, 1.0 - sum(shares)))
    # On a GPU they are those of the last iteration alone, and may be more than all of its time.
    shares = [share / sum(shares) for share in shares]
    named = [
        Text(f"{name} {share:.0%}", style=color) for name, share, color in zip(parts, shares, _SHARES, strict=True)
    ]
    bar = max(9, min(40, width - sum(len(text) + 2 for text in named)))
    return _fitting([Text.assemble(*_bar(shares, _SHARES, bar)), *named], width)


def _named(view: View, names: Mapping[str, str], width: int) -> Text:
    # In columns that do not move as numbers change, where there is room for them.
    column = _NUMBER_WIDTH if width >= sum(len(label) + 3 + _NUMBER_WIDTH for label in names) else 0
    texts = []
    for label, name in names.items():
        value = view.latest.get(name, math.nan)
        number = f"{value:.3g}" if math.isfinite(value) else "-"
        texts.append(Text.assemble((f"{label} ", "dim"), f"{number:<{column}}"))
    return _fitting(texts, width)


def _machine(view: View, width: int) -> Text | None:
    latest = view.latest
    parts = (
        ("GPU ", "gpu_percent", "{:.0f} %"),
        ("", "gpu_memory_gib", "{:.1f} GiB"),
        ("", "gpu_temperature", "{:.0f} °C"),
        ("", "gpu_watts", "{:.0f} W"),
        ("CPU ", "cpu_percent", "{:.0f} %"),
        ("", "ram_gib", "{:.1f} GiB"),
    )
    known = [(label, form.format(latest[key])) for label, key, form in parts if key in latest]
    return _fitting([Text.assemble((label, "dim"), value) for label, value in known], width) if known else None


def _score(view: View) -> str:
    value = view.latest.get("episodic_return", math.nan)
    return f"{value:.4g}" if math.isfinite(value) else "-"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
