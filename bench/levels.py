"""Measure what PPO's presets learn, and hold it against the best that others have published at as many steps.

    python bench/levels.py [--envs Pendulum-v1 ...] [--steps 300000] [--seeds 10]
    python bench/levels.py --envs Pendulum-v1 --check 3      # trains with this seed, and compares with the record

As many trainings at a time as there are cores, each with one thread, to the end of their steps; then the policy plays
in other environments, with its likeliest actions. When all seeds of a training have ended, it writes
bench/results/levels.json, where other trainings stay as they were, and what the package says of its presets
(`presets.LEVELS`, the docstring of `PPOConfig.for_env`, docs/settings.md). Until then build/levels keeps the seeds that
have ended, and the same command goes on from there if it was cut off. `python bench/learning.py --render-only` compares
the levels with what others have published, in docs/results.md and docs/games.md. The first policy of what takes minutes
goes to build/policies.
"""

from __future__ import annotations

import bisect
import json
import math
import os
import re
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from learning_run import Job, Rules, Run, in_pool
from machine import RESULTS, command, describe, write
from page import fill, small, table
from published import TARGETS, Target
from scipy import stats

from operant_gpu.models import PPOConfig, presets
from operant_gpu.models.presets import mean_with, millions, number_like

ROOT = Path(__file__).parents[1]
DATA, PAGE = RESULTS / "levels.json", ROOT / "docs" / "settings.md"
POLICIES, RUNS = ROOT / "build" / "policies", ROOT / "build" / "levels"
# Where the package says what its presets learn, and how the lines look that say it.
PRESETS, ENTRY = ROOT / "operant_gpu" / "models" / "presets.py", '    "{env}": Level({numbers}),'
CONFIG, ITEM = ROOT / "operant_gpu" / "models" / "config.py", "        - {env}: {level}"
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
    """How many seeds of each, at least 2; 10, and 3 of what takes minutes, if not given."""
    processes: int = os.cpu_count() or 1
    """Trainings at a time, each with one thread."""
    check: int | None = None
    """A seed to train and compare with the record: nothing is written, and the exit status is 1 if it is unlike."""


def main(settings: Settings) -> int:
    """Train, and write or compare; return the exit status."""
    report, targets = on_record(), wanted(settings)
    if settings.check is not None:
        targets = [target for target in targets if target.key in report["trainings"]]
        if not targets:
            raise SystemExit(f"--check: there is none of these on record: {', '.join(report['trainings'])}")
    for target in targets:
        before = len(report["trainings"].get(target.key, {"runs": ()})["runs"])
        if settings.seeds is not None and settings.seeds < before:
            message = f"--seeds: expected at least {before}, as many as {target.key} has on record"
            raise SystemExit(f"{message}, got {settings.seeds}; to try settings, use bench/tune.py")
    jobs = {job_of(target, seed, settings): target for target in targets for seed in seeds_of(target, settings)}
    ended: dict[str, list[Run]] = defaultdict(list)
    expected = True
    for job, run in in_pool(list(jobs), settings.processes):
        target = jobs[job]
        if run.error:
            raise SystemExit(f"{target.key}, seed {run.seed}: {run.error}")
        if settings.check is not None:
            expected &= is_expected(run, report["trainings"][target.key], target.key)
            continue
        ended[target.key].append(run)
        if len(ended[target.key]) == len(seeds_of(target, settings)):
            runs = sorted(ended[target.key], key=lambda run: run.seed)
            training = describe() | {"runs": list(map(asdict, runs))}
            keep(target, training)
            for job, of in jobs.items():
                if job.json and of == target:
                    job.json.unlink()
            print(target.key, plays(training), flush=True)
    return 0 if expected else 1


def wanted(settings: Settings) -> list[Target]:
    """Return a target of each training to be done.

    Raises:
        SystemExit: If there is none of some environment, or numbers make no sense.
    """
    targets = {
        target.key: target
        for target in TARGETS
        if target.env in settings.envs and target.rules in settings.rules and settings.steps in (None, target.steps)
    }
    # Those of an environment may all have other steps or rules: then the rest is trained.
    missing = set(settings.envs) - {target.env for target in (TARGETS if targets else ())}
    if missing or not targets:
        known = ", ".join(dict.fromkeys(target.key for target in TARGETS))
        asked = ", ".join(sorted(missing)) or "no environment"
        raise SystemExit(f"there is no such training of {asked}; trainings: {known}")
    if settings.seeds is not None and settings.check is not None:
        raise SystemExit("--seeds: not with --check, which trains the one seed that it names")
    if settings.seeds is not None and settings.seeds < 2:
        raise SystemExit(f"--seeds: expected at least 2 for an interval, got {settings.seeds}")
    return list(targets.values())


