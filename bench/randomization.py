"""Show what parameters in memory are for: trainings on drawn ones, a curriculum, and staggered starts.

    python bench/randomization.py [--seeds 10] [--steps 300000] [--processes 2] [--render-only]

Pendulum is trained with g = 10, with g = 15, with g drawn from 5 to 15 for each episode, and with g raised while it
learns, and each policy is evaluated from 5 to 15; and in 4,096 environments, beginning together or staggered. Writes
bench/results/randomization.json, the section of docs/results.md, and docs/images/randomization.svg.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from machine import RESULTS, describe, write
from matplotlib import pyplot
from page import small, table
from plots import BLUE, EITHER, ORANGE, on_any_ground, save

import operant_gpu
from operant_gpu.models import PPO, PPOConfig, evaluate

ENV = "Pendulum-v1"
EASY, HARD, DRAWN = "10", "15", "5..15"
EVALUATED = (5.0, 7.5, 10.0, 12.5, 15.0)
# Of a curriculum: where g begins and ends, and by which part of the training it has risen.
FIRST, LAST, RISEN = 5.0, 15.0, 0.5
STAGGERED = {"num_envs": 4_096, "n_steps": 16, "batch_size": 8_192, "n_epochs": 4, "lr": (4e-3, 0.0)}
STAGGERED_STEPS = 4_096 * 16 * 30
# Iterations between two evaluations of their curve, and episodes of each.
BETWEEN, EPISODES_BETWEEN = 2, 64
DATA, SECTION = RESULTS / "randomization.json", "randomization.md"
IMAGE = Path(__file__).parents[1] / "docs" / "images" / "randomization.svg"


@dataclass
class Settings:
    """How much is measured."""

    seeds: int = 10
    """Of each training, but those with 4,096 environments."""
    staggered_seeds: int = 5
    """Of those with 4,096 environments."""
    steps: int = 300_000
    """Of each training, but those with 4,096 environments."""
    episodes: int = 200
    """Of each evaluation."""
    processes: int = 2
    """At once."""
    render_only: bool = False
    """Write the section and the picture from the raw data without training."""


def train(kind: str, seed: int, steps: int, episodes: int) -> dict[str, Any]:
    """Train one policy; return how it learned and what it has learned."""
    torch.set_num_threads(1)
    is_staggering = kind in ("together", "staggered")
    changes: dict[str, Any] = {**STAGGERED, "staggered_starts": kind == "staggered"} if is_staggering else {}
    config = PPOConfig.for_env(ENV, total_timesteps=STAGGERED_STEPS if is_staggering else steps, seed=seed, **changes)
    g: Any = torch.tensor(FIRST) if kind == "curriculum" else EASY if is_staggering else kind
    env = operant_gpu.make(ENV, config.num_envs, device="cpu", params={"g": g})
    learner = PPO(env, config)
    curve: dict[str, list[float | None]] = {"timesteps": [], "mean_return": [], "g": []}

    def follow(metrics: dict[str, float]) -> None:
        if kind == "curriculum":
            # The next step reads it: nothing is compiled anew.
            share = min(1.0, metrics["timesteps"] / (RISEN * config.total_timesteps))
            env.params.g.fill_(FIRST + share * (LAST - FIRST))
        if is_staggering and metrics["timesteps"] / (config.num_envs * config.n_steps) % BETWEEN:
            return
        # With few steps an iteration, no whole episode ends in the first ones.
        reached = evaluate(learner, EPISODES_BETWEEN).mean if is_staggering else metrics["episodic_return"]
        curve["timesteps"].append(metrics["timesteps"])
        curve["mean_return"].append(None if math.isnan(reached) else reached)
        curve["g"].append(float(torch.as_tensor(env.params.g).mean()))

    learner.learn(callback=follow)
    # Those of a range of g are compared where the others are; the others at their own.
    params = [{}] if is_staggering else [{"g": value} for value in EVALUATED]
    returns = [evaluate(learner, episodes, params=one).mean for one in params]
    return {"kind": kind, "seed": seed, "returns": returns, "curve": curve, "seconds": learner.seconds}


def main(settings: Settings) -> None:
    """Train everything, write and draw."""
    if not settings.render_only:
        measure(settings)
    report = json.loads(DATA.read_text())
    (RESULTS / SECTION).write_text(section(report))
    draw(report["runs"])


def measure(settings: Settings) -> None:
    """Train everything and write the raw data."""
    kinds = (EASY, HARD, DRAWN, "curriculum", "together", "staggered")
    jobs = [*itertools.product(range(settings.seeds), kinds[:4])]
    jobs += itertools.product(range(settings.staggered_seeds), kinds[4:])
    with concurrent.futures.ProcessPoolExecutor(settings.processes) as pool:
        started = [pool.submit(train, kind, seed, settings.steps, settings.episodes) for seed, kind in jobs]
        runs = []
        for done in concurrent.futures.as_completed(started):
            runs.append(done.result())
            print(f"{runs[-1]['kind']} {runs[-1]['seed']}: {[round(one) for one in runs[-1]['returns']]}", flush=True)
    runs.sort(key=lambda run: (kinds.index(run["kind"]), run["seed"]))
    report = {**describe(), "settings": vars(settings), "evaluated": EVALUATED, "runs": runs}
    print(f"written to {write(report, DATA)}")


def section(report: dict[str, Any]) -> str:
    """Return the section of docs/results.md."""

    def row(kind: str) -> list[str]:
        found = [run["returns"] for run in report["runs"] if run["kind"] == kind]
        return [f"{statistics.mean(one):.0f} [{min(one):.0f}, {max(one):.0f}]" for one in zip(*found, strict=True)]

    names = {EASY: "10", HARD: "15", DRAWN: "drawn, 5 to 15", "curriculum": "raised from 5 to 15"}
    rows = [[f"g {name}", *map(small, row(kind))] for kind, name in names.items()]
    settings, evaluated = report["settings"], [f"g = {value:g}" for value in report["evaluated"]]
    same, other = (row(kind)[0] for kind in ("together", "staggered"))
    texts = (
        "## Parameters that are drawn, raised and staggered",
        f"[`bench/randomization.py`](../bench/randomization.py) trains the preset of {ENV} for",
        f"{settings['steps']:,} steps: with one g, with g drawn from 5 to 15 for each episode (`--env.g 5..15`),",
        "and with g raised from 5 to 15 over the first half through `env.params.g`. Mean returns of",
        f"{settings['episodes']} episodes, means of {settings['seeds']} seeds, with [least, most]:\n",
        table(["trained with", *evaluated], rows),
        "\nThe policy does not see g. With g = 10, 4,096 environments and minibatches of 8,192, after",
        f"{STAGGERED_STEPS:,} steps ({settings['staggered_seeds']} seeds): {same} where all episodes begin",
        f"together, and so end in the same steps, and {other} with `staggered_starts`.\n",
        "![Curves of a curriculum and of staggered starts](images/randomization.svg)",
    )
    return texts[0] + "\n\n" + "\n".join(texts[1:]) + "\n"


def draw(runs: Iterable[dict[str, Any]]) -> None:
    """Draw the curves of the curriculum, and those of episodes that begin together or staggered."""
    with on_any_ground(size=13):
        figure, (left, right) = pyplot.subplots(2, 1, figsize=(7.2, 8), layout="constrained")
        beside = left.twinx()
        beside.set_ylabel("g (grey)")
        colours = {"together": ORANGE, "staggered": BLUE}
        for run in runs:
            kind, curve = run["kind"], run["curve"]
            steps, style = [count / 1e6 for count in curve["timesteps"]], {"linewidth": 1, "alpha": 0.8}
            if kind == "curriculum":
                left.plot(steps, curve["mean_return"], color=BLUE, **style)
                beside.plot(steps, curve["g"], color=EITHER, linewidth=1)
            elif kind in colours:
                label = kind if run["seed"] == 0 else None
                right.plot(steps, curve["mean_return"], color=colours[kind], label=label, **style)
        left.set_title("g raised while the policy learns")
        right.set_title("4,096 environments, evaluated")
        right.legend(loc="lower right")
        for axes in (left, right):
            axes.set_xlabel("million steps")
            axes.set_ylabel("mean return")
        save(figure, IMAGE)


if __name__ == "__main__":
    main(tyro.cli(Settings))
