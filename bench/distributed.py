"""Measure training in two processes of one core each beside one process with all the environments.

    python bench/distributed.py [--seeds 10] [--seconds 10] [--parts levels speed]

Levels: environment steps until the goal, by tuned settings in one process, and in two with half of the environments and
half of a minibatch each. Speed: trained steps a second of two processes of one core, of one process with both cores and
of one with one core, all with as many environments in all; the share of the time that the first process spends on
sending to the other and waiting for it; and the bytes that a process gives to others for a gradient step. Writes
bench/results/distributed.json, where a part that is not measured stays as it was, and docs/distributed.md's tables.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from learning_run import Job, goal_of
from machine import RESULTS, describe, write
from page import fill, table

import operant_gpu
from operant_gpu.models import PPO, PPOConfig, Processes, distributed
from operant_gpu.monitor import View

LEVELS = ("CartPole-v1", "Pendulum-v1")
# What trains how fast: environment, size of its preset, and settings beside it.
SPEEDS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "CartPole-v1, tuned": ("CartPole-v1", "usual", {}),
    "CartPole-v1, large": ("CartPole-v1", "large", {}),
    "Pendulum-v1, tuned": ("Pendulum-v1", "usual", {}),
    "Pendulum-v1, large": ("Pendulum-v1", "large", {}),
    "CartPole-v1, GRU of 64": ("CartPole-v1", "usual", {"gru_size": 64}),
    "MinAtar-Breakout-v1, tuned": ("MinAtar-Breakout-v1", "usual", {}),
}
DATA, PAGE = RESULTS / "distributed.json", Path(__file__).parents[1] / "docs" / "distributed.md"
_MOST_STEPS = 2_000_000
_REPEATS = 5


@dataclass(frozen=True)
class Settings:
    """Measure training in two processes of one core each beside one process with all the environments."""

    seeds: int = 10
    """Of the trainings until the goal."""
    seconds: float = 4.0
    """About how long each of five repeats takes."""
    parts: tuple[str, ...] = ("levels", "speed")
    """What to measure."""


def main(settings: Settings) -> None:
    """Measure in processes of each number, write the result and the page's tables."""
    report = json.loads(DATA.read_text()) if DATA.exists() else {}
    for part in settings.parts:
        rows = {f"{size} x {threads}": started(part, size, threads, settings) for size, threads in ways(part)}
        report[part] = {**describe(), "rows": rows}
    print(f"written to {write(report, DATA)}")
    fill(PAGE, "distributed", f"{levels_table(report['levels'])}\n\n{speed_table(report['speed'])}")


def levels_table(part: dict[str, Any]) -> str:
    """Return how many steps trainings took to the goal."""
    ways = [part["rows"]["1 x 1"], part["rows"]["2 x 1"]]
    every = [steps for way in ways for env in way.values() for steps in env]
    reached = f"{sum(steps is not None for steps in every)} of {len(every)} trainings reached it"
    cells = []
    for env in ways[0]:
        found = [[steps or _MOST_STEPS for steps in way[env]] for way in ways]
        one, two = map(statistics.median, found)
        spreads = [f"{statistics.median(way):,.0f} ({min(way):,}-{max(way):,})" for way in found]
        cells.append((env, *spreads, f"{two / one - 1:+.1%}"))
    headings = ("tuned settings", "one process, median (range)", "two with half of it each", "median")
    seeds = len(ways[0][cells[0][0]])
    said = f"Environment steps until the goal, {seeds} seeds each, {about(part)}; {reached}:"
    return f"{said}\n\n{table(headings, cells)}"


def speed_table(part: dict[str, Any]) -> str:
    """Return how fast trainings are, and what sending takes."""
    alone, threaded, together = (part["rows"][way] for way in ("1 x 1", "1 x 2", "2 x 1"))
    said = f"Thousands of trained steps a second, medians of five repeats, {about(part)}."
    said += " The total number of environments is the same in all columns:"
    cells = []
    for name, two in together.items():
        speeds = [f"{way[name]['steps_per_second'] / 1e3:,.0f}" for way in (alone, threaded, together)]
        ratio = f"{two['steps_per_second'] / threaded[name]['steps_per_second']:.2f}"
        sent = f"{two['bytes_per_gradient_step'] / 1e3:,.1f}"
        cells.append((f"{name} ({two['engine']})", *speeds, ratio, f"{two['sending_share']:.0%}", sent))
    columns = ("one process, one core", "one, two cores", "two, one core each", "two beside one, two cores")
    return f"{said}\n\n{table(('', *columns, 'sending, waiting', 'kB a gradient step'), cells)}"


