"""What a parameter in memory costs: CartPole with none, one, four and all six that can be there, and with draws.

    python bench/parameters.py [--num-envs 4096] [--out FILE]

Contenders take turns. The bytes are those that a step reads: 4 of each parameter of each environment.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from machine import describe, write
from ours import places
from page import table

from operant_gpu.cli.timing import Contender, race, waiter
from operant_gpu.envs import CartPole
from operant_gpu.randomization import Uniform
from operant_gpu.vector.graphs import captured

# Those that no space and no `if` reads.
NAMES = ("gravity", "length", "masspole", "force_mag", "masscart", "tau")


@dataclass
class Settings:
    """How much is measured."""

    num_envs: int = 1 << 20 if torch.cuda.is_available() else 4_096
    """Environments."""
    steps: int = 64
    """Of a rollout."""
    repeats: int = 9
    """Of each measurement."""
    seconds: float = 0.1
    """About how long one takes."""
    backends: tuple[str, ...] = ()
    """Such as triton; all that work here if not given."""
    out: Path | None = None
    """File for the results; bench/results/parameters-<machine>.json if not given."""


def kinds(num_envs: int) -> dict[str, dict[str, Any]]:
    """Return the parameters of each contender: as many numbers, given in other forms."""
    usual = CartPole.make_params({})._asdict()

    def own(*names: str) -> dict[str, Any]:
        return {name: torch.full((num_envs,), usual[name]) for name in names}

    return {
        "compiled in": {},
        "one tensor": own(NAMES[0]),
        "four tensors": own(*NAMES[:4]),
        "six tensors": own(*NAMES),
        "six shared": {name: torch.tensor(usual[name]) for name in NAMES},
        "six drawn": {name: Uniform(0.99 * usual[name], 1.01 * usual[name]) for name in NAMES},
    }


def contenders(settings: Settings, device: str, backend: str) -> Iterator[Contender]:
    """Yield single steps and rollouts with each."""
    for kind, params in kinds(settings.num_envs).items():
        env = CartPole(settings.num_envs, params=params, device=device, backend=backend)
        env.reset(seed=0)
        actions = torch.randint(
            2, (settings.num_envs,), device=device, generator=torch.Generator(device).manual_seed(0)
        )
        each = sum(one.ndim for one in env.params if isinstance(one, torch.Tensor))
        notes = {"parameters": kind, "backend": backend, "bytes_per_step": 4 * each}

        step = functools.partial(take, env.step, actions)
        roll_out = functools.partial(take, env.rollout, settings.steps)
        if device == "cuda":
            step(0)
            graph, _ = captured(functools.partial(step, 0))
            # With the memory that it writes to.
            replay = functools.partial(take, lambda graph, _: graph.replay(), graph, env)
            yield contender("step in a graph", replay, env, notes)
        yield contender("step", step, env, notes)
        yield contender("rollout", roll_out, env, notes, settings.steps)


def contender(what: str, call: Any, env: Any, notes: dict[str, Any], steps: int = 1) -> Contender:
    """Return a contender that calls something with its number."""
    name = f"{what}, {notes['backend']}, {notes['parameters']}"
    return Contender(name, call, waiter(env.device), env.num_envs * steps, {**notes, "what": what})


def take(call: Any, *arguments: Any) -> None:
    """Call something with all of these but the last, the number of the call."""
    call(*arguments[:-1])


def main(settings: Settings) -> None:
    """Measure, write and print."""
    torch.set_num_threads(1)
    rows = []
    for device, backend in places():
        if settings.backends and backend not in settings.backends:
            continue
        rows += race(contenders(settings, device, backend), settings.repeats, settings.seconds)
    report = {**describe(), "num_envs": settings.num_envs, "steps": settings.steps, "rows": rows}
    path = write(report, settings.out, "parameters-{}")
    lines = list[list[str]]()
    for what, backend in dict.fromkeys((row["what"], row["backend"]) for row in rows):
        own = [row for row in rows if (row["what"], row["backend"]) == (what, backend)]
        speeds = [f"{row['per_second'] / 1e6:,.1f}" for row in own]
        shares = [f"{row['per_second'] / own[0]['per_second']:.2f}" for row in own]
        lines += [[f"{what}, {backend}, M steps/s", *speeds], [f"{what}, {backend}, of compiled in", *shares]]
    print(table(["CartPole-v1", *kinds(1)], lines))
    print(f"written to {path}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
