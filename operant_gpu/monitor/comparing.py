"""Two sets of runs side by side: interquartile means over seeds, how sure they are, and how often one set is better."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from operant_gpu.errors import InvalidConfig
from operant_gpu.models.config import PPOConfig
from operant_gpu.models.statistics import Numbers, bootstrap, interquartile_mean
from operant_gpu.monitor.curve import Line, draw_lines, png
from operant_gpu.monitor.reader import RunReader, each_once, read_description, runs_in
from operant_gpu.monitor.view import LEAST_EPISODES

# Of a run's settings, what is no reason for another result, or the very thing that is varied.
_IGNORED = ("seed", "checkpoint_dir", "checkpoint_interval", "checkpoint_keep", "log_interval")
_FEW = 5
# Characters of a name in a legend, at most.
_LEGEND = 50


class Estimate(NamedTuple):
    """A number, and its 95 % bootstrap interval, which is too narrow for few runs."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measure:
    """What the runs of one environment came to, on both sides.

    Attributes:
        name: "return", "steps" or "seconds".
        label: The same in words.
        runs: A number for each run, (runs,); infinite where a goal was not reached.
        against: Likewise of the other side.
    """

    name: str
    label: str
    runs: Numbers
    against: Numbers

    def middle(self) -> tuple[Estimate, Estimate]:
        """Return the interquartile mean over the runs of each side."""
        return _estimate([self.runs], interquartile_mean), _estimate([self.against], interquartile_mean)

    def chance(self) -> Estimate:
        """Return how often a run is better than one of the other side, of all pairs; equal ones count half."""
        return _estimate([self.runs, self.against], self._share_better)

    def _share_better(self, runs: Numbers, against: Numbers) -> float:
        """Return the share of pairs in which a run is better than one of the other side."""
        ours, theirs = runs[:, None], against[None, :]
        better = ours > theirs if self.name == "return" else ours < theirs
        return float((better + 0.5 * (ours == theirs)).mean())

    def _scaled(self) -> tuple[Numbers, Numbers]:
        """Return the numbers of both sides from 0, for the least of all, to 1, for the greatest."""
        both = np.concatenate([self.runs, self.against])
        span = np.ptp(both) or 1.0
        return (self.runs - both.min()) / span, (self.against - both.min()) / span


