"""Train PPO's presets on the games, several seeds each, and draw the learning curves.

    python bench/learning_games.py [--games MinAtar-Breakout-v1 ...] [--seeds 3] [--rules minatar gymnax]

As many runs at a time as there are cores, each with one thread. The raw data is written after every run, the curves
and a page at the end, and the first seed's policy of each game to `--policies`, for `bench/game_pictures.py`. Runs
that are in the raw data already are not done again.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import torch
import tyro
from machine import RESULTS, cpu_name, slug, version_of
from page import table

import operant_gpu
from operant_gpu.models import PPO, PPOConfig

matplotlib.use("Agg")

from matplotlib import pyplot

ROOT = Path(__file__).parent.parent
# MinAtar's own rules, and those of gymnax, which has no sticky actions and ends episodes after a thousand steps.
RULES: dict[str, dict[str, Any]] = {
    "minatar": {},
    "gymnax": {"sticky_action_prob": 0.0, "max_episode_steps": 1000},
}
# What differs from the preset: where nothing is left to chance, a policy that is sure of itself plays one game only.
CHANGES: dict[str, dict[str, Any]] = {"minatar": {}, "gymnax": {"ent_coef": 0.03}}
# Mean returns of PPO agents after ten million steps, by the rules of gymnax: from its README; the agents' settings are
# in gymnax-blines.
PUBLISHED = {
    "MinAtar-Asterix-v1": 15,
    "MinAtar-Breakout-v1": 28,
    "MinAtar-Freeway-v1": 58,
    "MinAtar-SpaceInvaders-v1": 131,
}
POINTS = 100
COLUMNS = 3

Rules = Literal["minatar", "gymnax"]


@dataclass(frozen=True)
class Settings:
    """Train PPO's presets on the games, several seeds each, and draw the learning curves."""

    games: tuple[str, ...] = ("MinAtar-Breakout-v1", "MinAtar-SpaceInvaders-v1")
    """Games to learn."""
    seeds: int = 3
    """Seeds of each."""
    rules: tuple[Rules, ...] = ("minatar", "gymnax")
    """Rules of MinAtar's games."""
    policies: Path = ROOT / "build" / "policies"
    """Folder for the policies of the first seed."""
    image: Path = ROOT / "docs" / "images" / "learning-games.png"
    """Where to draw the curves."""
    one: tuple[str, int, Rules] | None = None
    """Train one game, seed and rules here, and print what came of it."""
    total_timesteps: int | None = None
    """Steps of a run; the preset's if not given."""


def main(settings: Settings) -> None:
    """Train, write the raw data, draw."""
    if settings.one is not None:
        print(json.dumps(train(settings, *settings.one)))
        return
    path = RESULTS / f"learning-games-{slug(cpu_name())}.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"runs": []}
    report["machine"] = {"cpu": cpu_name(), "cores": os.cpu_count()}
    report["versions"] = {name: version_of(name) for name in ("torch", "numpy")}
    done = {(run["game"], run["seed"], run["rules"]) for run in report["runs"]}
    jobs = [job for job in wanted(settings) if job not in done]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for run in pool.map(lambda job: run_process(settings, *job), jobs):
            report["runs"].append(run)
            path.write_text(json.dumps(report) + "\n")
    draw(report["runs"], settings.image)
    path.with_suffix(".md").write_text(page(report["runs"]))
    print(page(report["runs"]))


def wanted(settings: Settings) -> Iterator[tuple[str, int, str]]:
    """Yield game, seed and rules of each run; games of other suites have no other rules."""
    for game in settings.games:
        for rules in settings.rules if game.startswith("MinAtar") else ("minatar",):
            for seed in range(settings.seeds):
                yield game, seed, rules


