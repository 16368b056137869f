"""How pictures of the documentation look: they have no ground of their own, and are read on light and dark pages."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

# As far from white as from the ground of the dark site: a picture in these is read on both.
EITHER, BLUE, ORANGE, GREEN, PURPLE = "#7b8087", "#4a86e8", "#d9772b", "#3a9a63", "#9a6ad6"
# A pair of pictures has more contrast: text, our own colour, that of others, and of a second other.
INKS = {
    "light": {"text": "#24292f", "ours": "#3f51b5", "others": "#8d949e", "second": "#c2571a"},
    "dark": {"text": "#e6e9ee", "ours": "#93a4ff", "others": "#8b93a1", "second": "#f0a05a"},
}
Ink = dict[str, str]


@contextlib.contextmanager
def on_any_ground(text: str = EITHER, size: float = 11) -> Iterator[None]:
    """Draw text, axes and grid in one colour, on a transparent ground.

    Args:
        text: The colour.
        size: Of the text, in points.
    """
    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    style = dict.fromkeys(names, text) | {"font.size": size, "axes.titlesize": "large", "legend.frameon": False}
    # The same data give the same file.
    style |= {"svg.hashsalt": "operant_gpu", "grid.alpha": 0.25, "axes.spines.top": False, "axes.spines.right": False}
    with pyplot.rc_context(style):
        yield


def save(figure: Any, path: Path) -> None:
    """Write a picture without a ground, as SVG or PNG, and close the figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, transparent=True, metadata={"Date" if path.suffix == ".svg" else "Software": None})
    pyplot.close(figure)


def save_pair(draw: Callable[[Ink], Any], path: Path) -> None:
    """Write a picture for a light page and one for a dark page.

    Args:
        draw: Returns a figure in these inks.
        path: SVG file; "-light" and "-dark" are added to its name.
    """
    for name, ink in INKS.items():
        with on_any_ground(ink["text"], 16):
            save(draw(ink), path.with_stem(f"{path.stem}-{name}"))


def pair(path: str, alt: str) -> str:
    """Return the Markdown of both pictures, of which the site shows one."""
    stem, suffix = path.rsplit(".", 1)
    return "\n".join(f"![{alt}]({stem}-{name}.{suffix}#only-{name})" for name in INKS)
