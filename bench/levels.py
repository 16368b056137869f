"""Measure what PPO's presets learn, and hold it against the best that others have published at as many steps.

    python bench/levels.py [--envs Pendulum-v1 ...] [--steps 300000] [--seeds 10]
    python bench/levels.py --check --envs Pendulum-v1 --seed 3      # trains, and compares with what is on record

As many trainings at a time as there are cores, each with one thread, to the end of their steps; then the policy plays
in other environments, with its likeliest actions. Writes bench/results/levels.json after each training's seeds, where
those that are not measured this time stay as they were; `bench/learning.py --render-only` writes the pages from it.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from learning_run import Job, Rules, in_processes, preset_of
from machine import RESULTS, describe, write
from page import half_interval, table
from published import LEVELS, Level, millions
from scipy import stats

from operant_gpu.models import PPOConfig, presets
from operant_gpu.models.presets import mean_with

DATA, POLICIES = RESULTS / "levels.json", Path(__file__).parents[1] / "build" / "policies"
PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
BEGIN, END = "<!-- usual:begin -->", "<!-- usual:end -->"
# Of what trains in a minute, and of games.
SEEDS, SEEDS_OF_GAMES = 10, 3
EPISODES_PLAYED, EPISODES_OF_GAMES = 10_000, 1_000


@dataclass(frozen=True)
class Settings:
    """Measure what PPO's presets learn."""

    envs: tuple[str, ...] = tuple(dict.fromkeys(level.env for level in LEVELS))
    """Environments to learn."""
    steps: int | None = None
    """Only trainings of so many steps."""
    rules: tuple[Rules, ...] = ("minatar", "gymnax")
    """Rules of MinAtar's games."""
    seeds: int | None = None
    """How many seeds of each; 10, and 3 of games, if not given."""
    seed: int | None = None
    """The only seed."""
    processes: int = os.cpu_count() or 1
    """Trainings at a time, each with one thread."""
    check: bool = False
    """Compare with what is on record, and write nothing: the exit status is 1 if a seed is not as expected."""


def main(settings: Settings) -> int:
    """Train, and write or compare; return the exit status."""
    report: dict[str, Any] = json.loads(DATA.read_text()) if DATA.exists() else {"trainings": {}}
    unexpected = 0
    for key, level in trainings().items():
        if level.env not in settings.envs or level.rules not in settings.rules:
            continue
        if settings.steps not in (None, level.steps):
            continue
        seeds = range(settings.seeds or (SEEDS_OF_GAMES if is_game(level) else SEEDS))
        jobs = [job_of(level, seed) for seed in (seeds if settings.seed is None else [settings.seed])]
        runs = sorted((run for _, run in in_processes(jobs, settings.processes)), key=lambda run: run.seed)
        if settings.check:
            known = evaluations(report["trainings"][key])
            unexpected += sum([not is_expected(key, run.seed, run.evaluation, known) for run in runs])
            continue
        preset = preset_of(PPOConfig.for_env(level.env))
        report["trainings"][key] = describe() | {"preset": preset, "runs": [asdict(run) for run in runs]}
        # In the order in which they are listed, without those that are not any more.
        kept = [key for key in trainings() if key in report["trainings"]]
        report["trainings"] = {key: report["trainings"][key] for key in kept}
        write(report, DATA, "")
        print(key, plays(report["trainings"][key]), flush=True)
    return min(unexpected, 1)


def trainings() -> dict[str, Level]:
    """Return a level of each training, by the training's name in the raw data."""
    return {level.key: level for level in LEVELS}


def is_game(level: Level) -> bool:
    """Tell whether an environment takes minutes to learn."""
    return level.steps > 2_000_000


def job_of(level: Level, seed: int) -> Job:
    """Return a training to the end of its steps."""
    return Job(
        level.env,
        seed,
        rules=level.rules,
        cap=math.inf,
        goal=math.inf,
        steps=level.steps,
        episodes=EPISODES_OF_GAMES if is_game(level) else EPISODES_PLAYED,
        policy=POLICIES / f"{level.env}.pt" if is_game(level) and seed == 0 and level.rules == "minatar" else None,
    )


