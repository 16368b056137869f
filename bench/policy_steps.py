"""Measure steps with a policy: those of a loop in Python, and those of rollouts, as examples/own_loop.py takes them.

    python bench/policy_steps.py [--num-envs 64 4096] [--repeats 7]

Both store what PPO needs, in iterations of 32 steps of CartPole-v1, on one thread of the CPU. Processor time is
counted, which other programs on the machine change less. Writes bench/results/policy-steps.json; `front_page.py` writes
the tables.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import command, describe, refuse_below, write

import operant_gpu

WAYS = ("steps", "rollout")


@dataclass(frozen=True)
class Settings:
    """Measure steps with a policy."""

    num_envs: tuple[int, ...] = (64, 4096)
    """How many environments to step together."""
    repeats: int = 7
    """Repeats of each measurement; those of the two ways take turns."""
    seconds: float = 0.5
    """About how long one repeat takes."""
    json: Path | None = None
    """Where to write the result; bench/results/policy-steps.json if not given."""


def example() -> Any:
    """Return the program whose loops are measured."""
    spec = importlib.util.spec_from_file_location("own_loop", Path(__file__).parents[1] / "examples" / "own_loop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(settings: Settings) -> None:
    """Measure and write the result."""
    refuse_below(settings, repeats=1)
    torch.set_num_threads(1)
    sizes = {str(size): race(settings, size) for size in settings.num_envs}
    print(write({**describe(), "env": "CartPole-v1", "sizes": sizes}, settings.json, "policy-steps"))


def race(settings: Settings, num_envs: int) -> dict[str, dict[str, float]]:
    """Return steps per second of processor time, by the way they are taken: median, slowest and fastest repeat."""
    own_loop, collectors = example(), {}
    own_loop.NUM_ENVS = num_envs
    for way in WAYS:
        env = operant_gpu.make("CartPole-v1", num_envs, device="cpu")
        obs, _ = env.reset(seed=0)
        _, collectors[way] = own_loop.by_steps(env, obs) if way == "steps" else own_loop.by_rollout(env, seed=0)
        # The first compiles.
        collectors[way]()
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(settings.repeats):
        for way, collect in collectors.items():
            begin, iterations = time.process_time(), 0
            while (taken := time.process_time() - begin) < settings.seconds:
                collect()
                iterations += 1
            rates[way].append(iterations * num_envs * own_loop.NUM_STEPS / taken)
    return {
        way: {"per_second": statistics.median(those), "slowest": min(those), "fastest": max(those)}
        for way, those in rates.items()
    }


if __name__ == "__main__":
    command(main, Settings)
