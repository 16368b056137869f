"""Train the large presets until the goal, on one core.

    python bench/large_presets.py [--envs CartPole-v1 Pendulum-v1] [--seeds 3]

The goal is reached once as many episodes have ended as there are environments, and the mean return of the last 100 or
more is as high; then the policy plays 1,000 episodes in other environments, with its likeliest actions. Writes
bench/results/large-presets.json, where environments that are not named stay as they were, and docs/settings.md's table.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from learning_run import Job, Run, goal_of, preset_of, train
from machine import RESULTS, describe, write
from page import fill, small, table

from operant_gpu.hyperparameters import minibatches_of
from operant_gpu.models import PPOConfig
from operant_gpu.models.presets import LARGE_PRESETS

DATA, PAGE = RESULTS / "large-presets.json", Path(__file__).parents[1] / "docs" / "settings.md"
# Episodes of a policy when it has learned.
PLAYED = 1_000
MEASURED = ("timesteps", "iterations", "gradient_steps", "cpu_seconds", "evaluation")


@dataclass(frozen=True)
class Settings:
    """Train the large presets until the goal, on one core."""

    envs: tuple[str, ...] = tuple(LARGE_PRESETS)
    """Environments that have one."""
    seeds: int = 3
    """Of each."""
    cap: float = 600.0
    """Seconds of training after which to give up."""


def main(settings: Settings) -> None:
    """Train, write the raw data, write the table."""
    torch.set_num_threads(1)
    report = json.loads(DATA.read_text()) if DATA.exists() else {"environments": {}}
    for env in settings.envs:
        preset = preset_of(PPOConfig.for_env(env, size="large"))
        runs = [trained(env, seed, settings.cap) for seed in range(settings.seeds)]
        report["environments"][env] = describe() | {"goal": goal_of(Job(env)), "preset": preset, "runs": runs}
    # In the order of the presets, without those that are gone.
    report["environments"] = {
        env: report["environments"][env] for env in LARGE_PRESETS if env in report["environments"]
    }
    print(f"written to {write(report, DATA)}")
    fill(PAGE, "large", table_of(report))


def trained(env: str, seed: int, cap: float) -> dict[str, Any]:
    """Return what the report keeps of a training, processor seconds among it: other work does not disturb them."""
    run, config = train(Job(env, seed, size="large", cap=cap, episodes=PLAYED)), PPOConfig.for_env(env, size="large")
    iterations = run.timesteps // (config.num_envs * config.n_steps)
    steps = iterations * config.n_epochs * minibatches_of(config, config.num_envs * config.n_steps)
    print(line_of(run, iterations, steps), flush=True)
    return {
        "seed": seed,
        "outcome": run.outcome,
        "timesteps": run.timesteps,
        "iterations": iterations,
        "gradient_steps": steps,
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "mean_return": run.mean_return,
        "evaluation": run.evaluation,
    }


def line_of(run: Run, iterations: int, steps: int) -> str:
    """Return a training in one line."""
    took = f"{run.timesteps:,} steps, {iterations} iterations, {steps:,} gradient steps, {run.cpu_seconds:.1f} s"
    return f"{run.env} seed {run.seed}: {run.outcome}, {took}, then plays {run.evaluation:.4g}"


def table_of(report: dict[str, Any]) -> str:
    """Return a row per environment, with medians over its seeds."""
    rows = []
    for env, entry in report["environments"].items():
        runs, preset = entry["runs"], entry["preset"]
        middle = {name: statistics.median(run[name] for run in runs) for name in MEASURED}
        rows.append(
            (
                env,
                f"{preset['num_envs']:,}",
                f"{preset['batch_size']:,}",
                f"{sum(run['outcome'] == 'solved' for run in runs)} of {len(runs)}",
                *(f"{middle[name]:,.0f}" for name in ("timesteps", "iterations", "gradient_steps")),
                f"{middle['cpu_seconds']:.1f}",
                small(f"{middle['evaluation']:.4g} [{entry['goal']:.4g}]"),
            )
        )
    steps = ("steps", "iterations", "gradient steps", "seconds")
    return table(("environment", "envs", "minibatch", "solved", *steps, "then plays [goal]"), rows)


if __name__ == "__main__":
    main(tyro.cli(Settings))
