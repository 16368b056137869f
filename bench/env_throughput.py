"""Measure environment steps per second beside other libraries, in one run.

    python bench/env_throughput.py [--env CartPole-v1] [--num-envs 1 64 4096 65536] [--repeats 7]

Single steps, CUDA-graph replay and whole rollouts; every environment at one size; what each output of a rollout costs;
how long the first call takes. Repeats are interleaved. Bytes and operations are counted from the environments'
columns and networks, and compared with a copy and a matrix product measured in the same run. Writes
bench/results/<machine>.json and .md; `front_page.py` draws the charts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from env_page import write_page
from first_call import first_calls
from limits import references
from machine import describe, write
from ours import operations_of_step, output_costs, places, random_actions, rollouts, single_steps
from peers import peers

import operant_gpu
from operant_gpu.backends.lowering.trial import try_out
from operant_gpu.cli.timing import Contender, race
from operant_gpu.environment import Definition, Environment
from operant_gpu.registry import find

ON_GPU = torch.cuda.is_available()


@dataclass(frozen=True)
class Settings:
    """Measure environment steps per second beside other libraries."""

    env: str = "CartPole-v1"
    """Environment that is measured at every size."""
    num_envs: tuple[int, ...] = (1, 64, 1_024, 8_192, 65_536, 1 << 18, 1 << 20, 1 << 22) if ON_GPU else (
        1, 64, 4_096, 65_536, 1 << 20
    )  # fmt: skip
    """How many environments to step together."""
    one_size: int = 1 << 20 if ON_GPU else 4_096
    """How many of each other environment in Triton, and where outputs are compared."""
    repeats: int = 7
    """Repeats of each measurement."""
    seconds: float = 0.2
    """About how long one repeat takes."""
    json: Path | None = None
    """Where to write the result; bench/results/<machine>.json if not given."""
    peers: bool = True
    """Whether to measure other libraries too."""


def main(settings: Settings) -> None:
    """Measure and write the page."""
    report = {**describe(), "env": settings.env, "one_size": settings.one_size, **references()}
    report["sizes"] = {str(size): contest(settings, settings.env, size) for size in settings.num_envs}
    in_triton = [env for env in operant_gpu.list_envs() if is_of_numbers(find(env))]
    report["environments"] = {env: contest(settings, env, settings.one_size) for env in in_triton}
    report["operations_per_step"] = {env: operations_of_step(env) for env in in_triton}
    device, backend = places()[-1]
    costs = output_costs(settings.env, settings.one_size, device, backend)
    report["outputs"] = race(costs, settings.repeats, settings.seconds)
    report["first_calls"] = first_calls(settings.env)
    path = write(report, settings.json, "{}")
    print(write_page(report, path), f"\nwritten to {path}")


def is_of_numbers(environment: Definition) -> bool:
    """Tell whether an environment is in Triton and without arrays; bench/games_throughput.py has the others."""
    return isinstance(environment, Environment) and try_out(environment, environment.make_params({})).width == 1


def contest(settings: Settings, env: str, num_envs: int) -> list[dict[str, Any]]:
    """Return a row for each contender at this number of environments."""
    print(f"{env}, {num_envs:,} environments", file=sys.stderr)
    return race(contenders(settings, env, num_envs), settings.repeats, settings.seconds)


def contenders(settings: Settings, env: str, num_envs: int) -> Iterator[Contender]:
    """Yield what can be measured here, ours first."""
    actions = random_actions(env, num_envs)
    yield from single_steps(env, num_envs, actions)
    yield from rollouts(env, num_envs)
    if settings.peers:
        yield from peers(env, num_envs, actions)


if __name__ == "__main__":
    main(tyro.cli(Settings))