@dataclass(frozen=True)
class Comparison:
    """Two sets of runs side by side.

    Attributes:
        names: What the sides are called in pictures.
        measures: What the runs came to, by environment.
        steps: Timesteps that all runs of an environment have, at which their returns are compared.
        differences: The settings, parameters and machines that differ, with their values on both sides.
        notes: What makes the comparison weaker than it looks.
        curves: Mean return over timesteps of each run of both sides, by environment.
    """

    names: tuple[str, str]
    measures: dict[str, list[Measure]]
    steps: dict[str, int]
    differences: dict[str, tuple[str, str]]
    notes: list[str]
    curves: dict[str, tuple[list[Line], list[Line]]] = field(repr=False)

    def overall(self) -> tuple[Estimate, Estimate, Estimate] | None:
        """Return both sides' interquartile mean over all environments, and the chance; None for one environment.

        The returns of each environment are scaled from 0, for the least of both sides, to 1, for the greatest. The
        chance is the mean over environments. Samples are drawn for each environment by itself.
        """
        if len(self.measures) == 1:
            return None
        returns = [measures[0] for measures in self.measures.values()]
        sides = zip(*(one._scaled() for one in returns), strict=True)
        ours, theirs = (_estimate(side, lambda *strata: interquartile_mean(np.concatenate(strata))) for side in sides)

        def chance(*strata: Numbers) -> float:
            pairs = zip(returns, strata[::2], strata[1::2], strict=True)
            return float(np.mean([one._share_better(runs, against) for one, runs, against in pairs]))

        pairs = itertools.chain.from_iterable((one.runs, one.against) for one in returns)
        return ours, theirs, _estimate(list(pairs), chance)

    def numbers(self) -> dict[str, Any]:
        """Return all of it in a form fit for JSON; None stands for a goal that was not reached."""
        overall = self.overall()
        return {
            "environments": {
                env: {one.name: {"label": one.label, **_numbers(one)} for one in measures}
                for env, measures in self.measures.items()
            },
            **({} if overall is None else {"all": _named(*overall)}),
            "differences": self.differences,
            "notes": self.notes,
        }

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draw the learning curves of both sides as a PNG: a line for the interquartile mean, with a 95 % band.

        Raises:
            InvalidConfig: If the path is none of a PNG.
            OSError: If the file cannot be written.
        """
        panels = {env: dict(zip(self.names, curves, strict=True)) for env, curves in self.curves.items()}
        draw_lines(panels, self.steps, png("out", path))


def compare(
    runs: Sequence[str | os.PathLike[str]],
    against: Sequence[str | os.PathLike[str]],
    goal: float | None = None,
) -> Comparison:
    """Compare trainings with others of the same environments, such as those of several seeds with other settings.

    Args:
        runs: Directories of runs, or of several runs, as `operant-gpu train ENV --seeds 10` makes them.
        against: Likewise.
        goal: Mean return to which steps and seconds are counted; the runs' own, if all have the same, for None.

    Raises:
        InvalidConfig: If one is no run's directory, has not learned anything yet, is given twice, or ends before
            another has a return; or if an environment is on one side only.
    """
    sides = [_trainings(name, folders) for name, folders in (("runs", runs), ("against", against))]
    if both := {one.folder.resolve() for one in sides[0]} & {one.folder.resolve() for one in sides[1]}:
        raise InvalidConfig("against", f"{str(min(both))!r} is on both sides: leave it out on one")
    envs = [list(dict.fromkeys(one.env for one in side)) for side in sides]
    if alone := set(envs[0]) ^ set(envs[1]):
        raise InvalidConfig("against", f"{min(alone)} is on one side only: give runs of it on both, or on none")
    if goal is not None and not (isinstance(goal, int | float | np.number) and math.isfinite(goal)):
        raise InvalidConfig("goal", f"expected a finite number, got {goal!r}")
    measures, curves = dict[str, list[Measure]](), dict[str, tuple[list[Line], list[Line]]]()
    steps = dict[str, int]()
    for env in envs[0]:
        ours, theirs = ([one for one in side if one.env == env] for side in sides)
        steps[env] = _common_steps([*ours, *theirs])
        measures[env] = list(_measures(ours, theirs, goal, steps[env]))
        curves[env] = [one.line for one in ours], [one.line for one in theirs]
    names = _name(runs, "runs"), _name(against, "against")
    notes = list(_notes(*sides))
    if goalless := [env for env, found in measures.items() if len(found) == 1]:
        notes.append(
            f"the runs of {', '.join(goalless)} have no goal in common: --goal counts steps and seconds to one"
        )
    return Comparison(names, measures, steps, _differences(*sides), notes, curves)


def _name(folders: Sequence[str | os.PathLike[str]], otherwise: str) -> str:
    """Return what a legend calls a side: its directories, if they are few."""
    name = ", ".join(str(folder) for folder in folders)
    return name if len(name) <= _LEGEND else otherwise


@dataclass(frozen=True)
class _Training:
    """A run as it is compared, with a number for each reading that counts.

    Those count before which as many episodes have ended as there are environments, and at least 100: of episodes that
    begin together the first to end are the shortest. A run without one `is_early`, and has all of its readings.
    """

    folder: Path
    env: str
    goal: float | None
    state: str
    settings: dict[str, str]
    machine: str
    is_early: bool
    steps: Numbers
    returns: Numbers
    seconds: Numbers

    @property
    def line(self) -> Line:
        return self.steps, self.returns

    def until(self, goal: float) -> tuple[float, float]:
        """Return the steps and the seconds after which the mean return reached a goal; infinite if it did not."""
        reached = self.returns >= goal
        if self.is_early or not reached.any():
            return math.inf, math.inf
        first = int(reached.argmax())
        return float(self.steps[first]), float(self.seconds[first])


def _trainings(param: str, folders: Sequence[str | os.PathLike[str]]) -> list[_Training]:
    if not isinstance(folders, Sequence) or isinstance(folders, str | bytes) or not folders:
        raise InvalidConfig(param, f"expected a list of directories of runs, got {folders!r}")
    return [_training(run) for run in each_once(param, [run for folder in folders for run in runs_in(folder)])]


def _training(folder: Path) -> _Training:
    reader = RunReader(folder)
    readings = [one for one in _last_ones(reader.readings()) if math.isfinite(one["episodic_return"])]
    if not readings:
        raise InvalidConfig("run", f"{str(folder)!r} has finished no episode yet: leave it out, or wait")
    view = reader.refresh()
    description, config = read_description(folder), PPOConfig.from_toml(folder / "config.toml")
    session = description["sessions"][-1]
    settings = {one.name: str(getattr(config, one.name)) for one in dataclasses.fields(config)}
    params = {f"env.{name}": str(value) for name, value in (description.get("params") or {}).items()}
    least = max(LEAST_EPISODES, config.num_envs * int(session.get("processes", 1)))
    counted = [one for one in readings if one["episodes"] >= least]
    columns = ("timesteps", "episodic_return", "seconds")
    numbers = [np.array([one.get(name, math.nan) for one in counted or readings]) for name in columns]
    return _Training(
        folder,
        view.title,
        view.goal,
        view.state,
        {name: text for name, text in {**settings, **params}.items() if name not in _IGNORED},
        str(session.get("machine")),
        not counted,
        *numbers,
    )


def _common_steps(runs: list[_Training]) -> int:
    """Return the greatest number of timesteps at which all runs have a return."""
    shortest, latest = min(runs, key=lambda one: one.steps[-1]), max(runs, key=lambda one: one.steps[0])
    last, first = int(shortest.steps[-1]), int(latest.steps[0])
    if last < first:
        ends = f"{str(shortest.folder)!r} ends at {last:,} steps"
        begins = f"{str(latest.folder)!r} has its first return at {first:,}"
        raise InvalidConfig("run", f"{ends}, and {begins}: train the one on, or leave one out")
    return last


def _last_ones(readings: Iterator[dict[str, float]]) -> list[dict[str, float]]:
    """Return readings without those that a run which was resumed has taken once more."""
    kept = list[dict[str, float]]()
    for one in readings:
        while kept and kept[-1]["timesteps"] >= one["timesteps"]:
            kept.pop()
        kept.append(one)
    return kept


def _measures(ours: list[_Training], theirs: list[_Training], goal: float | None, steps: int) -> Iterator[Measure]:
    """Yield what is measured: the returns first, then, where there is one goal, what it took to reach it."""
    returns = [np.array([np.interp(steps, *one.line) for one in side]) for side in (ours, theirs)]
    yield Measure("return", f"return at {steps:,} steps", *returns)
    own = {one.goal for one in (*ours, *theirs)}
    common = own.pop() if len(own) == 1 else None
    if (goal := common if goal is None else goal) is None:
        return
    until = [np.array([one.until(goal) for one in side]).T for side in (ours, theirs)]
    for place, name in enumerate(("steps", "seconds")):
        yield Measure(name, f"{name} until {goal:g}", until[0][place], until[1][place])


def _differences(ours: list[_Training], theirs: list[_Training]) -> dict[str, tuple[str, str]]:
    """Return the settings, parameters and machines that differ, where both sides have the environment."""
    sides = (ours, theirs)
    found = dict[str, tuple[str, str]]()
    for name in dict.fromkeys(name for one in (*ours, *theirs) for name in one.settings):
        values = [{(one.env, one.settings.get(name, "-")) for one in side} for side in sides]
        if values[0] != values[1]:
            ours_text, theirs_text = (_listed(text for _, text in sorted(one)) for one in values)
            found[name] = ours_text, theirs_text
    machines = _machines(ours), _machines(theirs)
    if machines[0] != machines[1]:
        found["machine"] = machines
    return found


def _machines(side: list[_Training]) -> str:
    return _listed(sorted(one.machine for one in side))


def _listed(texts: Any) -> str:
    return " / ".join(dict.fromkeys(texts))


def _notes(ours: list[_Training], theirs: list[_Training]) -> Iterator[str]:
    counts = [min(sum(one.env == env for one in side) for env in {one.env for one in side}) for side in (ours, theirs)]
    if min(counts) < _FEW:
        yield f"{min(counts)} runs of an environment are few: intervals of fewer than {_FEW} runs are too narrow"
    numbers = {sum(one.env == env for one in side) for side in (ours, theirs) for env in {one.env for one in side}}
    if len(numbers) > 1 and len({one.env for one in ours}) > 1:
        yield "there are not as many runs of each environment: those with more count more in the last table"
    if early := sum(one.is_early for one in (*ours, *theirs)):
        yield (
            f"{early} of the runs have ended fewer episodes than they have environments, or than {LEAST_EPISODES}: "
            "their returns count short episodes too often"
        )
    if running := [one for one in (*ours, *theirs) if one.state == "running"]:
        yield f"{len(running)} of the runs still go on"
    if any(one.state == "solved" for one in (*ours, *theirs)):
        yield (
            "runs that end at their goal are short, and returns are compared at the steps that all have: "
            "`train --goal inf` trains to the end"
        )
    if _machines(ours) != _machines(theirs):
        yield "the runs are from different machines: their seconds do not compare"


def _estimate(strata: Sequence[Numbers], statistic: Callable[..., Any]) -> Estimate:
    low, high = bootstrap(strata, statistic)
    return Estimate(float(statistic(*strata)), float(low), float(high))


def _numbers(measure: Measure) -> dict[str, Any]:
    runs, against = ([_finite(value) for value in side] for side in (measure.runs, measure.against))
    return {**_named(*measure.middle(), measure.chance()), "of_runs": runs, "of_against": against}


def _named(runs: Estimate, against: Estimate, chance: Estimate) -> dict[str, Any]:
    return {
        name: {key: _finite(value) for key, value in one._asdict().items()}
        for name, one in (("runs", runs), ("against", against), ("chance_that_runs_are_better", chance))
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
