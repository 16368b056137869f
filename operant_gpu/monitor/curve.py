"""Learning curves as pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from operant_gpu.errors import InvalidConfig
from operant_gpu.files import as_path, write_whole
from operant_gpu.models.statistics import Numbers, bootstrap, interquartile_mean
from operant_gpu.monitor.view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Timesteps and mean returns of a run.
Line: TypeAlias = tuple[Numbers, Numbers]

_SIZE, _DPI = (6.4, 3.6), 150
# Of a curve over several runs.
_POINTS = 100


def middle(lines: Sequence[Line]) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Return timesteps that all runs have, the interquartile mean of their returns there, and the ends of its interval.

    Those are 95 % intervals for each number of timesteps by itself, by the bootstrap over runs.
    """
    first, last = max(steps[0] for steps, _ in lines), min(steps[-1] for steps, _ in lines)
    steps = np.linspace(first, max(first, last), _POINTS)
    returns = np.array([np.interp(steps, *line) for line in lines])

    def over_runs(sample: Numbers) -> Numbers:
        return interquartile_mean(sample.T)

    return steps, over_runs(returns), *bootstrap([returns], over_runs)


def line_of(view: View) -> Line:
    """Return the curve of a run."""
    points = np.array(list(view.returns), float).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def draw_curve(views: Sequence[View | Sequence[View]], path: Path) -> None:
    """Draw the mean returns of runs over timesteps, as a PNG.

    Args:
        views: Runs, each of which is a line; a list of runs, such as those of several seeds, is one line for their
            interquartile mean, with a 95 % band.
        path: The file.

    Raises:
        InvalidConfig: If there is no view, or something else than views.
        OSError: If the file cannot be written.
    """
    groups = [[one] if isinstance(one, View) else one for one in views] if isinstance(views, Sequence) else []
    if not groups or not all(isinstance(one, Sequence) and one for one in groups):
        raise InvalidConfig("views", f"expected a list of views of runs, got {views!r}")
    flat = [view for group in groups for view in group]
    if not all(isinstance(view, View) for view in flat):
        raise InvalidConfig("views", f"expected a list of views of runs, got {views!r}")
    figure = _figure(1)
    (axes,) = figure.axes
    for group in groups:
        # A run that has no curve yet has a place in the legend.
        lines = [line_of(view) for view in group]
        name = group[0].folder or group[0].title
        if len(group) == 1:
            color = _line(axes, lines[0], _plain(name))
        else:
            folder = str(Path(name).parent)
            color = _band(axes, [one for one in lines if len(one[0])], _plain(f"{folder}, {len(group)} runs"))
        for goal in dict.fromkeys(view.goal for view in group if view.goal is not None):
            axes.axhline(goal, color=color, alpha=0.5, linestyle="--", linewidth=1, label=f"its goal {goal:g}")
    axes.set_title(_plain(", ".join(dict.fromkeys(view.title for view in flat))))
    if len(flat) > 1 or flat[0].goal is not None:
        axes.legend(frameon=False)
    _write(figure, as_path("path", path))


def draw_lines(panels: Mapping[str, Mapping[str, Sequence[Line]]], marks: Mapping[str, float], path: Path) -> None:
    """Draw sets of runs as lines with bands, as a PNG.

    Args:
        panels: A picture each, by title; in it the runs of each set, by its name in the legend.
        marks: Timesteps to mark in each.
        path: The file.

    Raises:
        InvalidConfig: If the path is none of a PNG.
        OSError: If the file cannot be written.
    """
    figure = _figure(len(panels))
    for axes, (title, sets) in zip(figure.axes, panels.items(), strict=True):
        for name, lines in sets.items():
            _band(axes, lines, _plain(f"{name}, {len(lines)} runs"))
        axes.axvline(marks[title], color="grey", linestyle=":", linewidth=1)
        axes.set_title(_plain(title))
        axes.legend(frameon=False)
    _write(figure, path)


def png(param: str, path: Any) -> Path:
    """Return what a user gives as the path of a PNG.

    Raises:
        InvalidConfig: If it is none, for the setting `param`.
    """
    found = as_path(param, path)
    if found.suffix.lower() != ".png":
        raise InvalidConfig(param, f"expected a file that ends in .png, got {str(found)!r}")
    return found


def _figure(panels: int) -> Figure:
    # Here, since it takes a moment to import; without pyplot, which has a state of its own.
    from matplotlib.figure import Figure

    width, height = _SIZE
    figure = Figure(figsize=(width, height * panels), layout="constrained")
    for axes in figure.subplots(panels, squeeze=False).flat:
        axes.set(xlabel="timesteps", ylabel="mean return of the last 100 episodes")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _line(axes: Axes, line: Line, label: str) -> Any:
    """Draw one run; return its colour."""
    # A curve of one point is no line.
    (drawn,) = axes.plot(*line, label=label, marker="o" if len(line[0]) == 1 else "")
    return drawn.get_color()


def _band(axes: Axes, lines: Sequence[Line], label: str) -> Any:
    """Draw several runs as one line with a band, and each faintly; return their colour."""
    steps, means, low, high = middle(lines) if lines else np.empty((4, 0))
    color = _line(axes, (steps, means), label)
    axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
    for line in lines:
        axes.plot(*line, color=color, alpha=0.25, linewidth=0.7)
    return color


def _plain(name: str) -> str:
    """Return a name that matplotlib takes as it is: no formula, not hidden, nothing that is no Unicode."""
    plain = name.replace("$", r"\$").encode(errors="replace").decode()
    return f" {plain}" if plain.startswith("_") else plain


def _write(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=_DPI)
    write_whole(path, picture.getvalue())
