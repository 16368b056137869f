"""Measure how long PPO trains until an environment is solved: each engine of this library, and other learners.

    python bench/training.py [--envs CartPole-v1 Pendulum-v1] [--seeds 10] [--threads 1] [--no-cold]

Warm: in one process, in which each contender has trained before; they take turns, seed by seed. Solved: the mean return
of the last 100 episodes reaches the goal; then the policy plays 100 episodes in other environments, likeliest actions.
Cold: in a process of its own for each contender, with this library's and Triton's caches empty, from the environment's
construction on.

The others are a PPO in JAX with the settings of this library's (`peers_jax.py`), on JAX's device and as many threads as
it likes, and Stable-Baselines3 with those of its zoo (`peers_sb3.py`), on a CPU.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from first_call import caches_in
from learning_run import EPISODES, OTHER_SEED, Contender, Job, Run, goal_of, in_process, train
from machine import describe, write
from page import header, table

import operant_gpu
from operant_gpu.models import PPO, PPOConfig

CONTENDERS: tuple[Contender, ...] = ("fused", "graph", "eager", "jax", "sb3")
# The packages that other learners need.
PACKAGES = {"jax": "jax", "sb3": "stable_baselines3"}


@dataclass(frozen=True)
class Settings:
    """Measure how long PPO trains until an environment is solved: each engine of this library, and other learners."""

    envs: tuple[str, ...] = ("CartPole-v1", "Pendulum-v1")
    """Environments to solve."""
    seeds: int = 10
    """Seeds of each contender."""
    sb3_seeds: int = 3
    """Seeds of Stable-Baselines3, which takes a minute or two for each; without them for 0."""
    threads: int = 1
    """Threads on a CPU."""
    cold: bool = True
    """Whether to measure in fresh processes with empty caches too."""
    json: Path | None = None
    """Where to write the result; bench/results/<machine>-training.json if not given."""


def main(settings: Settings) -> None:
    """Measure, print tables and write JSON."""
    if not torch.cuda.is_available():
        torch.set_num_threads(settings.threads)
    report = describe() | {"threads": torch.get_num_threads(), "environments": {}}
    print(header("Training until solved", report), end="\n\n")
    for env in settings.envs:
        obstacles = {name: obstacle_to(env, name) for name in CONTENDERS}
        for name, obstacle in obstacles.items():
            if obstacle:
                print(f"{env}, {name}: not here: {obstacle}")
        here = [name for name in CONTENDERS if not obstacles[name] and (name != "sb3" or settings.sb3_seeds)]
        report["environments"][env] = measure(env, here, settings)
        print("", table_of(env, report["environments"][env]), "", sep="\n")
    if importlib.util.find_spec("jax"):
        import jax

        report["jax_backend"] = jax.default_backend()
        print(f"JAX ran on: {report['jax_backend']}")
    print(f"written to {write(report, settings.json, '{}-training')}")


def obstacle_to(env: str, contender: Contender) -> str:
    """Return why a contender cannot be had; nothing if it can."""
    if package := PACKAGES.get(contender):
        return "" if importlib.util.find_spec(package) else f"{package} is not installed"
    try:
        PPO(operant_gpu.make(env, 64), PPOConfig.for_env(env, engine=contender))
    except operant_gpu.OperantError as error:
        return str(error)
    return ""


def measure(env: str, contenders: list[Contender], settings: Settings) -> dict[str, Any]:
    """Return the runs of every contender."""
    compiled: list[Contender] = [contender for contender in contenders if contender != "sb3"]
    cold = {contender: solve_cold(env, contender, settings.threads) for contender in compiled} if settings.cold else {}
    for contender in compiled:
        solve(env, contender, OTHER_SEED)
    runs: dict[Contender, list[dict[str, Any]]] = {contender: [] for contender in contenders}
    for seed in range(settings.seeds):
        for contender in contenders:
            if contender in compiled or seed < settings.sb3_seeds:
                runs[contender].append(solve(env, contender, seed))
    return {"goal": goal_of(Job(env)), "runs": runs, "cold": cold}


def solve(env: str, contender: Contender, seed: int, cap: float = math.inf) -> dict[str, Any]:
    """Train until solved, or for so many seconds, and evaluate."""
    return figures_of(train(job_of(env, contender, seed, cap)))


def solve_cold(env: str, contender: Contender, threads: int) -> dict[str, Any]:
    """Solve in a process of its own, with empty caches."""
    with tempfile.TemporaryDirectory() as folder:
        run = in_process(replace(job_of(env, contender, 0), threads=threads), **caches_in(Path(folder)))
    if run.error:
        raise SystemExit(run.error)
    return figures_of(run)


def job_of(env: str, contender: Contender, seed: int, cap: float = math.inf) -> Job:
    """Return a training until the goal, of which the policy plays too."""
    return Job(env, seed, contender, device="auto", cap=cap, episodes=EPISODES)


def figures_of(run: Run) -> dict[str, Any]:
    """Return what the report keeps of a run."""
    return {
        "solved": run.outcome == "solved",
        "seconds": run.seconds,
        "seconds_with_construction": run.construction_seconds + run.seconds,
        "timesteps": run.timesteps,
        "evaluation": run.evaluation,
    }


def table_of(env: str, measured: dict[str, Any]) -> str:
    """Return a row per contender."""
    medians = {name: statistics.median(run["seconds"] for run in runs) for name, runs in measured["runs"].items()}
    cells = []
    for name, runs in measured["runs"].items():
        seconds = [run["seconds"] for run in runs]
        cold = measured["cold"].get(name)
        cells.append(
            (
                name,
                f"{sum(run['solved'] for run in runs)} of {len(runs)}",
                f"{medians[name]:.3g}",
                f"{min(seconds):.3g}-{max(seconds):.3g}",
                f"{sum(run['timesteps'] for run in runs) / sum(seconds):,.0f}",
                f"{medians['eager'] / medians[name]:.2f}",
                f"{statistics.median(run['evaluation'] for run in runs):.1f}",
                f"{cold['seconds_with_construction']:.1f}" if cold else "",
            )
        )
    title = f"{env} to {measured['goal']:g}: seconds of training"
    return table((title, "solved", "median", "spread", "steps/s", "x eager", "eval", "cold"), cells)


if __name__ == "__main__":
    main(tyro.cli(Settings))
