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

import functools
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from learning_run import EPISODES, Recorder, Run, goal_of
from machine import RESULTS, describe, slug
from rich.console import Console
from rich.table import Table

import operant_gpu
from operant_gpu.models import PPO, PPOConfig

ENGINES = ("fused", "graph", "eager")
# Other learners, and the packages that they need.
PEERS = {"jax": "jax", "sb3": "stable_baselines3"}
OTHER_SEED = 1_000_000
CACHES = ("OPERANT_GPU_CACHE", "TRITON_CACHE_DIR")

# Takes a seed, returns a mean return.
Evaluate = Callable[[int], float]


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
    alone: str | None = None
    """Let this contender solve the first environment once, print what was measured, and nothing else."""


def main(settings: Settings) -> None:
    """Measure, print tables and write JSON."""
    if not torch.cuda.is_available():
        torch.set_num_threads(settings.threads)
    if settings.alone is not None:
        print(json.dumps(solve(settings.envs[0], settings.alone, 0)))
        return
    # Wide enough for the tables where the output goes to a file.
    console, report = Console(width=110), describe() | {"threads": torch.get_num_threads(), "environments": {}}
    for env in settings.envs:
        contenders = {name: obstacle_to(env, name) for name in (*ENGINES, *PEERS)}
        for name, obstacle in contenders.items():
            if obstacle:
                console.print(f"{env}, {name}: not here: {obstacle}", highlight=False)
        here = [name for name, obstacle in contenders.items() if not obstacle and (name != "sb3" or settings.sb3_seeds)]
        report["environments"][env] = measure(env, here, settings)
        console.print(table_of(env, report["environments"][env]))
    if importlib.util.find_spec("jax"):
        import jax

        report["jax_backend"] = jax.default_backend()
        console.print(f"JAX ran on: {report['jax_backend']}", highlight=False)
    path = settings.json or RESULTS / f"{slug(report['machine'])}-training.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    console.print(f"{report['command']}\n{report['versions']}\nwritten to {path}", highlight=False)


def obstacle_to(env: str, contender: str) -> str:
    """Return why a contender cannot be had; nothing if it can."""
    if contender in PEERS:
        return "" if importlib.util.find_spec(PEERS[contender]) else f"{PEERS[contender]} is not installed"
    try:
        PPO(operant_gpu.make(env, 64), PPOConfig.for_env(env, engine=contender))
    except operant_gpu.OperantError as error:
        return str(error)
    return ""


def measure(env: str, contenders: list[str], settings: Settings) -> dict[str, Any]:
    """Return the runs of every contender."""
    compiled = [contender for contender in contenders if contender != "sb3"]
    cold = {contender: solve_cold(env, contender, settings) for contender in compiled} if settings.cold else {}
    for contender in compiled:
        solve(env, contender, OTHER_SEED)
    runs: dict[str, list[dict[str, Any]]] = {contender: [] for contender in contenders}
    for seed in range(settings.seeds):
        for contender in contenders:
            if contender in compiled or seed < settings.sb3_seeds:
                runs[contender].append(solve(env, contender, seed))
    return {"goal": goal_of(env), "runs": runs, "cold": cold}


def solve(env: str, contender: str, seed: int, cap: float = math.inf) -> dict[str, Any]:
    """Train until solved, or for so many seconds, and evaluate."""
    run, started = Run(contender, env, seed), time.perf_counter()
    recorder = Recorder(run, goal_of(env), cap)
    train = {"jax": train_jax, "sb3": train_sb3}.get(contender, train_ours)
    evaluate = train(run, recorder)
    return {
        "solved": run.outcome == "solved",
        "seconds": run.seconds,
        "seconds_with_construction": recorder.started + run.seconds - started,
        "timesteps": run.timesteps,
        "evaluation": evaluate(seed + OTHER_SEED + 1),
    }


def train_ours(run: Run, recorder: Recorder) -> Evaluate:
    """Train this library's PPO with its preset."""
    config = PPOConfig.for_env(run.env, engine=run.contender, seed=run.seed)
    learner = PPO(operant_gpu.make(run.env, config.num_envs), config)
    recorder.start()
    learner.learn(
        callback=lambda now: recorder.add(int(now["timesteps"]), int(now["episodes"]), now["episodic_return"])
    )
    return functools.partial(evaluate, learner)


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


def train_jax(run: Run, recorder: Recorder) -> Evaluate:
    """Train the PPO in JAX."""
    program = jax_program(run.env)
    recorder.start()
    progress = program.learn(run.seed, recorder.add, EPISODES)
    return lambda seed: float(program.evaluate(progress.parameters, seed, EPISODES))


@functools.cache
def jax_program(env: str) -> Any:
    """Return the compiled program for an environment's preset."""
    import peers_jax

    return peers_jax.JaxPPO(env, PPOConfig.for_env(env))


def train_sb3(run: Run, recorder: Recorder) -> Evaluate:
    """Train Stable-Baselines3's PPO."""
    import peers_sb3
    from stable_baselines3.common.evaluation import evaluate_policy

    learner = peers_sb3.make_learner(run.env, run.seed)
    recorder.start()
    peers_sb3.learn(learner, run.env, recorder.add, EPISODES)

    def evaluate(seed: int) -> float:
        learner.env.seed(seed)
        return float(evaluate_policy(learner, learner.env, EPISODES)[0])

    return evaluate


def solve_cold(env: str, contender: str, settings: Settings) -> dict[str, Any]:
    """Solve in a process of its own, with empty caches."""
    with tempfile.TemporaryDirectory() as folder:
        variables = os.environ | {name: str(Path(folder, name)) for name in CACHES}
        command = [sys.executable, __file__, "--envs", env, "--threads", str(settings.threads), "--alone", contender]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def table_of(env: str, measured: dict[str, Any]) -> Table:
    """Return a row per contender."""
    table = Table(title=f"{env} to {measured['goal']:g}: seconds of training")
    headings = ("contender", "solved", "median", "spread", "steps/s", "x eager", "eval", "cold")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    medians = {name: statistics.median(run["seconds"] for run in runs) for name, runs in measured["runs"].items()}
    for name, runs in measured["runs"].items():
        seconds = [run["seconds"] for run in runs]
        cold = measured["cold"].get(name)
        table.add_row(
            name,
            f"{sum(run['solved'] for run in runs)} of {len(runs)}",
            f"{medians[name]:.3g}",
            f"{min(seconds):.3g}-{max(seconds):.3g}",
            f"{sum(run['timesteps'] for run in runs) / sum(seconds):,.0f}",
            f"{medians['eager'] / medians[name]:.2f}",
            f"{statistics.median(run['evaluation'] for run in runs):.1f}",
            f"{cold['seconds_with_construction']:.1f}" if cold else "",
        )
    return table


if __name__ == "__main__":
    main(tyro.cli(Settings))
