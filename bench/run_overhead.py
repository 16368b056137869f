"""Measure what it costs to watch and to keep a training: the dashboard, the run's directory, a monitor beside it.

    python bench/run_overhead.py [--envs CartPole-v1 Pendulum-v1] [--seconds 10] [--repeats 5]

The same learner trains on in each way in turn. Two figures for each: how much longer an iteration takes than without
any of it (medians of the repeats), and the share of the time that the processor spent on it, counted in the thread that
draws and in the callback that writes. The terminal is a real one whose other side is read by another process.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from machine import describe, write

import operant_gpu
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.monitor import Run
from operant_gpu.monitor.display import Display

WAYS = ("nothing", "dashboard", "run", "run and dashboard", "run, dashboard and monitor")


@dataclass(frozen=True)
class Settings:
    """Measure what it costs to watch and to keep a training."""

    envs: tuple[str, ...] = ("CartPole-v1", "Pendulum-v1", "MinAtar-Breakout-v1")
    """Environments, with their tuned settings."""
    seconds: float = 10.0
    """About how long each training takes."""
    repeats: int = 5
    """Trainings in each way."""
    json: Path | None = None
    """Where to write the result; bench/results/run-overhead-<machine>.json if not given."""


class Cost:
    """Processor time of what is measured, by thread or call."""

    seconds = 0.0


def main(settings: Settings) -> None:
    """Measure, print a table and write the result."""
    torch.set_num_threads(1)
    # All that the thread which draws does, and the callback.
    _count(Display, "_run")
    _count(Run, "__call__")
    report = {**describe(), "ways": WAYS, "envs": {env: measure(settings, env) for env in settings.envs}}
    for env, rows in report["envs"].items():
        print(f"{env}: {rows['iteration_ms']:.2f} ms an iteration")
        for way in WAYS[1:]:
            row = rows[way]
            print(f"  {way:28} {row['longer']:+7.2%} longer, {row['share']:6.2%} of the time at work")
    print(f"written to {write(report, settings.json, 'run-overhead-{}')}")


def measure(settings: Settings, env: str) -> dict[str, Any]:
    """Return the cost of each way for an environment."""
    config = PPOConfig.for_env(env, checkpoint_interval=10**9)
    learner = PPO(operant_gpu.make(env, config.num_envs), config)
    steps = config.n_steps * config.num_envs
    learner.learn(5 * steps)
    began = time.perf_counter()
    learner.learn(5 * steps)
    count = max(5, int(settings.seconds / ((time.perf_counter() - began) / 5)))
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    shares: dict[str, list[float]] = {way: [] for way in WAYS}
    with terminal():
        for repeat in range(settings.repeats):
            # In another order each time, so that a machine that gets slower favours none.
            for way in (*WAYS[repeat % len(WAYS) :], *WAYS[: repeat % len(WAYS)]):
                Cost.seconds = 0.0
                seconds = train(learner, count * steps, way)
                times[way].append(seconds / count)
                shares[way].append(Cost.seconds / seconds)
    base = statistics.median(times["nothing"])
    rows: dict[str, Any] = {"iteration_ms": base * 1e3, "iterations": count}
    for way in WAYS[1:]:
        longer = statistics.median(times[way]) / base - 1
        rows[way] = {"longer": longer, "share": statistics.median(shares[way]), "seconds": times[way]}
    return rows


def train(learner: PPO, timesteps: int, way: str) -> float:
    """Train on in one of the ways; return the seconds that takes, without opening and closing."""
    if "run" not in way:
        began = time.perf_counter()
        learner.learn(timesteps, progress=way == "dashboard")
        return time.perf_counter() - began
    beside = monitor if "monitor" in way else contextlib.nullcontext
    with tempfile.TemporaryDirectory() as folder, Run(learner, folder) as run, beside(folder):
        began = time.perf_counter()
        learner.learn(timesteps, callback=run, progress="dashboard" in way)
        return time.perf_counter() - began


@contextlib.contextmanager
def monitor(folder: str) -> Iterator[None]:
    """Watch a run from another process."""
    command = [sys.executable, "-m", "operant_gpu", "monitor", folder]
    with subprocess.Popen(command) as process:
        # Until it has begun.
        time.sleep(4.0)
        yield
        process.kill()


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Let the standard output be a terminal whose other side another process reads."""
    own, other = pty.openpty()
    environment = {"COLUMNS": "110", "LINES": "40", "TERM": "xterm-256color"}
    before, out = dict(os.environ), os.dup(1)
    reader = subprocess.Popen(["cat"], stdin=own, stdout=subprocess.DEVNULL)
    os.environ.update(environment)
    sys.stdout.flush()
    os.dup2(other, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(out, 1)
        os.environ.clear()
        os.environ.update(before)
        for descriptor in (own, other, out):
            os.close(descriptor)
        reader.kill()
        reader.wait()


def _count(owner: type, name: str) -> None:
    """Count the processor time of a method, in the thread that calls it."""
    real = getattr(owner, name)

    @functools.wraps(real)
    def counted(*arguments: Any) -> Any:
        began = time.thread_time()
        result = real(*arguments)
        Cost.seconds += time.thread_time() - began
        return result

    setattr(owner, name, counted)


if __name__ == "__main__":
    main(tyro.cli(Settings))
