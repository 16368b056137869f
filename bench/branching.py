"""What it costs to copy environments: `branch` of some of 65,536, beside a plain copy of as many bytes, and a step.

    python bench/branching.py [--num-envs 65536] [--out FILE]

Contenders take turns. The bytes are those that are read: state, clock and key of each environment that is copied.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import command, describe, refuse_below, write
from page import fill, table

import operant_gpu
from operant_gpu.cli.timing import Contender, race, waiter

PAGE = Path(__file__).parent.parent / "docs" / "branch_restore_replay.md"
NAMES = ("CartPole-v1", "MinAtar-Breakout-v1", "Game2048-v0", "Snake-v0")


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    num_envs: int = 65_536
    """Environments."""
    repeats: int = 9
    """Of each measurement."""
    seconds: float = 0.1
    """About how long one takes."""
    device: str = "auto"
    """auto, cpu or cuda."""
    out: Path | None = None
    """File for the results; bench/results/branching-<machine>.json if not given."""


def contenders(name: str, settings: Settings) -> Iterator[Contender]:
    """Yield branches of few and of all environments, and what they are held against."""
    env = operant_gpu.make(name, settings.num_envs, device=settings.device)
    env.reset(seed=0)
    env.rollout(20)
    wait, size = waiter(env.device), settings.num_envs
    each = sum(column[0].numel() * column.element_size() for column in env.snapshot([0]).rows.columns)
    generator = torch.Generator().manual_seed(0)
    action = torch.as_tensor(env.action_space.sample()).to(env.device)
    about = {"env": name, "backend": env.backend}
    yield Contender(f"{name}, step", functools.partial(_take, env.step, action), wait, size, {**about, "what": "step"})
    for count in dict.fromkeys((1, min(64, size), size)):
        sources = torch.randint(size, (count,), generator=generator).to(env.device)
        targets = torch.randperm(size, generator=generator)[:count].to(env.device)
        notes = {**about, "rows": count, "bytes": each * count}
        for what, new_streams in (("branch", False), ("branch, new streams", True)):
            call = functools.partial(_branch, env, sources, targets, new_streams)
            yield Contender(f"{name}, {what}, {count}", call, wait, count, {**notes, "what": what})
        memory = torch.zeros(2, each * count, dtype=torch.uint8, device=env.device)
        call = functools.partial(_take, memory[0].copy_, memory[1])
        yield Contender(f"{name}, copy, {count}", call, wait, count, {**notes, "what": "copy"})


def _take(call: Any, argument: Any, number: int) -> None:
    call(argument)


def _branch(env: Any, sources: Any, targets: Any, new_streams: bool, number: int) -> None:
    env.branch(sources, targets, new_streams=new_streams)


def main(settings: Settings) -> None:
    """Measure, write and print."""
    refuse_below(settings, num_envs=1, repeats=1)
    torch.set_num_threads(1)
    rows = []
    for name in NAMES:
        rows += race(contenders(name, settings), settings.repeats, settings.seconds)
    report = {**describe(), "num_envs": settings.num_envs, "rows": rows}
    path = write(report, settings.out, "branching-{}")
    print(table_of(report))
    print(f"written to {path}")
    if settings.out is None:
        fill(PAGE, "branching", table_of(report))


def table_of(report: dict[str, Any]) -> str:
    """Return a row for each environment and number of rows: microseconds, and shares of a plain copy and of a step."""
    by_name = {row["contender"]: row for row in report["rows"]}
    lines = []
    for row in report["rows"]:
        if row["what"] != "branch":
            continue
        name, count = row["env"], row["rows"]
        fresh, copy, step = (
            by_name[one]["seconds_per_call"]
            for one in (f"{name}, branch, new streams, {count}", f"{name}, copy, {count}", f"{name}, step")
        )
        own = row["seconds_per_call"]
        micro = (f"{seconds * 1e6:,.0f}" for seconds in (own, fresh))
        shares = (f"{share:.2g}" if share < 10 else f"{share:,.0f}" for share in (own / copy, own / step))
        lines.append([f"{name} ({row['backend']})", f"{count:,}", f"{row['bytes']:,}", *micro, *shares])
    headings = ("environment", "rows", "bytes", "µs", "µs, new streams", "of a plain copy", "of a step of all")
    return table(headings, lines)


if __name__ == "__main__":
    command(main, Settings)
