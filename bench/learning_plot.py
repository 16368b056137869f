"""Draw learning curves."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from learning_run import Run
from matplotlib import pyplot, ticker
from plots import BLUE, EITHER, GREEN, ORANGE, PURPLE, Ink, on_any_ground, save, save_pair
from published import Target

NAMES = {"operant_gpu": "operant_gpu", "sb3": "Stable-Baselines3"}
COLOURS = {"operant_gpu": BLUE, "sb3": ORANGE}
# Of an environment, shortest first.
COLOURS_OF_TRAININGS = (BLUE, GREEN, PURPLE)
# Panels of environments in a row.
COLUMNS = 2
# A logarithmic axis has to begin somewhere; before this there is nothing to see.
FIRST_SECONDS = 0.1


def draw_curves(env: str, goal: float, runs: Sequence[Run], path: Path) -> None:
    """Write a picture with a line for each run, from its start to the goal or to where it was given up.

    Args:
        env: Name of the environment.
        goal: Mean return that counts as solved.
        runs: Runs of one environment.
        path: File to write.
    """
    with on_any_ground(size=15):
        figure, axes = pyplot.subplots(figsize=(7.6, 5.6), layout="constrained")
        for contender, name in NAMES.items():
            those = [run for run in runs if run.contender == contender]
            label = f"{name}, {len(those)} seed{'s' * (len(those) != 1)}"
            curves = [(run.curve["seconds"], run.curve["mean_return"]) for run in those if run.curve["seconds"]]
            add_lines(axes, curves, color=COLOURS[contender], alpha=0.8, label=label)
            for run in those:
                end = [run.curve[column][-1:] for column in ("seconds", "mean_return")]
                marker = "o" if run.outcome == "solved" else "x"
                axes.scatter(*end, color=COLOURS[contender], marker=marker, s=30, zorder=3)
        axes.axhline(goal, color=EITHER, linestyle="--", linewidth=1, label=f"goal, {goal:.4g}")
        if any(run.outcome != "solved" for run in runs):
            axes.scatter([], [], color=EITHER, marker="x", s=30, label="given up")
        axes.set_xscale("log")
        axes.set_xlim(left=FIRST_SECONDS)
        seconds_axis(axes)
        axes.set_xlabel("seconds of training")
        axes.set_ylabel("mean return, last 100 episodes")
        axes.set_title(env)
        axes.grid()
        figure.legend(loc="outside lower center", ncols=2)
        save(figure, path)


def seconds_axis(axes: Any) -> None:
    """Write seconds on a logarithmic axis as numbers."""
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(ticker.NullLocator())


def draw_seconds(rows: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Write a pair of pictures with a row for each comparison: a dot at each median, a line from least to most.

    Args:
        rows: Seconds of each seed by contender, by the rows' names; infinite where the goal was not reached.
        path: SVG file; one is for light pages, one for dark ones.
    """

    def draw(ink: Ink) -> Any:
        figure, axes = pyplot.subplots(figsize=(7.2, 6.2), layout="constrained")
        contenders = {
            "operant_gpu": ("o", ink["ours"], "operant_gpu"),
            "jax": ("D", ink["second"], "JAX"),
            "sb3": ("s", ink["others"], "Stable-Baselines3"),
        }
        for name, (marker, colour, label) in contenders.items():
            taken = {place: sorted(row[name]) for place, row in enumerate(rows.values()) if row.get(name)}
            if not taken:
                continue
            for place, seconds in taken.items():
                reached = [one for one in seconds if math.isfinite(one)]
                if not reached:
                    continue
                axes.plot([reached[0], reached[-1]], [place, place], color=colour, linewidth=2)
                # An arrow to the right where a seed was not solved.
                if len(reached) < len(seconds):
                    axes.plot(reached[-1] * 1.35, place, ">", color=colour, markersize=7)
            medians = list(map(statistics.median, taken.values()))
            axes.plot(medians, list(taken), marker, color=colour, markersize=11, label=label)
        axes.set_yticks(range(len(rows)), [name.replace(", ", "\n") for name in rows])
        axes.invert_yaxis()
        axes.set_xscale("log")
        seconds_axis(axes)
        axes.set_xlabel("seconds of training, 2 CPU cores")
        axes.grid(axis="x")
        figure.legend(loc="outside upper left", ncols=3, fontsize=14, columnspacing=1, handletextpad=0.2)
        return figure

    save_pair(draw, path)


def draw_levels(report: dict[str, Any], targets: Sequence[Target], path: Path) -> None:
    """Write a picture with a panel for each environment: a line for each seed, and what others have published.

    Args:
        report: Trainings by their names, with runs that have curves.
        targets: Those to show, of trainings that are in the report.
        path: File to write.
    """
    with on_any_ground(size=13):
        figure, panels = panels_of(target.env for target in targets)
        for env, axes in panels.items():
            draw_level(axes, report, [target for target in targets if target.env == env])
            finish(axes, env)
        save(figure, path)


def draw_level(axes: Any, report: dict[str, Any], targets: Sequence[Target]) -> None:
    """Draw the trainings of one environment, and crosses for what others have published."""
    keys = dict.fromkeys(target.key for target in targets)
    colours = dict(zip(keys, COLOURS_OF_TRAININGS[: len(keys)], strict=True))
    for key, colour in colours.items():
        runs = report["trainings"][key]["runs"]
        curves = [([steps / 1e6 for steps in run["curve"]["timesteps"]], run["curve"]["mean_return"]) for run in runs]
        add_lines(axes, curves, color=colour, alpha=0.8, label=key.removeprefix(f"{targets[0].env}, "))
    # By other rules there are other figures; what trainings of several lengths have in common has a colour of its own.
    several = len({target.rules for target in targets}) > 1
    for published, colour in {
        one: colours[target.key] if several else ORANGE
        for target in targets
        for one in (target.ppo, target.other)
        if one
    }.items():
        place = (published.steps / 1e6, published.mean)
        axes.scatter(*place, color=colour, marker="x", s=40, linewidth=2, zorder=3)
        # Toward the middle.
        is_right = 2 * published.steps > max(target.steps for target in targets)
        offset = (-7, 0) if is_right else (7, 0)
        style = {"ha": "right" if is_right else "left", "va": "center", "fontsize": 11, "color": colour}
        axes.annotate(published.learner, place, offset, textcoords="offset points", **style)


def panels_of(names: Iterable[str]) -> tuple[Any, dict[str, Any]]:
    """Return a figure with a panel for each name, for mean returns over millions of steps."""
    those = list(dict.fromkeys(names))
    rows = -(-len(those) // COLUMNS)
    size = (4.2 * COLUMNS, 3.3 * rows)
    figure, panels = pyplot.subplots(rows, COLUMNS, figsize=size, layout="constrained", squeeze=False)
    for axes in panels.flat:
        axes.set_xlabel("million steps")
    for axes in panels[:, 0]:
        axes.set_ylabel("mean return")
    for axes in panels.flat[len(those) :]:
        axes.set_axis_off()
    return figure, dict(zip(those, panels.flat, strict=False))


def add_lines(axes: Any, curves: Iterable[tuple[Sequence[float], Sequence[float]]], label: Any, **style: Any) -> None:
    """Draw lines that have one label."""
    for number, (x, y) in enumerate(curves):
        axes.plot(x, y, linewidth=1, label=None if number else label, **style)


def finish(axes: Any, title: str) -> None:
    """Add title, grid and legend."""
    axes.set_title(title)
    axes.grid()
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(loc="best", fontsize=11)
