"""Draw learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from learning_run import Run

matplotlib.use("Agg")

from matplotlib import pyplot, ticker

NAMES = {"operant_gpu": "operant_gpu", "sb3": "Stable-Baselines3"}
COLOURS = {"operant_gpu": "tab:blue", "sb3": "tab:orange"}
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
    for contender in NAMES:
        draw_contender(axes, contender, [run for run in runs if run.contender == contender])
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
    axes.set_title(env)
    axes.grid(alpha=0.25)
    axes.legend(loc="best")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def draw_contender(axes: Any, contender: str, runs: Sequence[Run]) -> None:
    """Draw the lines of one contender."""
    seeds = "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"
    label: str | None = f"{NAMES[contender]}, {seeds}"
    for run in runs:
        seconds, mean_return = run.curve["seconds"], run.curve["mean_return"]
        if not seconds:
            continue
        axes.plot(seconds, mean_return, color=COLOURS[contender], linewidth=1, alpha=0.7, label=label)
        marker = "o" if run.outcome == "solved" else "x"
        axes.scatter(seconds[-1], mean_return[-1], color=COLOURS[contender], marker=marker, s=25, zorder=3)
        label = None