def evaluations(training: dict[str, Any]) -> list[float]:
    """Return the mean return of each seed's policy."""
    return [run["evaluation"] for run in training["runs"]]


def is_expected(key: str, seed: int, level: float | None, known: Sequence[float]) -> bool:
    """Say how a seed compares with those on record; return whether it lies where 95 % of new seeds are expected."""
    half = float(stats.t.ppf(0.975, len(known) - 1)) * statistics.stdev(known) * math.sqrt(1 + 1 / len(known))
    least, most = statistics.mean(known) - half, statistics.mean(known) + half
    expected = level is not None and (least <= level <= most or min(known) <= level <= max(known))
    print(
        f"{key}, seed {seed}: {level}, expected {least:.5g} to {most:.5g}: {'as expected' if expected else 'OUTSIDE'}"
    )
    return expected


def summary(values: Sequence[float]) -> str:
    """Return mean and half of its 95 % interval, and the least and the most."""
    return f"{mean_with(statistics.mean(values), half_interval(values))} [{min(values):.4g}, {max(values):.4g}]"


def plays(training: dict[str, Any]) -> str:
    """Return what the policies of a training play."""
    return summary(evaluations(training))


def trained(training: dict[str, Any], steps: int) -> str:
    """Return the mean return of the last 100 episodes of a training after a number of steps."""
    return summary([at(run["curve"], steps) for run in training["runs"]])


def at(curve: dict[str, list[float]], steps: int) -> float:
    """Return the last mean return of a curve that is no later than a number of steps."""
    points = zip(curve["timesteps"], curve["mean_return"], strict=True)
    return [mean for after, mean in points if after <= steps or after == curve["timesteps"][0]][-1]


def median_seconds(training: dict[str, Any]) -> float:
    """Return the seconds of a core that a training takes."""
    return float(statistics.median(run["cpu_seconds"] for run in training["runs"]))


def presets_of(report: dict[str, Any]) -> dict[str, presets.Level]:
    """Return what each preset learns in as many steps as it has, of those that have been measured."""
    return {
        level.env: presets.Level(
            steps=level.steps,
            mean_return=round(statistics.mean(evaluations(training)), 3),
            half_interval=round(half_interval(evaluations(training)), 3),
            seconds=round(median_seconds(training), 1),
            seeds=len(training["runs"]),
        )
        for level in measured(report, LEVELS)
        if not level.at and level.rules == "minatar" and level.steps == PPOConfig.for_env(level.env).total_timesteps
        for training in [report["trainings"][level.key]]
    }


def presets_table(report: dict[str, Any]) -> str:
    """Return a row for each preset that has been measured."""
    rows = [
        (
            env,
            f"{level.steps:,}",
            mean_with(level.mean_return, level.half_interval),
            str(level.seeds),
            f"{level.seconds:,.1f}",
        )
        for env, level in presets_of(report).items()
    ]
    return table(("environment", "steps", "then plays", "seeds", "seconds"), rows)


def measured(report: dict[str, Any], levels: Sequence[Level]) -> list[Level]:
    """Return the levels that have been measured."""
    return [level for level in levels if level.key in report["trainings"]]


def rows(report: dict[str, Any], levels: Sequence[Level]) -> Iterator[list[str]]:
    """Yield a row for each level that has been measured."""
    for level in measured(report, levels):
        training = report["trainings"][level.key]
        # A training goes on to the end of its last iteration.
        after = level.at or training["runs"][0]["timesteps"]
        yield [
            f"`{level.env}`",
            f"{millions(level.at)} of {millions(level.steps)}" if level.at else millions(level.steps),
            "" if level.at else plays(training),
            trained(training, after),
            str(len(training["runs"])),
            f"{median_seconds(training):,.1f}",
            "; ".join(filter(None, map(str, filter(None, (level.ppo, level.other))))),
            "" if level.ceiling is None else f"{level.ceiling:.3f}",
        ]


def table_of(report: dict[str, Any], levels: Sequence[Level]) -> str:
    """Return a table of ours beside theirs."""
    headings = ("environment", "steps", "ours plays", "in training", "seeds", "seconds", "published", "best there is")
    return table(headings, list(rows(report, levels)))


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Settings)))