def seeds_of(target: Target, settings: Settings) -> Sequence[int]:
    """Return the seeds of a training."""
    if settings.check is not None:
        return [settings.check]
    return range(settings.seeds or (SEEDS_OF_LONG if is_long(target) else SEEDS))


def on_record() -> dict[str, Any]:
    """Return what has been measured before."""
    return json.loads(DATA.read_text()) if DATA.exists() else {"trainings": {}}


def keep(target: Target, training: dict[str, Any]) -> None:
    """Put a training on record, in the order of the targets and without those that are no more."""
    # Read anew: another process may have written since.
    report = on_record()
    trainings = report["trainings"] | {target.key: training}
    report["trainings"] = {key: trainings[key] for key in dict.fromkeys(one.key for one in TARGETS) if key in trainings}
    write(report, DATA)
    fill(PAGE, "usual", presets_table(report))
    levels = presets_of(report)
    put_lines(PRESETS, ENTRY, [{"env": env, "numbers": numbers_of(level)} for env, level in levels.items()])
    put_lines(CONFIG, ITEM, [{"env": env, "level": level} for env, level in levels.items()])


def numbers_of(level: presets.Level) -> str:
    """Return the arguments of a level."""
    return f"{level.steps:_}, " + ", ".join(map(str, level[1:]))


def put_lines(path: Path, form: str, values: Sequence[dict[str, Any]]) -> None:
    """Put lines of a form in place of the block of such lines that a file has."""
    line = re.sub(r"\\\{\w+\\\}", ".+", re.escape(form))
    block = "".join(form.format(**value) + "\n" for value in values)
    text, found = re.subn(rf"(?:^{line}\n)+", lambda _: block, path.read_text(), flags=re.MULTILINE)
    if found != 1:
        raise SystemExit(f"{path}: expected one block of lines such as {form!r}, found {found}")
    path.write_text(text)


def is_long(target: Target) -> bool:
    """Tell whether a training takes minutes."""
    return target.steps > 2_000_000


def job_of(target: Target, seed: int, settings: Settings) -> Job:
    """Return a training to the end of its steps."""
    kept = is_long(target) and seed == 0 and target.rules == "minatar" and settings.check is None
    return Job(
        target.env,
        seed,
        rules=target.rules,
        cap=math.inf,
        goal=math.inf,
        steps=target.steps,
        episodes=EPISODES_OF_LONG if is_long(target) else EPISODES_PLAYED,
        policy=POLICIES / f"{target.env}.pt" if kept else None,
        json=RUNS / f"{target.key}, seed {seed}.json" if settings.check is None else None,
    )


def evaluations(training: dict[str, Any]) -> list[float]:
    """Return the mean return of each seed's policy."""
    return [run["evaluation"] for run in training["runs"]]


def is_expected(run: Run, training: dict[str, Any], key: str) -> bool:
    """Say how a seed compares with those on record, and with itself if it is among them.

    Returns:
        Whether it lies where 95 % of new seeds are to be expected, or between the least and the most on record; all to
        a thousandth, since other processors round differently.
    """
    assert run.evaluation is not None
    known = evaluations(training)
    # The scatter of one more seed about the mean of those that are known.
    half = half_interval(known) * math.sqrt(len(known) + 1)
    least, most = min(*known, statistics.mean(known) - half), max(*known, statistics.mean(known) + half)
    tolerance = 1e-3 * max(abs(least), abs(most))
    found = least - tolerance <= run.evaluation <= most + tolerance
    before = "".join(f" ({one['evaluation']:.5g} on record)" for one in training["runs"] if one["seed"] == run.seed)
    verdict = "as expected" if found else "NOT as expected"
    print(f"{key}, seed {run.seed}: {run.evaluation:.5g}{before}, expected {least:.5g} to {most:.5g}: {verdict}")
    return found


def half_interval(values: Sequence[float]) -> float:
    """Return half of the 95 % interval of the mean, by Student's distribution; NaN for one value."""
    if len(values) < 2:
        return math.nan
    return float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def summary(values: Sequence[float]) -> str:
    """Return mean and half of its 95 % interval, and the least and the most."""
    mean = statistics.mean(values)
    least, most = (number_like(value, mean) for value in (min(values), max(values)))
    return f"{mean_with(mean, half_interval(values))} [{least}, {most}]"


