"""Learning curves as pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from operant_gpu.errors import InvalidConfig
from operant_gpu.files import as_path, write_whole
from operant_gpu.monitor.view import View

_SIZE, _DPI = (6.4, 3.6), 150


def _plain(name: str) -> str:
    """Return a name that matplotlib takes as it is: no formula, not hidden, nothing that is no Unicode."""
    plain = name.replace("$", r"\$").encode(errors="replace").decode()
    return f" {plain}" if plain.startswith("_") else plain


def draw_curve(views: Sequence[View], path: Path) -> None:
    """Draw the mean returns of runs over timesteps, as a PNG.

    Raises:
        InvalidConfig: If there is no view, or something else than views.
        OSError: If the file cannot be written.
    """
    if not isinstance(views, Sequence) or not views or not all(isinstance(view, View) for view in views):
        raise InvalidConfig("views", f"expected a list of views of runs, got {views!r}")
    path = as_path("path", path)
    # Here, since it takes a moment to import; without pyplot, which has a state of its own.
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    for view in views:
        points = list(view.returns)
        steps, returns = zip(*points, strict=True) if points else ((), ())
        # A curve of one point is no line.
        name, marker = _plain(view.folder or view.title), "o" if len(points) == 1 else ""
        (line,) = axes.plot(steps, returns, label=name, marker=marker)
        if view.goal is not None:
            color = line.get_color()
            axes.axhline(
                view.goal, color=color, alpha=0.5, linestyle="--", linewidth=1, label=f"its goal {view.goal:g}"
            )
    axes.set(
        xlabel="timesteps",
        ylabel="mean return of the last 100 episodes",
        title=_plain(", ".join(dict.fromkeys(view.title for view in views))),
    )
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(views) > 1 or views[0].goal is not None:
        axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=_DPI)
    write_whole(path, picture.getvalue())
