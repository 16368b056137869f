"""Measure what PPO's presets learn, and hold it against the best that others have published at as many steps.

    python bench/levels.py [--envs Pendulum-v1 ...] [--steps 300000] [--seeds 10]
    python bench/levels.py --envs Pendulum-v1 --check 3      # trains with this seed, and compares with the record

As many trainings at a time as there are cores, each with one thread, to the end of their steps; then the policy plays
in other environments, with its likeliest actions. When all seeds of a training have ended, it writes
bench/results/levels.json, where other trainings stay as they were, and the table in docs/settings.md. `python
bench/learning.py --render-only` writes docs/results.md from it.
"""

from __future__ import annotations

import bisect
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
from learning_run import Job, Rules, Run, in_processes
from machine import RESULTS, describe, write
from page import fill, table
from published import TARGETS, Target
from scipy import stats

from operant_gpu.models import PPOConfig, presets
from operant_gpu.models.presets import mean_with, millions

DATA, POLICIES = RESULTS / "levels.json", Path(__file__).parents[1] / "build" / "policies"
PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
# Of what trains in a minute, and of what takes longer.
SEEDS, SEEDS_OF_LONG = 10, 3
EPISODES_PLAYED, EPISODES_OF_LONG = 10_000, 1_000


@dataclass(frozen=True)
class Settings:
    """Measure what PPO's presets learn."""

    envs: tuple[str, ...] = tuple(dict.fromkeys(level.env for level in TARGETS))
    """Environments to learn."""
    steps: int | None = None
    """Only trainings of so many steps."""
    rules: tuple[Rules, ...] = ("minatar", "gymnax")
    """Rules of MinAtar's games."""
    seeds: int | None = None
    """How many seeds of each, at least 2; 10, and 3 of games, if not given."""
    processes: int = os.cpu_count() or 1
    """Trainings at a time, each with one thread."""
    check: int | None = None
    """A seed to train and compare with the record: nothing is written, and the exit status is 1 if it is unlike."""


def main(settings: Settings) -> int:
    """Train, and write or compare; return the exit status."""
    report = on_record()
    levels = [level for level in wanted(settings) if settings.check is None or level.key in report["trainings"]]
    if not levels:
        known = ", ".join(dict.fromkeys(level.key for level in TARGETS))
        record = "" if settings.check is None else " that is on record"
        raise SystemExit(f"there is no training{record} of {settings.envs}, {settings.steps} steps; trainings: {known}")
    if settings.seeds is not None and settings.seeds < 2:
        raise SystemExit(
            f"--seeds: expected at least 2, which have an interval, got {settings.seeds}; --check takes one"
        )
    jobs = {job_of(level, seed): level for level in levels for seed in seeds_of(level, settings)}
    ended: dict[str, list[Run]] = defaultdict(list)
    expected = True
    for job, run in in_processes(list(jobs), settings.processes):
        level = jobs[job]
        if run.error:
            raise SystemExit(f"{level.key}, seed {run.seed}: {run.error}")
        if settings.check is not None:
            expected &= is_expected(level.key, run, evaluations(report["trainings"][level.key]))
            continue
        ended[level.key].append(run)
        if len(ended[level.key]) == len(seeds_of(level, settings)):
            runs = sorted(ended[level.key], key=lambda run: run.seed)
            training = describe() | {"runs": list(map(asdict, runs))}
            keep(level, training)
            print(level.key, plays(training), flush=True)
    return 0 if expected else 1


def wanted(settings: Settings) -> Iterator[Target]:
    """Yield a level of each training to be done."""
    for level in {level.key: level for level in TARGETS}.values():
        if level.env in settings.envs and level.rules in settings.rules and settings.steps in (None, level.steps):
            yield level


def seeds_of(level: Target, settings: Settings) -> Sequence[int]:
    """Return the seeds of a training."""
    if settings.check is not None:
        return [settings.check]
    return range(settings.seeds or (SEEDS_OF_LONG if is_long(level) else SEEDS))


def on_record() -> dict[str, Any]:
    """Return what has been measured before."""
    return json.loads(DATA.read_text()) if DATA.exists() else {"trainings": {}}


