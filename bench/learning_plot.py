"""Draw learning curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from learning_run import Run
from published import Target

matplotlib.use("Agg")

from matplotlib import pyplot, ticker

NAMES = {"operant_gpu": "operant_gpu", "sb3": "Stable-Baselines3"}
COLOURS = {"operant_gpu": "tab:blue", "sb3": "tab:orange"}
# Of an environment, shortest first.
COLOURS_OF_TRAININGS = ("tab:blue", "tab:green", "tab:purple")
# Panels of environments in a row.
COLUMNS = 3
# A logarithmic axis has to begin somewhere; before this there is nothing to see.
FIRST_SECONDS = 0.1


def draw_curves(env: str, goal: float, runs: Sequence[Run], path: Path) -> None:
    """Write a picture with a line for each run, from its start to the goal or to where it was given up.

    Args:
        env: Name of the environment.
        goal: Mean return that counts as solved.
        runs: Runs of one environment.
        path: PNG file to write.
    """
    figure, axes = pyplot.subplots(figsize=(9, 5), dpi=100, layout="constrained")
    for contender, name in NAMES.items():
        those = [run for run in runs if run.contender == contender]
        label = f"{name}, {len(those)} seed{'s' * (len(those) != 1)}"
        curves = [(run.curve["seconds"], run.curve["mean_return"]) for run in those if run.curve["seconds"]]
        add_lines(axes, curves, color=COLOURS[contender], alpha=0.7, label=label)
        for run in those:
            end = [run.curve[column][-1:] for column in ("seconds", "mean_return")]
            marker = "o" if run.outcome == "solved" else "x"
            axes.scatter(*end, color=COLOURS[contender], marker=marker, s=25, zorder=3)
    axes.axhline(goal, color="black", linestyle="--", linewidth=1, label=f"goal, {goal:.4g}")
    axes.scatter([], [], color="grey", marker="o", s=25, label="goal reached")
    axes.scatter([], [], color="grey", marker="x", s=25, label="given up")
    axes.set_xscale("log")
    axes.set_xlim(left=FIRST_SECONDS)
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("mean return of the last 100 episodes")
    finish(axes, env)
    save(figure, path)


def draw_levels(report: dict[str, Any], targets: Sequence[Target], path: Path) -> None:
    """Write a picture with a panel for each environment: a line for each seed, and what others have published.

    Args:
        report: Trainings by their names, with runs that have curves.
        targets: Those to show, of trainings that are in the report.
        path: PNG file to write.
    """
    figure, panels = panels_of(target.env for target in targets)
    for env, axes in panels.items():
        those = [target for target in targets if target.env == env]
        keys = dict.fromkeys(target.key for target in those)
        colours = dict(zip(keys, COLOURS_OF_TRAININGS[: len(keys)], strict=True))
        for key, colour in colours.items():
            runs = report["trainings"][key]["runs"]
            curves = [
                ([steps / 1e6 for steps in run["curve"]["timesteps"]], run["curve"]["mean_return"]) for run in runs
            ]
            add_lines(axes, curves, color=colour, alpha=0.7, label=key.removeprefix(f"{env}, "))
        # By other rules there are other figures; what trainings of several lengths have in common is black.
        several = len({target.rules for target in those}) > 1
        for published, colour in {
            one: colours[target.key] if several else "black"
            for target in those
            for one in (target.ppo, target.other)
            if one
        }.items():
            axes.scatter(published.steps / 1e6, published.mean, color=colour, marker="x", s=30, zorder=3)
            # Toward the middle.
            side = "right" if 2 * published.steps > max(target.steps for target in those) else "left"
            axes.annotate(published.learner, (published.steps / 1e6, published.mean), fontsize=8, ha=side)
        finish(axes, env)
    save(figure, path)


def panels_of(names: Iterable[str]) -> tuple[Any, dict[str, Any]]:
    """Return a figure with a panel for each name, for mean returns over millions of steps."""
    those = list(dict.fromkeys(names))
    rows = -(-len(those) // COLUMNS)
    size = (4.5 * COLUMNS, 3.4 * rows)
    figure, panels = pyplot.subplots(rows, COLUMNS, figsize=size, dpi=100, layout="constrained", squeeze=False)
    for axes in panels.flat:
        axes.set_xlabel("million steps")
    for axes in panels[:, 0]:
        axes.set_ylabel("mean return, last 100 episodes")
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
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")


def save(figure: Any, path: Path) -> None:
    """Write a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)