def plays(training: dict[str, Any]) -> str:
    """Return what the policies of a training play, and how many of their games were cut, if any."""
    cut = sum(run.get("cut", 0) for run in training["runs"])
    return summary(evaluations(training)) + (f", {cut} games cut" if cut else "")


def trained(training: dict[str, Any], steps: int) -> str:
    """Return the mean return of the last 100 episodes of a training after a number of steps."""
    return summary([at(run["curve"], steps) for run in training["runs"]])


def at(curve: dict[str, list[float]], steps: int) -> float:
    """Return the last mean return of a curve that is no later than a number of steps, or its first."""
    earlier = bisect.bisect_right(curve["timesteps"], steps)
    return curve["mean_return"][max(0, earlier - 1)]


def median_seconds(training: dict[str, Any]) -> float:
    """Return the seconds of processor time that a training takes."""
    return float(statistics.median(run["cpu_seconds"] for run in training["runs"]))


def reached(training: dict[str, Any], target: Target) -> list[float]:
    """Return what each seed has reached of a target: what its policy plays, or the training's mean if it goes on."""
    if target.at is None:
        return evaluations(training)
    return [at(run["curve"], target.at) for run in training["runs"]]


def presets_of(report: dict[str, Any]) -> dict[str, presets.Level]:
    """Return what each preset learns in as many steps as it has, of those that have been measured."""
    return {
        target.env: presets.Level(
            steps=target.steps,
            mean_return=round(statistics.mean(evaluations(training)), 3),
            half_interval=round(half_interval(evaluations(training)), 3),
            seconds=round(median_seconds(training), 1),
            seeds=len(training["runs"]),
        )
        for target in measured(report, TARGETS)
        if not target.at and target.rules == "minatar" and target.steps == PPOConfig.for_env(target.env).total_timesteps
        for training in [report["trainings"][target.key]]
    }


def presets_table(report: dict[str, Any]) -> str:
    """Return a row for each preset that has been measured."""
    cells = [
        (env, f"{level.steps:,}", level.said, str(level.seeds), f"{level.seconds:,.1f}")
        for env, level in presets_of(report).items()
    ]
    return table(("environment", "steps", "mean return", "seeds", "seconds"), cells)


def measured(report: dict[str, Any], targets: Sequence[Target]) -> list[Target]:
    """Return the targets whose trainings have been measured."""
    return [target for target in targets if target.key in report["trainings"]]


def name_of(target: Target) -> str:
    """Return an environment, and its rules where they are not its own."""
    return f"`{target.env}`" + ("" if target.rules == "minatar" else f", rules of {target.rules}")


def steps_of(target: Target) -> str:
    """Return the steps of a target, and those of its training where that goes on."""
    steps = f"{millions(target.at)} of {millions(target.steps)}" if target.at else millions(target.steps)
    return steps.replace(" ", "\N{NO-BREAK SPACE}")


def levels_table(report: dict[str, Any], targets: Sequence[Target]) -> str:
    """Return a row for each target that has been measured: what is learned of it."""
    rows = []
    for target in measured(report, targets):
        training = report["trainings"][target.key]
        # A training goes on to the end of its last iteration.
        after = target.at or training["runs"][0]["timesteps"]
        rows.append(
            (
                name_of(target),
                steps_of(target),
                "" if target.at else small(plays(training)),
                small(trained(training, after)),
                str(len(training["runs"])),
                "" if target.at else f"{median_seconds(training):,.1f}",
            )
        )
    return table(("environment", "steps", "policy", "in training", "seeds", "seconds"), rows)


def published_table(report: dict[str, Any], targets: Sequence[Target]) -> str:
    """Return a row for each target that has been measured and can be compared: ours, and the best of others."""
    rows = []
    for target in measured(report, targets):
        if target.best is None and target.ceiling is None:
            continue
        ours = statistics.mean(reached(report["trainings"][target.key], target))
        others = ("" if figure is None else str(figure) for figure in (target.ppo, target.other))
        ceiling = "" if target.ceiling is None else f"{target.ceiling:.3f}"
        rows.append((name_of(target), steps_of(target), number_like(ours, ours), *others, ceiling))
    headings = ("environment", "steps", "ours", "others' PPO", "others' other learners", "best possible")
    # The last column is of few environments.
    shown = len(headings) if any(target.ceiling for target in targets) else -1
    return table(headings[:shown], [cells[:shown] for cells in rows])


if __name__ == "__main__":
    command(main, Settings)