def about(part: dict[str, Any]) -> str:
    """Return where it was measured."""
    return f"on {part['cores']} cores of an {part['machine']}, {part['date']}, PyTorch {part['versions']['torch']}"


def ways(part: str) -> list[tuple[int, int]]:
    """Return how many processes to measure, of how many cores each."""
    return [(1, 1), (2, 1)] if part == "levels" else [(1, 1), (1, 2), (2, 1)]


def started(part: str, size: int, threads: int, settings: Settings) -> Any:
    """Let torchrun start processes that measure a part; return what the first found."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        job = {"part": part, "threads": threads, "seeds": settings.seeds, "seconds": settings.seconds, "out": str(out)}
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}", __file__]
        own = {"OPERANT_BENCH": json.dumps(job), "OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, check=True, env={**os.environ, **own})
        return json.loads(out.read_text())


def work(job: dict[str, Any]) -> None:
    """Measure a part as one of the processes."""
    torch.set_num_threads(job["threads"])
    with distributed() as processes:
        if job["part"] == "levels":
            found: Any = {env: [steps_to_goal(env, seed, processes) for seed in range(job["seeds"])] for env in LEVELS}
        else:
            found = {name: speed(name, job["seconds"], processes) for name in SPEEDS}
        if processes.rank == 0:
            Path(job["out"]).write_text(json.dumps(found))


def share(config: PPOConfig, processes: Processes) -> PPOConfig:
    """Return the settings of one of the processes, for those of one with all environments."""
    size = processes.size
    return replace(config, num_envs=config.num_envs // size, batch_size=(config.batch_size or 512) // size)


def steps_to_goal(env: str, seed: int, processes: Processes) -> int | None:
    """Return after how many environment steps a training reaches the goal; None if it does not."""
    config = share(PPOConfig.for_env(env, seed=seed, total_timesteps=_MOST_STEPS), processes)
    learner = PPO(operant_gpu.make(env, config.num_envs, device="cpu"), config)
    view = View.of(learner, goal=goal_of(Job(env)))

    def callback(metrics: dict[str, float]) -> bool:
        view.add(metrics)
        return not view.is_solved

    learner.learn(callback=callback)
    return learner.timesteps if view.is_solved else None


def speed(name: str, seconds: float, processes: Processes) -> dict[str, Any]:
    """Return trained steps a second, the median of five repeats, and what sending takes of the time."""
    env, size, settings = SPEEDS[name]
    config = share(PPOConfig.for_env(env, size=size, log_interval=10, **settings), processes)
    learner = PPO(operant_gpu.make(env, config.num_envs, device="cpu"), config)
    iteration = learner.config.n_steps * learner.env.num_envs * processes.size
    learner.learn(3 * iteration)
    began = time.perf_counter()
    learner.learn(3 * iteration)
    count = processes.first(lambda: max(3, int(seconds / ((time.perf_counter() - began) / 3))))
    counter = Counter(processes)
    speeds = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        learner.learn(count * iteration)
        speeds.append(count * iteration / (time.perf_counter() - began))
    elapsed = _REPEATS * count * iteration / statistics.mean(speeds)
    steps = float(learner.optimizer.count) / learner.iterations
    return {
        "engine": learner.engine,
        "steps_per_second": statistics.median(speeds),
        "slowest": min(speeds),
        "fastest": max(speeds),
        "gradient_steps_per_iteration": steps,
        "sending_share": counter.seconds / elapsed,
        "bytes_per_gradient_step": counter.most_bytes,
        "parameters": sum(one.numel() for one in learner.policy.parameters()),
    }


class Counter:
    """Counts the seconds that a process spends on others, and the bytes of its largest message in an iteration."""

    def __init__(self, processes: Processes) -> None:
        self.seconds, self.most_bytes = 0.0, 0
        for name in ("average", "gather", "meet"):
            setattr(processes, name, self._counted(getattr(processes, name), inner=name == "average"))
        self._is_inside = False

    def _counted(self, method: Any, inner: bool) -> Any:
        def call(*arguments: Any) -> Any:
            if self._is_inside:
                return method(*arguments)
            if inner:
                self.most_bytes = max(self.most_bytes, sum(one.nbytes for one in arguments))
            began, self._is_inside = time.perf_counter(), True
            try:
                return method(*arguments)
            finally:
                self._is_inside = False
                self.seconds += time.perf_counter() - began

        return call


if __name__ == "__main__":
    if "OPERANT_BENCH" in os.environ:
        work(json.loads(os.environ["OPERANT_BENCH"]))
    else:
        main(tyro.cli(Settings))
