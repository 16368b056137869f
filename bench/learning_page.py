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

import front_page
import lookahead
import pqn
from learning_plot import NAMES, draw_curves, draw_levels, draw_seconds
from learning_run import EPISODES, GRID_WALK_SHARE, PENDULUM_GOAL, Run
from levels import (
    DATA,
    EPISODES_OF_LONG,
    EPISODES_PLAYED,
    half_interval,
    levels_table,
    measured,
    plays,
    published_table,
    reached,
    trained,
)
from machine import RESULTS
from page import fill, small, table
from peers_sb3_settings import ZOO
from plots import pair
from published import BOARDS, BY_OTHER_RULES, CLASSIC, GAMES, Target, sources_of

from operant_gpu.models.presets import millions

LEVELS_IMAGE, GAMES_IMAGE = Path("images") / "levels.svg", Path("images") / "learning-games.svg"
SECONDS_IMAGE = Path("images") / "seconds.svg"
TRAINING = f"{front_page.MACHINE}-training"
# The zoo does not have it: a ratio would compare a tuned preset with defaults.
WITHOUT_SETTINGS = "GridWalk-v0"
ON_GAMES_PAGE = (*GAMES, *BY_OTHER_RULES, *BOARDS)

BEGINNING = """\
# Results

This page shows what PPO learns with [the presets of the library](settings.md), and how long it takes to reach a goal.
It compares that with the best that others have published, with PPO of Stable-Baselines3, and with a PPO in JAX that has
the same settings. [Games](games.md#what-ppo-learns) have a page of their own. [What was tried](tried.md) says how the
presets were found.

## Time to the goal"""

AT_EQUAL_STEPS = """\
## Levels at equal steps

[`bench/levels.py`](../bench/levels.py) trains each preset to the end of its steps. It also trains for the numbers of
steps at which others have published something ([raw data](../bench/results/levels.json)).

- "Policy" is the mean return of {episodes:,} episodes that the trained policy plays in other environments, with its
  likeliest actions.
- "In training" is the mean of the last 100 episodes of the training, with actions sampled.
- Both are means over the seeds, ± half of the 95 % interval of this mean by Student's distribution. The [least, most]
  seed is small.
- The presets were chosen with up to forty seeds, which include those of the table. So the means are slightly too good.
- Seconds are medians of the processor time of a training with one thread ({machines}).

`make level ENV=Pendulum-v1 SEED=3` does the trainings of one environment with one seed, and compares them with what is
on record. That takes some seconds, and 10 to 40 minutes for a game."""

PUBLISHED = """\
### Beside what others have published

The figures of others are the best of PPO and the best of any learner without a model of the environment, at no more
steps than ours. Most are single runs. They are from
{sources}.
{below}
"Best possible" is the mean return of the shortest walks for GridWalk. For FrozenLake it is that of a walker who knows
how many steps are left, by backward induction."""

GAME_LEVELS = """\
[`bench/levels.py`](../bench/levels.py) trains the presets by two sets of rules: the games' own, and those of gymnax
([raw data](../bench/results/levels.json)). gymnax has no sticky actions, and ends an episode after 1,000 steps (Freeway
after 2,500). The columns are explained with [the results](results.md#levels-at-equal-steps). Here a policy plays
{episodes:,} episodes of at most 10,000 steps. "5 M of 10 M" is the state after 5 M steps of a training of 10 M steps.
Measured on {machines}."""

GAMES_PUBLISHED = """\
The next table compares with others. "Ours" is the mean return of the policy. In rows such as "5 M of 10 M" it is the
mean return in training. The figures of others are those of the best PPO, and of the best other learner that has no
model of the game. Figures with "≈" were read from plots. pgx's curves are still low after 10 M steps, so these rows
show its figures after 20 M. By gymnax's rules we only know figures of PPO. The sources are
{sources}.
{below}"""

INTRODUCTION = """\
PPO of this library ran beside PPO of Stable-Baselines3 (SB3) on one machine, one run at a time and in turn.
[`bench/learning.py`](../bench/learning.py) measures, and writes this page, its pictures and [the raw data]({data}).

- An environment is solved once at least {episodes} episodes have ended and the mean return of the last {episodes}
  reaches the goal. These are episodes of training, with actions sampled.
- The goals are those of the environments' authors. Pendulum and GridWalk have none. They take {pendulum:g} and
  {share:.0%} of the mean return of the shortest walks.
- Seconds are those of training until then, without imports and construction.
- Figures are medians over the seeds. "10 + 3" are ten of ours and three of SB3. The least and the most are small, in
  brackets. A seed that was not solved counts as slower than any that was.
- Ours are the presets of the library. SB3 has [the settings of rl-baselines3-zoo]({zoo}).
- SB3 steps Gymnasium's environments one by one, as the zoo does (`DummyVecEnv`). So seconds compare environments and
  learners together, and steps compare how much experience each needs.
- A run of SB3 may go on beyond the zoo's number of steps while it has time. The exception is a setting that follows a
  schedule, which ends there (CartPole-v1)."""

