"""Compare settings of PPO on an environment: seeds by settings, as many trainings at a time as there are cores.

    python bench/tune.py --env Acrobot-v1 --try "" "n_epochs=10" "n_epochs=10; lr=[1e-3, 0.0] | [5e-3, 0.0]" --seeds 4

Each `--try` changes the preset; `|` stands between values to be tried in turn, so the third is two tries. All trainings
go on to the end of their steps, then the policy plays in other environments, with its likeliest actions. The best come
first, by the mean over their seeds; after it half of its 95 % interval, by Student's distribution.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from learning_run import EPISODES, Job, Run, config_of, goal_of, in_pool, preset_of
from levels import half_interval
from machine import command, describe, refuse_below, write
from page import table

# Other seeds than those that `levels.py` measures: a preset that is chosen by its own seeds looks better than it is.
FIRST_SEED = 1_000


@dataclass(frozen=True)
class Settings:
    """Compare settings of PPO on an environment."""

    env: str
    """Environment of operant_gpu."""
    tries: Annotated[tuple[str, ...], tyro.conf.arg(name="try")] = ("",)
    """Changes to the preset: "name=value; name=value | value", values in JSON."""
    seeds: int = 3
    """How many seeds each setting is trained with."""
    steps: int | None = None
    """Environment steps of a training; the preset's if not given."""
    episodes: int = 1_000
    """Episodes that each policy plays afterwards."""
    processes: int = os.cpu_count() or 1
    """Trainings at a time, each with one thread."""
    json: Path | None = None
    """Where to write what was measured, if anywhere; runs that are in it already are not done again."""


def main(settings: Settings) -> None:
    """Train, and print a table of all tries."""
    refuse_below(settings, seeds=1, episodes=1)
    job = Job(settings.env, cap=math.inf, goal=math.inf, steps=settings.steps, episodes=settings.episodes)
    jobs = []
    for changes in (one for text in settings.tries for one in alternatives(text)):
        tried = replace(job, changes=json.dumps(changes))
        # To refuse what makes no sense before anything is trained.
        config_of(tried)
        jobs += [replace(tried, seed=FIRST_SEED + number) for number in range(settings.seeds)]
    report: dict[str, Any] = {**describe(), "runs": []}
    if settings.json and settings.json.exists():
        report["runs"] = json.loads(settings.json.read_text())["runs"]
    done = [entry["name"] for entry in report["runs"] if not entry["run"]["error"]]
    for each, run in in_pool([each for each in jobs if name_of(each) not in done], settings.processes):
        report["runs"].append({"name": name_of(each), "run": asdict(run)})
        print(f"{each.changes} seed {each.seed}: {run.error or run.evaluation}", flush=True)
        if settings.json:
            write(report, settings.json)
    known = {entry["name"]: Run(**entry["run"]) for entry in report["runs"]}
    print(table_of([(each.changes, known[name_of(each)]) for each in jobs], goal_of(Job(settings.env))))


def name_of(job: Job) -> str:
    """Return what tells a training from others, whatever the preset was when it was done."""
    preset = json.dumps(preset_of(config_of(job)), sort_keys=True)
    return f"{job.env}, seed {job.seed}, {job.episodes} episodes, {preset}"


def alternatives(text: str) -> Iterator[dict[str, Any]]:
    """Yield the changes that a text stands for, one for each combination of its values."""
    names, values = [], []
    for part in filter(str.strip, text.split(";")):
        name, _, choices = part.partition("=")
        names.append(name.strip())
        try:
            values.append([json.loads(choice) for choice in choices.split("|")])
        except json.JSONDecodeError:
            raise SystemExit(f"--try: expected 'name=value; name=value | value' in JSON, got {part!r}") from None
    for combination in itertools.product(*values):
        yield dict(zip(names, combination, strict=True))


def table_of(runs: Sequence[tuple[str, Run]], goal: float) -> str:
    """Return a row for each try, the best first; a training that failed counts as the worst of all."""
    rows = []
    for changes in dict.fromkeys(changes for changes, _ in runs):
        those = [run for other, run in runs if other == changes]
        means = [-math.inf if run.evaluation is None or math.isnan(run.evaluation) else run.evaluation for run in those]
        steps, seconds = (statistics.median(one) for one in zip(*(to_goal(run, goal) for run in those), strict=True))
        half = math.nan if -math.inf in means else half_interval(means)
        cells = (
            changes,
            str(len(those)),
            f"{statistics.mean(means):.5g} ± {half:.2g}",
            f"[{min(means):.5g}, {max(means):.5g}]",
            f"{statistics.mean(math.nan if run.mean_return is None else run.mean_return for run in those):.5g}",
            f"{steps:,.0f}",
            f"{seconds:.2f}",
            f"{statistics.median(run.cpu_seconds for run in those):.1f}",
        )
        rows.append((statistics.mean(means), cells))
    headings = (
        "changes",
        "seeds",
        "plays",
        "least, most",
        "last episodes",
        f"steps to {goal:g}",
        "seconds to it",
        "in all",
    )
    return table(headings, [cells for _, cells in sorted(rows, reverse=True)])


def to_goal(run: Run, goal: float) -> tuple[float, float]:
    """Return steps and seconds until the last 100 episodes had a mean return as high; infinite if never."""
    points = zip(*(run.curve[name] for name in ("timesteps", "seconds", "episodes", "mean_return")), strict=True)
    solved = ((steps, seconds) for steps, seconds, ended, mean in points if ended >= EPISODES and mean >= goal)
    return next(solved, (math.inf, math.inf))


if __name__ == "__main__":
    command(main, Settings)