def run_process(settings: Settings, game: str, seed: int, rules: str) -> dict[str, Any]:
    """Train in a process of its own with one thread."""
    command = [sys.executable, __file__, "--one", game, str(seed), rules, "--policies", str(settings.policies)]
    if settings.total_timesteps:
        command += ["--total-timesteps", str(settings.total_timesteps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    run: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{game} {rules} seed {seed}: {run['mean_return'][-1]:.1f} in {run['seconds'][-1]:.0f} s", flush=True)
    return run


def train(settings: Settings, game: str, seed: int, rules: str) -> dict[str, Any]:
    """Return the learning curve of one run."""
    torch.set_num_threads(1)
    changes = CHANGES[rules]
    if settings.total_timesteps:
        changes = {**changes, "total_timesteps": settings.total_timesteps}
    config = PPOConfig.for_env(game, seed=seed, **changes)
    learner = PPO(operant_gpu.make(game, config.num_envs, device="cpu", **RULES[rules]), config)
    run: dict[str, Any] = {"game": game, "seed": seed, "rules": rules}
    run |= {"timesteps": [], "seconds": [], "mean_return": []}
    started = time.perf_counter()

    def note(metrics: Any) -> bool:
        due = len(run["timesteps"]) * config.total_timesteps / POINTS
        if metrics["timesteps"] >= min(due, config.total_timesteps) and metrics["episodes"] >= 100:
            run["timesteps"].append(metrics["timesteps"])
            run["seconds"].append(round(time.perf_counter() - started, 1))
            run["mean_return"].append(round(metrics["episodic_return"], 2))
        return True

    learner.learn(callback=note)
    if seed == 0 and rules == "minatar":
        settings.policies.mkdir(parents=True, exist_ok=True)
        learner.save(settings.policies / f"{game}.pt")
    return run


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw a panel for each game, a line for each run."""
    games = list(dict.fromkeys(run["game"] for run in runs))
    rows = -(-len(games) // COLUMNS)
    size = (4.5 * COLUMNS, 3.4 * rows)
    figure, panels = pyplot.subplots(rows, COLUMNS, figsize=size, dpi=100, layout="constrained", squeeze=False)
    for axes in panels.flat[len(games) :]:
        axes.set_axis_off()
    for game, axes in zip(games, panels.flat, strict=False):
        labelled = set()
        for run in (run for run in runs if run["game"] == game):
            colour = "tab:blue" if run["rules"] == "minatar" else "tab:green"
            label = f"rules of {run['rules']}" if game.startswith("MinAtar") else None
            steps = [step / 1e6 for step in run["timesteps"]]
            axes.plot(steps, run["mean_return"], color=colour, linewidth=1, label=None if label in labelled else label)
            labelled.add(label)
        if game in PUBLISHED:
            axes.axhline(PUBLISHED[game], color="black", linestyle="--", linewidth=1, label="gymnax's PPO, 10 M steps")
        axes.set_title(game)
        axes.set_xlabel("million steps")
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")
    for axes in panels[:, 0]:
        axes.set_ylabel("mean return, last 100 episodes")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def page(runs: list[dict[str, Any]]) -> str:
    """Return a row for each game and its rules."""
    rows = []
    for game, rules in dict.fromkeys((run["game"], run["rules"]) for run in runs):
        those = [run for run in runs if (run["game"], run["rules"]) == (game, rules)]
        ends = sorted(run["mean_return"][-1] for run in those)
        seconds = statistics.median(run["seconds"][-1] for run in those)
        rows.append(
            (
                game,
                rules if game.startswith("MinAtar") else "",
                f"{those[0]['timesteps'][-1] / 1e6:.0f} M",
                str(len(those)),
                f"{statistics.mean(ends):.1f}",
                f"{ends[0]:.1f} to {ends[-1]:.1f}",
                f"{seconds:.0f}",
                str(PUBLISHED.get(game, "")),
                "; ".join(reached(run, PUBLISHED[game]) for run in those if game in PUBLISHED),
            )
        )
    headings = ("game", "rules", "steps", "seeds", "mean return", "of the seeds", "seconds", "gymnax's PPO", "reached")
    return table(headings, rows) + "\n"


def reached(run: dict[str, Any], mean_return: float) -> str:
    """Return when the run first reached a mean return."""
    points = zip(run["timesteps"], run["seconds"], run["mean_return"], strict=True)
    found = next(((steps, seconds) for steps, seconds, value in points if value >= mean_return), None)
    return f"{found[0] / 1e6:.1f} M steps, {found[1]:.0f} s" if found else "no"


if __name__ == "__main__":
    main(tyro.cli(Settings))
