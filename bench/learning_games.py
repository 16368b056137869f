"""Train PPO's presets on the games, several seeds each, and draw the learning curves.

    python bench/learning_games.py [--games MinAtar-Breakout-v1 ...] [--seeds 3] [--rules minatar gymnax]

As many runs at a time as there are cores, each with one thread. The raw data is written after every run, the curves
and a page at the end, and the first seed's policy of each game to `--policies`, for `bench/game_pictures.py`. Runs
that are in the raw data already are not done again.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from learning_plot import draw_games
from learning_run import Job, Rules, in_process
from machine import RESULTS, slug
from page import table

from operant_gpu.machine import cpu_name, versions

ROOT = Path(__file__).parent.parent
# Mean returns of PPO agents after ten million steps, by the rules of gymnax: from its README; the agents' settings are
# in gymnax-blines.
PUBLISHED = {
    "MinAtar-Asterix-v1": 15,
    "MinAtar-Breakout-v1": 28,
    "MinAtar-Freeway-v1": 58,
    "MinAtar-SpaceInvaders-v1": 131,
}
RULES_OF_OTHERS: tuple[Rules, ...] = ("minatar",)


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
    total_timesteps: int | None = None
    """Steps of a run; the preset's if not given."""


def main(settings: Settings) -> None:
    """Train, write the raw data, draw."""
    path = RESULTS / f"learning-games-{slug(cpu_name())}.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"runs": []}
    report["machine"] = {"cpu": cpu_name(), "cores": os.cpu_count()}
    report["versions"] = versions(("torch", "numpy"))
    done = {(run["game"], run["seed"], run["rules"]) for run in report["runs"]}
    jobs = [job for job in wanted(settings) if (job.env, job.seed, job.rules) not in done]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for job, run in zip(jobs, pool.map(in_process, jobs), strict=True):
            if not run.error:
                report["runs"].append({"game": job.env, "seed": job.seed, "rules": job.rules, **run.curve})
                path.write_text(json.dumps(report) + "\n")
    draw_games(report["runs"], PUBLISHED, settings.image)
    path.with_suffix(".md").write_text(page(report["runs"]))
    print(page(report["runs"]))


def wanted(settings: Settings) -> Iterator[Job]:
    """Yield the trainings, each to the end of its steps; games of other suites have no other rules."""
    for game in settings.games:
        for rules in settings.rules if game.startswith("MinAtar") else RULES_OF_OTHERS:
            for seed in range(settings.seeds):
                is_kept = seed == 0 and rules == "minatar"
                yield Job(
                    game,
                    seed,
                    rules=rules,
                    cap=math.inf,
                    goal=math.inf,
                    steps=settings.total_timesteps,
                    policy=settings.policies / f"{game}.pt" if is_kept else None,
                )


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