NO_RATIO = """\
GridWalk has no ratio. The zoo does not have it, so SB3 has its defaults there, with eight environments, and ours is a
tuned preset."""

SAME_SETTINGS = """\
### With the same settings

The table above compares two libraries with different settings, environments and languages. The next one compares ours
with a PPO that was written in JAX for this purpose (`bench/peers_jax.py`). It has the settings of ours, and its
environments, rollout and update are one compiled function. {said}
JAX had both cores of the machine, ours one. The runs took turns (`{command}`, {date},
[raw data](../bench/results/{name}.json)).
They had the presets of that day, so the seconds are not those of the table above.
[Performance](performance.md#the-fused-engine-on-a-cpu) has the other engines, and first runs with all that is
compiled."""

CURVES = """\
## Curves

Each line is a seed, to the goal or to where it was given up. It shows the mean return of the last {episodes} episodes,
or of all while there are fewer. Time is on a logarithmic scale. Of episodes that begin together the shortest end first.
So where short episodes are good, the first means are better than the policy, and more so with more environments."""

SETTINGS = """\
## Settings

This is what differs from the defaults of [`PPOConfig`](../operant_gpu/models/config.py) and of SB3's PPO."""

RUN_IT = """\
## Run it again

```sh
pip install -e ".[bench]"
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
        return small(f"{number(self.median('seconds'))} [{number(times[0])}, {number(times[-1])}]")


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
    draw_seconds(seconds_of(runs), docs / SECONDS_IMAGE)
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
    about = about_levels(levels, ON_GAMES_PAGE, EPISODES_OF_LONG)
    parts = (
        f"![Learning curves]({GAMES_IMAGE})",
        GAME_LEVELS.format(**about),
        levels_table(levels, ON_GAMES_PAGE),
        GAMES_PUBLISHED.format(**about),
        published_table(levels, ON_GAMES_PAGE),
    )
    return {
        "levels": "\n\n".join(parts),
        "pqn": pqn.table_of(json.loads(pqn.DATA.read_text())["runs"], partial(of_ppo, levels)),
        "lookahead": lookahead.table_of(json.loads(lookahead.DATA.read_text())["runs"]),
    }


def of_ppo(levels: dict[str, Any], env: str, steps: int) -> tuple[str, str]:
    """Return what the policy of a game plays, if the training has so many steps, and the mean return after so many."""
    (target,) = [one for one in GAMES if one.env == env and one.at is None]
    training = levels["trainings"][target.key]
    return small(plays(training)) if target.steps == steps else "", small(trained(training, steps))


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
    entries, about = report["environments"], about_levels(levels, CLASSIC, EPISODES_PLAYED)
    yield BEGINNING
    yield pair(str(SECONDS_IMAGE), "Seconds of training until the goal")
    yield INTRODUCTION.format(data=data, episodes=EPISODES, pendulum=PENDULUM_GOAL, share=GRID_WALK_SHARE, zoo=ZOO)
    yield table(
        ["seconds to the goal", "goal", "seeds", "ours", "SB3", "SB3 / ours"],
        [seconds_row(env, entries[env], runs[env]) for env in entries],
    )
    yield NO_RATIO
    yield ('Steps until the goal say how much experience each needs. "-" stands where the ranges of the seeds overlap:')
    yield table(["steps to the goal", "ours", "SB3", "needs fewer"], [steps_row(env, runs[env]) for env in entries])
    yield fewer(runs)
    yield unsolved(entries, runs)
    yield same_settings()
    yield same_settings_table()
    yield f"### What was run\n\n{machine_of(report['machine'])}"
    yield "\n".join(conditions(entries))
    yield disturbance(runs)
    yield "These are the median seconds of a whole process, imports and construction included:"
    yield table(
        ["environment", "ours", "SB3"],
        [[f"`{env}`", *(processes(sample(runs[env], name)) for name in NAMES)] for env in entries],
    )
    yield AT_EQUAL_STEPS.format(**about)
    yield levels_table(levels, CLASSIC)
    yield PUBLISHED.format(**about)
    yield published_table(levels, CLASSIC)
    yield f"![Curves of the trainings]({LEVELS_IMAGE})"
    yield CURVES.format(episodes=EPISODES)
    yield from (f"![Learning curves of {env}]({image_of(env)})" for env in entries)
    yield SETTINGS
    for env in entries:
        ours, sb3 = (preset(sample(runs[env], name)) for name in NAMES)
        yield f"`{env}`\n\n- ours: {ours}\n- SB3: {sb3}"
    yield RUN_IT
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
    doubt = f"The 95 % interval begins below the figure, so ours may not be better, in {'; '.join(uncertain)}."
    return said + (f"\n{doubt}" if uncertain else "")


def image_of(env: str) -> Path:
    """Return where the picture of an environment is, from the page."""
    return Path("images") / f"learning-{env}.svg"


def sample(runs: Sequence[Run], contender: str) -> Sample:
    """Return the runs of one contender."""
    return Sample(tuple(run for run in runs if run.contender == contender))


def seconds_row(env: str, entry: dict[str, Any], runs: Sequence[Run]) -> list[str]:
    """Return how long both take to the goal."""
    ours, sb3 = (sample(runs, name) for name in NAMES)
    times = ratio(ours, sb3, entry["cap"]) if env != WITHOUT_SETTINGS else "-"
    seeds = f"{len(ours.runs)} + {len(sb3.runs)}"
    return [f"`{env}`", f"{entry['goal']:.4g}", seeds, ours.seconds(), sb3.seconds(), times]


def steps_row(env: str, runs: Sequence[Run]) -> list[str]:
    """Return how many steps both take to the goal, and which takes fewer, if all seeds of one are below the other's."""
    samples = [sample(runs, name) for name in NAMES]
    ours, sb3 = (one.median("timesteps") for one in samples)
    less, more = sorted((ours, sb3))
    lower, upper = sorted((one.to_goal("timesteps") for one in samples), key=statistics.median)
    is_apart = lower[-1] < upper[0]
    said = f"{'ours' if ours < sb3 else 'SB3'}{f', by {1 - less / more:.0%}' if math.isfinite(more) else ''}"
    return [
        f"`{env}`",
        number(ours, thousands=True),
        number(sb3, thousands=True),
        said if is_apart else "-",
    ]


