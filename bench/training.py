"""Measure how long PPO's engines train until an environment is solved, with what they compile and without.

    python bench/training.py [--envs CartPole-v1 Pendulum-v1] [--seeds 10] [--threads 1] [--no-cold]

Warm: in one process, in which each engine has trained before; engines take turns, seed by seed. Solved: the mean return
of the last 100 episodes reaches the goal; then the policy plays 100 episodes in other environments, likeliest actions.
Cold: in a process of its own for each engine, with this library's and Triton's caches empty, from the environment's
construction on.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from learning_run import EPISODES, goal_of
from machine import RESULTS, describe, slug
from rich.console import Console
from rich.table import Table

import operant_gpu
from operant_gpu.models import PPO, PPOConfig

ENGINES = ("fused", "graph", "eager")
OTHER_SEED = 1_000_000
CACHES = ("OPERANT_GPU_CACHE", "TRITON_CACHE_DIR")


@dataclass(frozen=True)
class Settings:
    """Measure how long PPO's engines train until an environment is solved."""

    envs: tuple[str, ...] = ("CartPole-v1", "Pendulum-v1")
    """Environments to solve."""
    seeds: int = 10
    """Seeds of each engine."""
    threads: int = 1
    """Threads on a CPU."""
    cold: bool = True
    """Whether to measure in fresh processes with empty caches too."""
    json: Path | None = None
    """Where to write the result; bench/results/<machine>-training.json if not given."""
    alone: str | None = None
    """Solve the first environment once with this engine, print the seconds, and nothing else."""


def main(settings: Settings) -> None:
    """Measure, print tables and write JSON."""
    if not torch.cuda.is_available():
        torch.set_num_threads(settings.threads)
    if settings.alone is not None:
        print(json.dumps(solve(settings.envs[0], settings.alone, 0)))
        return
    console, report = Console(), describe() | {"threads": torch.get_num_threads(), "environments": {}}
    for env in settings.envs:
        engines = {engine: obstacle_to(env, engine) for engine in ENGINES}
        for engine, obstacle in engines.items():
            if obstacle:
                console.print(f"{env}, {engine}: not here: {obstacle}", highlight=False)
        here = [engine for engine, obstacle in engines.items() if not obstacle]
        report["environments"][env] = measure(env, here, settings)
        console.print(table_of(env, report["environments"][env]))
    path = settings.json or RESULTS / f"{slug(report['machine'])}-training.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    console.print(f"{report['command']}\n{report['versions']}\nwritten to {path}", highlight=False)


def obstacle_to(env: str, engine: str) -> str:
    """Return why an engine cannot be had; nothing if it can."""
    try:
        PPO(operant_gpu.make(env, 64), PPOConfig.for_env(env, engine=engine))
    except operant_gpu.OperantError as error:
        return str(error)
    return ""


def measure(env: str, engines: list[str], settings: Settings) -> dict[str, Any]:
    """Return the runs of every engine."""
    cold = {engine: solve_cold(env, engine, settings) for engine in engines} if settings.cold else {}
    for engine in engines:
        solve(env, engine, OTHER_SEED)
    runs: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
    for seed in range(settings.seeds):
        for engine in engines:
            runs[engine].append(solve(env, engine, seed))
    return {"goal": goal_of(env), "runs": runs, "cold": cold}


def solve(env: str, engine: str, seed: int) -> dict[str, Any]:
    """Train with the preset until solved, and evaluate."""
    goal, started = goal_of(env), time.perf_counter()
    config = PPOConfig.for_env(env, engine=engine, seed=seed)
    learner = PPO(operant_gpu.make(env, config.num_envs), config)
    solved = [False]

    def until_solved(now: dict[str, float]) -> bool:
        solved[0] = now["episodes"] >= EPISODES and now["mean_reward"] >= goal
        return not solved[0]

    began = time.perf_counter()
    learner.learn(callback=until_solved)
    ended = time.perf_counter()
    return {
        "solved": solved[0],
        "seconds": ended - began,
        "seconds_with_construction": ended - started,
        "timesteps": learner.timesteps,
        "evaluation": evaluate(learner, seed + OTHER_SEED + 1),
    }


def evaluate(learner: PPO, seed: int) -> float:
    """Return the mean return of 100 first episodes of likeliest actions, one in each environment."""
    env = operant_gpu.make(learner.env.environment.id, EPISODES, device=learner.env.device)
    obs, _ = env.reset(seed=seed)
    act = learner.controller()
    total, goes_on = torch.zeros(EPISODES, device=env.device), torch.ones(EPISODES, device=env.device)
    while goes_on.any():
        obs, reward, terminated, truncated, _ = env.step(act(obs))
        total += goes_on * reward
        goes_on *= ~(terminated | truncated)
    return float(total.mean())


def solve_cold(env: str, engine: str, settings: Settings) -> dict[str, Any]:
    """Solve in a process of its own, with empty caches."""
    with tempfile.TemporaryDirectory() as folder:
        variables = os.environ | {name: str(Path(folder, name)) for name in CACHES}
        command = [sys.executable, __file__, "--envs", env, "--threads", str(settings.threads), "--alone", engine]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def table_of(env: str, measured: dict[str, Any]) -> Table:
    """Return a row per engine."""
    table = Table(title=f"{env} to {measured['goal']:g}: seconds of training")
    headings = ("engine", "solved", "median", "spread", "M steps/s", "x eager", "eval", "cold")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    medians = {name: statistics.median(run["seconds"] for run in runs) for name, runs in measured["runs"].items()}
    for name, runs in measured["runs"].items():
        seconds = [run["seconds"] for run in runs]
        cold = measured["cold"].get(name)
        table.add_row(
            name,
            f"{sum(run['solved'] for run in runs)} of {len(runs)}",
            f"{medians[name]:.2f}",
            f"{min(seconds):.2f}-{max(seconds):.2f}",
            f"{sum(run['timesteps'] for run in runs) / sum(seconds) / 1e6:.3f}",
            f"{medians['eager'] / medians[name]:.2f}",
            f"{statistics.median(run['evaluation'] for run in runs):.1f}",
            f"{cold['seconds_with_construction']:.1f}" if cold else "",
        )
    return table


if __name__ == "__main__":
    main(tyro.cli(Settings))