def keep(level: Target, training: dict[str, Any]) -> None:
    """Put a training on record, in the order of the levels and without those that are no more."""
    # Read anew: another process may have written since.
    report = on_record()
    trainings = report["trainings"] | {level.key: training}
    report["trainings"] = {key: trainings[key] for key in dict.fromkeys(one.key for one in TARGETS) if key in trainings}
    write(report, DATA, "")
    fill(PAGE, "usual", presets_table(report))


def is_long(level: Target) -> bool:
    """Tell whether a training takes minutes."""
    return level.steps > 2_000_000


def job_of(level: Target, seed: int) -> Job:
    """Return a training to the end of its steps."""
    return Job(
        level.env,
        seed,
        rules=level.rules,
        cap=math.inf,
        goal=math.inf,
        steps=level.steps,
        episodes=EPISODES_OF_LONG if is_long(level) else EPISODES_PLAYED,
        policy=POLICIES / f"{level.env}.pt" if is_long(level) and seed == 0 and level.rules == "minatar" else None,
    )


def evaluations(training: dict[str, Any]) -> list[float]:
    """Return the mean return of each seed's policy."""
    return [run["evaluation"] for run in training["runs"]]


def is_expected(key: str, run: Run, known: Sequence[float]) -> bool:
    """Say how a seed compares with those on record.

    Returns:
        Whether it lies where 95 % of new seeds are to be expected, or between the least and the most on record; all to
        a thousandth, since other processors round differently.
    """
    assert run.evaluation is not None
    # The scatter of one more seed about the mean of those that are known.
    half = half_interval(known) * math.sqrt(len(known) + 1)
    least, most = min(*known, statistics.mean(known) - half), max(*known, statistics.mean(known) + half)
    tolerance = 1e-3 * max(abs(least), abs(most))
    found = least - tolerance <= run.evaluation <= most + tolerance
    verdict = "as expected" if found else "NOT as expected"
    print(f"{key}, seed {run.seed}: {run.evaluation:.5g}, expected {least:.5g} to {most:.5g}: {verdict}")
    return found


def half_interval(values: Sequence[float]) -> float:
    """Return half of the 95 % interval of the mean, by Student's distribution; NaN for one value."""
    if len(values) < 2:
        return math.nan
    return float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


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
    reached = bisect.bisect_right(curve["timesteps"], steps)
    return curve["mean_return"][max(0, reached - 1)]


def median_seconds(training: dict[str, Any]) -> float:
    """Return the seconds of a core that a training takes."""
    return float(statistics.median(run["cpu_seconds"] for run in training["runs"]))


def reached(training: dict[str, Any], level: Target) -> list[float]:
    """Return what each seed has reached of a level: what its policy plays, or the training's mean if it goes on."""
    if level.at is None:
        return evaluations(training)
    return [at(run["curve"], level.at) for run in training["runs"]]


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
        for level in measured(report, TARGETS)
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


def measured(report: dict[str, Any], levels: Sequence[Target]) -> list[Target]:
    """Return the levels that have been measured."""
    return [level for level in levels if level.key in report["trainings"]]


def rows(report: dict[str, Any], levels: Sequence[Target]) -> Iterator[list[str]]:
    """Yield a row for each level that has been measured."""
    for level in measured(report, levels):
        training = report["trainings"][level.key]
        # A training goes on to the end of its last iteration.
        after = level.at or training["runs"][0]["timesteps"]
        yield [
            f"`{level.env}`" + ("" if level.rules == "minatar" else f", rules of {level.rules}"),
            f"{millions(level.at)} of {millions(level.steps)}" if level.at else millions(level.steps),
            "" if level.at else plays(training),
            trained(training, after),
            str(len(training["runs"])),
            f"{median_seconds(training):,.1f}",
            "; ".join(filter(None, map(str, filter(None, (level.ppo, level.other))))),
            "" if level.ceiling is None else f"{level.ceiling:.3f}",
        ]


def table_of(report: dict[str, Any], levels: Sequence[Target]) -> str:
    """Return a table of ours beside theirs."""
    headings = ["environment", "steps", "ours plays", "in training", "seeds", "seconds", "published", "best there is"]
    # The last column is of few environments.
    shown = len(headings) if any(level.ceiling for level in levels) else -1
    return table(headings[:shown], [row[:shown] for row in rows(report, levels)])


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Settings)))
