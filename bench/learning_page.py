"""Write docs/results.md and the tables of docs/games.md: every figure of tables and pictures comes from raw data."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lookahead
import pqn
from learning_plot import NAMES, draw_curves, draw_levels
from learning_run import EPISODES, GRID_WALK_SHARE, PENDULUM_GOAL, Run
from levels import DATA, EPISODES_OF_LONG, EPISODES_PLAYED, half_interval, measured, plays, reached, table_of, trained
from machine import RESULTS
from page import fill, table
from peers_sb3_settings import ZOO
from published import BOARDS, BY_OTHER_RULES, CLASSIC, GAMES, Target, sources_of

from operant_gpu.models.presets import millions

LEVELS_IMAGE, GAMES_IMAGE = Path("images") / "levels.png", Path("images") / "learning-games.png"
ON_GAMES_PAGE = (*GAMES, *BY_OTHER_RULES, *BOARDS)

LEVELS = """\
# Results

This page shows what PPO learns with [the presets of the library](settings.md), beside the best that others have
published. It also shows how soon PPO reaches a goal, beside PPO of Stable-Baselines3.
[Games](games.md#what-ppo-learns) have a page of their own.

## Levels at equal steps

[`bench/levels.py`](../bench/levels.py) trains presets to the end of their steps, and for the numbers of steps at which
others have published something ([raw data](../bench/results/levels.json)). "Policy" is the mean return of {episodes:,}
episodes that the trained policy plays in other environments, with its likeliest actions. "In training" is the mean of
the last 100 episodes of the training, with actions sampled. Both are means over the seeds, with half of their 95 %
interval and [least, most] seed. The presets were chosen with up to forty seeds, which include those of the table, so
the means are slightly too good.
Seconds are medians of the processor time of a training with one thread ({machines}).

"Published" are the best of PPO and the best of any learner without a model of the environment, at no more steps than
ours. Most are single runs. They are from
{sources}.
{below}
"Best possible" is the mean return of the shortest walks for GridWalk, and for FrozenLake that of a walker who knows how
many steps are left, by backward induction.

`make level ENV=Pendulum-v1 SEED=3` does the trainings of one environment with one seed, and compares them with what is
on record. That takes some seconds, and 10 to 40 minutes for a game."""

GAME_LEVELS = """\
[`bench/levels.py`](../bench/levels.py) trains the presets by two sets of rules: the games' own, and those of gymnax
([raw data](../bench/results/levels.json)). gymnax has no sticky actions, and ends an episode after 1,000 steps (Freeway
after 2,500). The columns are explained with [the results](results.md#levels-at-equal-steps). Here a policy plays
{episodes:,} episodes of at most 10,000 steps. "5 M of 10 M" is the state after 5 M steps of a training of 10 M steps.
Measured on {machines}.

The column "published" has the figures of others. Figures with "≈" were read from plots. pgx's curves are still low
after 10 M steps, so these rows show its figures after 20 M. By gymnax's rules we only know figures of PPO. The sources
are
{sources}.
{below}"""

INTRODUCTION = """\
## Time to the goal

PPO here beside PPO of Stable-Baselines3 (SB3), on one machine, one run at a time and in turn.
[`bench/learning.py`](../bench/learning.py) measures, and writes this page, its pictures and [the raw data]({data}).

An environment is solved once at least {episodes} episodes have ended and the mean return of the last {episodes} reaches
the goal. Those are episodes of training, with actions sampled. The goals are those of the environments' authors;
Pendulum and GridWalk have none, and take {pendulum:g} and {share:.0%} of the mean return of the shortest walks. Seconds
are those of training until then, without imports and construction.

Ours are the presets of the library, SB3's are [the settings of rl-baselines3-zoo]({zoo}), and for GridWalk, which the
zoo does not have, SB3's defaults with eight environments. SB3 steps Gymnasium's environments one by one, as the zoo
does (`DummyVecEnv`), so seconds compare environments and learners together; steps compare how much experience each
needs. A run of SB3 may go on beyond the zoo's number of steps while it has time, except where a setting follows a
schedule, which ends there (CartPole-v1)."""

MEDIANS = """\
Medians are over all seeds, with [least, most]. A seed that was not solved counts as slower than any that was, so a
median among such seeds is "not solved"."""

CURVES = """\
## Curves

A line for each seed, to the goal or to where it was given up: the mean return of the last {episodes} episodes, or of
all while there are fewer. Of episodes begun together the shortest end first, so where short episodes are good the first
means are better than the policy, the more so the more environments there are. Time is on a logarithmic scale."""

SETTINGS = """\
## Settings

What differs from the defaults of [`PPOConfig`](../operant_gpu/models/config.py) and of SB3's PPO:"""

RUN_IT = """\
## Run it again

```sh
pip install -e '.[bench]'
python bench/levels.py --envs Pendulum-v1                             # levels of one environment; the others stay
python bench/learning.py                                              # times to the goal
python bench/learning.py --envs Pendulum-v1 --no-sb3                  # one environment; the others stay as they are
python bench/learning.py --render-only                                # the page from the raw data
python bench/learning_run.py --env CartPole-v1 --seed 3               # one run of ours
python bench/learning_run.py --env CartPole-v1 --seed 3 --contender sb3
```"""


@dataclass(frozen=True)
class Sample:
    """The runs of one contender on one environment."""

    runs: tuple[Run, ...]

    def to_goal(self, quantity: str) -> list[float]:
        """Return "seconds" or "timesteps" to the goal, in order; infinite where it was not reached."""
        return sorted(getattr(run, quantity) if run.outcome == "solved" else math.inf for run in self.runs)

    def median(self, quantity: str) -> float:
        """Return the median to the goal; infinite if that seed did not reach it, NaN without seeds."""
        return statistics.median(self.to_goal(quantity)) if self.runs else math.nan

    def solved(self) -> str:
        """Return how many seeds were solved."""
        count = sum(run.outcome == "solved" for run in self.runs)
        return f"{count}/{len(self.runs)}" if self.runs else "-"

    def seconds(self) -> str:
        """Return median, least and most seconds to the goal."""
        times = self.to_goal("seconds")
        if not times or math.isinf(times[0]):
            return "not solved" if times else "-"
        return f"{number(self.median('seconds'))} [{number(times[0])}, {number(times[-1])}]"


def write_page(report: dict[str, Any], data: Path, docs: Path) -> Path:
    """Write results.md, the levels in games.md, and their pictures.

    Args:
        report: The raw data.
        data: Where it is, for a link.
        docs: Folder to write to.

    Returns:
        results.md.
    """
    levels = json.loads(DATA.read_text())
    runs = {env: [Run(**run) for run in entry["runs"]] for env, entry in report["environments"].items()}
    for env, entry in report["environments"].items():
        draw_curves(env, entry["goal"], runs[env], docs / image_of(env))
    draw_levels(levels, measured(levels, CLASSIC), docs / LEVELS_IMAGE)
    draw_levels(levels, measured(levels, ON_GAMES_PAGE), docs / GAMES_IMAGE)
    for mark, text in tables_of_games(levels).items():
        fill(docs / "games.md", mark, text)
    page = docs / "results.md"
    link = Path(os.path.relpath(data.resolve(), docs.resolve())).as_posix()
    page.write_text("\n\n".join(sections(report, levels, runs, link)) + "\n")
    return page


def tables_of_games(levels: dict[str, Any]) -> dict[str, str]:
    """Return what is learned of games, by the marks between which games.md has it."""
    about = GAME_LEVELS.format(**about_levels(levels, ON_GAMES_PAGE, EPISODES_OF_LONG))
    return {
        "levels": f"![Learning curves]({GAMES_IMAGE})\n\n{about}\n\n{table_of(levels, ON_GAMES_PAGE)}",
        "pqn": pqn.table_of(json.loads(pqn.DATA.read_text())["runs"], partial(of_ppo, levels)),
        "lookahead": lookahead.table_of(json.loads(lookahead.DATA.read_text())["runs"]),
    }


def of_ppo(levels: dict[str, Any], env: str, steps: int) -> tuple[str, str]:
    """Return what the policy of a game plays, if the training has so many steps, and the mean return after so many."""
    (target,) = [one for one in GAMES if one.env == env and one.at is None]
    training = levels["trainings"][target.key]
    return plays(training) if target.steps == steps else "", trained(training, steps)


def about_levels(levels: dict[str, Any], shown: Sequence[Target], episodes: int) -> dict[str, Any]:
    """Return what a table of levels needs besides: where they were measured, what they are held against."""
    return {
        "episodes": episodes,
        "machines": machines_of(levels, shown),
        "sources": sources_of(measured(levels, shown)),
        "below": below(levels, shown),
    }


def sections(report: dict[str, Any], levels: dict[str, Any], runs: dict[str, list[Run]], data: str) -> Iterator[str]:
    """Yield the page's parts."""
    entries = report["environments"]
    yield LEVELS.format(**about_levels(levels, CLASSIC, EPISODES_PLAYED))
    yield table_of(levels, CLASSIC)
    yield f"![Curves of the trainings]({LEVELS_IMAGE})"
    yield INTRODUCTION.format(data=data, episodes=EPISODES, pendulum=PENDULUM_GOAL, share=GRID_WALK_SHARE, zoo=ZOO)
    yield table(
        ["environment", "goal", "solved", "seconds", "steps", "SB3 solved", "SB3 seconds", "SB3 steps", "SB3 / ours"],
        [goal_row(env, entries[env], runs[env]) for env in entries],
    )
    yield MEDIANS
    yield unsolved(entries, runs)
    yield f"## What was run\n\n{machine_of(report['machine'])}"
    yield "\n".join(conditions(entries))
    yield disturbance(runs)
    yield "Median seconds of a whole process, imports and construction included:"
    yield table(
        ["environment", "ours", "SB3"],
        [[f"`{env}`", *(processes(sample(runs[env], name)) for name in NAMES)] for env in entries],
    )
    yield CURVES.format(episodes=EPISODES)
    yield from (f"![Learning curves of {env}]({image_of(env)})" for env in entries)
    yield SETTINGS
    yield table(
        ["environment", "ours", "SB3"],
        [[f"`{env}`", *(preset(sample(runs[env], name)) for name in NAMES)] for env in entries],
        left=3,
    )
    yield RUN_IT
    yield (RESULTS / "tried.md").read_text().strip()
    # What `bench/randomization.py` measured.
    yield (RESULTS / "randomization.md").read_text().strip()


def machines_of(levels: dict[str, Any], shown: Sequence[Target]) -> str:
    """Return where and when trainings have been measured."""
    known = [levels["trainings"][target.key] for target in measured(levels, shown)]
    machines = dict.fromkeys(f"{one['machine']}, PyTorch {one['versions']['torch']}" for one in known)
    return f"{', '.join(machines)}, {' and '.join(sorted({one['date'] for one in known}))}"


def below(levels: dict[str, Any], shown: Sequence[Target]) -> str:
    """Return in which rows ours are below the best that others have published, and in which that is not certain."""
    known, missed, uncertain = [], [], []
    for target in measured(levels, shown):
        if target.best is None:
            continue
        known.append(target)
        ours = reached(levels["trainings"][target.key], target)
        name = target.key if target.at is None else f"{target.key}, after {millions(target.at)}"
        if statistics.mean(ours) < target.best:
            missed.append(name)
        elif statistics.mean(ours) - half_interval(ours) < target.best:
            uncertain.append(name)
    said = (
        f"The mean of ours is as high or higher in {len(known) - len(missed)} of {len(known)} rows with such a figure"
    )
    said += f"; not in {'; '.join(missed)}." if missed else "."
    return said + (f"\nThe 95 % interval begins below the figure in {'; '.join(uncertain)}." if uncertain else "")


def image_of(env: str) -> Path:
    """Return where the picture of an environment is, from the page."""
    return Path("images") / f"learning-{env}.png"


def sample(runs: Sequence[Run], contender: str) -> Sample:
    """Return the runs of one contender."""
    return Sample(tuple(run for run in runs if run.contender == contender))


def goal_row(env: str, entry: dict[str, Any], runs: Sequence[Run]) -> list[str]:
    """Return one row of the first table."""
    ours, sb3 = (sample(runs, name) for name in NAMES)
    measured = [
        cell
        for each in (ours, sb3)
        for cell in (each.solved(), each.seconds(), number(each.median("timesteps"), thousands=True))
    ]
    return [f"`{env}`", f"{entry['goal']:.4g}", *measured, ratio(ours, sb3, entry["cap"])]


def ratio(ours: Sample, sb3: Sample, cap: float) -> str:
    """Return how many times as long as ours SB3 takes; a lower bound where its time was up."""
    seconds, sb3_seconds = ours.median("seconds"), sb3.median("seconds")
    if not math.isfinite(seconds) or math.isnan(sb3_seconds):
        return "-"
    if math.isfinite(sb3_seconds):
        return number(sb3_seconds / seconds)
    stopped = all(run.outcome in ("solved", "out of time") for run in sb3.runs)
    return f"> {number(cap / seconds)}" if stopped else "-"


def number(value: float, thousands: bool = False) -> str:
    """Return a number as text."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "not solved"
    return f"{value:,.0f}" if thousands or value >= 100 else f"{value:.1f}"


def unsolved(entries: dict[str, Any], runs: dict[str, list[Run]]) -> str:
    """Return a list of the runs that did not reach the goal."""
    missed = [run for env in entries for run in runs[env] if run.outcome != "solved"]
    if not missed:
        return "Every run reached its goal."
    return "Runs that did not reach the goal:\n\n" + "\n".join(map(how_it_ended, missed))


def how_it_ended(run: Run) -> str:
    """Return what became of a run that did not reach the goal."""
    start = f"- `{run.env}`, {NAMES[run.contender]}, seed {run.seed}: {run.outcome}"
    if run.outcome == "failed":
        return f"{start}, {run.error}"
    mean = "no episode ended" if run.mean_return is None else f"last mean {run.mean_return:.4g}"
    return f"{start} after {number(run.seconds)} s and {run.timesteps:,} steps, {mean}"


def machine_of(machine: dict[str, Any]) -> str:
    """Return the machine in words."""
    cpu = f"{machine['cpu']}, {machine['cores']} cores"
    where = f"{machine['gpu']} for ours, {cpu} for SB3" if machine["gpu"] else cpu
    return f"{where}. On a CPU each run had one thread, and no other run beside it."


def disturbance(runs: dict[str, list[Run]]) -> str:
    """Return how much of its time on a CPU the least favoured run had."""
    shares = [run.cpu_seconds / run.seconds for env in runs for run in runs[env] if run.seconds]
    least = min(shares, default=0.0)
    return (
        f"Where other work disturbed them, runs still had a core for at least {least:.0%} of their seconds of training."
    )


def conditions(entries: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each time that something was measured, with the environments it was measured for."""
    groups = defaultdict(list)
    for env, entry in entries.items():
        versions = ", ".join(f"{name} {version}" for name, version in entry["versions"].items() if version)
        line = f"{entry['date']}, `{entry['command']}`, at most {entry['cap']:g} s of training a run; {versions}"
        groups[line].append(f"`{env}`")
    yield from (f"- {', '.join(envs)}: {line}." for line, envs in groups.items())


def processes(runs: Sample) -> str:
    """Return the median seconds of the processes."""
    return number(statistics.median(run.process_seconds for run in runs.runs)) if runs.runs else "-"


def preset(runs: Sample) -> str:
    """Return the settings of a contender's runs."""
    known = [run.preset for run in runs.runs if run.outcome != "failed"]
    if not known:
        return "-"
    return ", ".join(f"`{name}={value!r}`" for name, value in known[0].items()) or "defaults"


if __name__ == "__main__":
    raise SystemExit("This is a part of bench/learning.py: python bench/learning.py --render-only")