def fewer(runs: dict[str, list[Run]]) -> str:
    """Return in words where SB3 needs fewer steps."""
    medians = {env: [sample(runs[env], name).median("timesteps") for name in NAMES] for env in runs}
    names = [f"{env} ({sb3:,.0f} for {ours:,.0f})" for env, (ours, sb3) in medians.items() if sb3 < ours]
    where = f"in {' and in '.join(names)}" if names else "in none of them"
    return f"In the median SB3 needs fewer steps {where}."


def seconds_of(runs: dict[str, list[Run]]) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of each seed to the goal, by a row's name and a contender's."""
    rows = {env: {name: sample(those, name).to_goal("seconds") for name in NAMES} for env, those in runs.items()}
    for env, entry in front_page.read(TRAINING)["environments"].items():
        taken = {name: [run["seconds"] for run in entry["runs"][name]] for name in ("fused", "jax")}
        rows[f"{env}, same settings"] = {"operant_gpu": taken["fused"], "jax": taken["jax"]}
    return rows


def same_settings() -> str:
    """Return what the comparison with JAX shows."""
    report = front_page.read(TRAINING)
    times = {env: front_page.medians_of(env) for env in report["environments"]}
    said = " and ".join(
        f"{median['jax'] / median['fused']:.1f} times as long for {env}" for env, median in times.items()
    )
    about = {name: report[name] for name in ("command", "date")}
    return SAME_SETTINGS.format(said=f"JAX takes {said}.", name=TRAINING, **about)


def same_settings_table() -> str:
    """Return a row for each environment: seconds to the goal, ours and JAX's, and steps."""
    rows = []
    for env, entry in front_page.read(TRAINING)["environments"].items():
        runs = {name: [run["seconds"] for run in entry["runs"][name]] for name in ("fused", "jax")}
        seconds, steps = front_page.medians_of(env), front_page.medians_of(env, "timesteps")
        cells = (small(f"{seconds[name]:.2f} [{min(one):.2f}, {max(one):.2f}]") for name, one in runs.items())
        count = (f"{steps[name]:,.0f}" for name in runs)
        rows.append((f"`{env}`", *cells, f"{seconds['jax'] / seconds['fused']:.1f}", *count))
    return table(("same settings", "ours, s", "JAX, s", "JAX / ours", "steps, ours", "steps, JAX"), rows)


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
