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
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from learning_run import Job, Rules, Run, in_processes, preset_of
from machine import RESULTS, describe, write
from page import table
from published import LEVELS, Level, millions
from scipy import stats
from tune import half_interval

from operant_gpu.models import PPOConfig, presets
from operant_gpu.models.presets import mean_with

DATA, POLICIES = RESULTS / "levels.json", Path(__file__).parents[1] / "build" / "policies"
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
    jobs = {job_of(level, seed): level for level in wanted(settings) for seed in seeds_of(level, settings)}
    ended: dict[str, list[Run]] = defaultdict(list)
    expected = True
    for job, run in in_processes(list(jobs), settings.processes):
        level = jobs[job]
        if settings.check:
            expected &= is_expected(level.key, run, report["trainings"].get(level.key))
            continue
        if run.error:
            raise SystemExit(f"{level.key}, seed {run.seed}: {run.error}")
        ended[level.key].append(run)
        if len(ended[level.key]) == len(seeds_of(level, settings)):
            keep(report, level, sorted(ended[level.key], key=lambda run: run.seed))
            print(level.key, plays(report["trainings"][level.key]), flush=True)
    return 0 if expected else 1


def wanted(settings: Settings) -> Iterator[Level]:
    """Yield a level of each training to be done."""
    for level in {level.key: level for level in LEVELS}.values():
        if level.env in settings.envs and level.rules in settings.rules and settings.steps in (None, level.steps):
            yield level


def seeds_of(level: Level, settings: Settings) -> Sequence[int]:
    """Return the seeds of a training."""
    if settings.seed is not None:
        return [settings.seed]
    return range(settings.seeds or (SEEDS_OF_GAMES if is_game(level) else SEEDS))


def keep(report: dict[str, Any], level: Level, runs: Sequence[Run]) -> None:
    """Put a training into the report, in the order of the levels and without those that are no more; write it."""
    preset = preset_of(PPOConfig.for_env(level.env))
    trainings = report["trainings"] | {level.key: describe() | {"preset": preset, "runs": list(map(asdict, runs))}}
    report["trainings"] = {key: trainings[key] for key in dict.fromkeys(one.key for one in LEVELS) if key in trainings}
    write(report, DATA, "")


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


def is_expected(key: str, run: Run, training: dict[str, Any] | None) -> bool:
    """Say how a seed compares with those on record; return whether it lies where 95 % of new seeds are expected."""
    if training is None or run.evaluation is None:
        print(f"{key}, seed {run.seed}: {run.error or 'there is nothing on record to compare it with'}")
        return False
    known = evaluations(training)
    half = float(stats.t.ppf(0.975, len(known) - 1)) * statistics.stdev(known) * math.sqrt(1 + 1 / len(known))
    least, most = min(*known, statistics.mean(known) - half), max(*known, statistics.mean(known) + half)
    verdict = "as expected" if least <= run.evaluation <= most else "NOT as expected"
    print(f"{key}, seed {run.seed}: {run.evaluation:.5g}, expected {least:.5g} to {most:.5g}: {verdict}")
    return least <= run.evaluation <= most


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
            level.said,
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
