"""Measure how many environment steps a second PPO learns from, and where an iteration's time goes.

    python bench/ppo_throughput.py [--env CartPole-v1] [--num-envs 64 4096] [--repeats 7]

Contenders take turns, so that a machine that slows down slows all. Four passes over 32 steps of every environment, in
minibatches of an eighth or 512 steps, with the preset's network (64x64 for CartPole). Beside the engines, where JAX is
installed: a PPO written in JAX (`peers_jax.py`), on CartPole and Pendulum, with as many threads as JAX takes.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import tyro
from machine import describe, slug, write
from page import header, learners_table, split_table

import operant_gpu
from operant_gpu.cli.timing import Contender, race, waiter
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.models.ppo import update as ppo_update

N_STEPS, MINIBATCHES, LEAST_BATCH = 32, 8, 512
WARM_UP = 4
wait = waiter("cuda" if torch.cuda.is_available() else "cpu")
REST = "shuffles, storage and the rest"


@dataclass(frozen=True)
class Settings:
    """Measure how many environment steps a second PPO learns from, and where an iteration's time goes."""

    env: str = "CartPole-v1"
    """Environment of operant_gpu."""
    num_envs: tuple[int, ...] = (4_096, 16_384, 65_536) if torch.cuda.is_available() else (64, 4_096)
    """How many environments to step together."""
    repeats: int = 7
    """Repeats of each measurement."""
    seconds: float = 1.0
    """About how long one repeat takes."""
    compile: bool = False
    """Whether to measure with torch.compile too."""
    batch_size: int | None = None
    """Environment steps of a minibatch; an eighth of an iteration's, or 512, if not given."""
    engines: tuple[str, ...] = ("eager", "fused", "graph") if torch.cuda.is_available() else ("eager", "fused")
    """Engines to measure."""
    jax: bool = True
    """Whether to measure the PPO in JAX beside them, where that is installed."""
    json: Path | None = None
    """Where to write the result; bench/results/<machine>-ppo-<env>.json if not given."""


def main(settings: Settings) -> None:
    """Measure, print tables and write JSON."""
    if not torch.cuda.is_available():
        # As the command line does: networks this small gain nothing from threads.
        torch.set_num_threads(1)
    report = {**describe(), "env": settings.env}
    report["rows"] = [row for num_envs in settings.num_envs for row in measure_size(settings, num_envs)]
    splits = [split_row(settings, num_envs, engine) for engine in ("eager", "fused") for num_envs in settings.num_envs]
    report["split"], report["fused_split"] = (
        {str(row["num_envs"]): row["split"] for row in splits if row["engine"] == engine}
        for engine in ("eager", "fused")
    )
    path = write(report, settings.json, f"{{}}-ppo-{slug(settings.env)}")
    tables = learners_table(f"{settings.env}, trained steps", report["rows"]), *map(split_table, splits)
    print(header("Steps that PPO learns from", report), *tables, f"written to {path}", sep="\n\n")


def learner_of(settings: Settings, num_envs: int, **changes: Any) -> PPO:
    """Return a learner that has warmed up: kernels compiled, graphs captured."""
    vec = operant_gpu.make(settings.env, num_envs)
    learner = PPO(vec, config_of(settings, num_envs, **changes))
    return learner.learn(WARM_UP * N_STEPS * num_envs)


def config_of(settings: Settings, num_envs: int, **changes: Any) -> PPOConfig:
    """Return the preset for another number of environments."""
    batch_size = settings.batch_size or max(LEAST_BATCH, N_STEPS * num_envs // MINIBATCHES)
    size = {"num_envs": num_envs, "n_steps": N_STEPS, "n_epochs": 4, "batch_size": batch_size, "log_interval": 10**9}
    lr = PPOConfig.for_env(settings.env).lr
    # Iterations go on beyond the training that warms up.
    constant = {"lr": lr[0] if isinstance(lr, tuple) else lr}
    return PPOConfig.for_env(settings.env, **{**size, **constant, **changes})


def measure_size(settings: Settings, num_envs: int) -> list[dict[str, Any]]:
    """Return one row per contender at this number of environments."""
    engines: dict[str, dict[str, Any]] = {name: {"engine": name} for name in settings.engines}
    if settings.compile:
        engines |= {
            f"{name}, compiled": {**changes, "compile": True} for name, changes in engines.items() if name != "fused"
        }
    contenders = [engine_contender(settings, num_envs, name, changes) for name, changes in engines.items()]
    if settings.jax:
        contenders += jax_contender(settings, num_envs)
    return [
        {
            "engine": row["contender"],
            "num_envs": num_envs,
            "batch_size": config_of(settings, num_envs).batch_size,
            "reason": row["reason"],
            "steps_per_second": row["per_second"],
            "slowest": row["slowest"],
            "fastest": row["fastest"],
            "seconds_per_iteration": row["seconds_per_call"],
        }
        for row in race(contenders, settings.repeats, settings.seconds, max_seconds=math.inf)
    ]


def engine_contender(settings: Settings, num_envs: int, name: str, changes: dict[str, Any]) -> Contender:
    """Return the iterations of an engine, or of what it fell back to."""
    learner = learner_of(settings, num_envs, **changes)
    title = name if name.startswith(learner.engine) else f"{name} (fell back to {learner.engine})"
    reason = {"reason": learner.engine_reason}
    return Contender(title, lambda _: learner._iterate(), wait, N_STEPS * num_envs, reason)


def jax_contender(settings: Settings, num_envs: int) -> list[Contender]:
    """Return the iterations of the PPO in JAX, if that is here and has the environment."""
    if not importlib.util.find_spec("jax"):
        return []
    import jax
    import peers_jax

    if settings.env not in peers_jax.TASKS:
        return []
    program = peers_jax.JaxPPO(settings.env, config_of(settings, num_envs))
    progress = program.begin(0)

    def iterate(_: int) -> None:
        nonlocal progress
        progress, _ = program.iterate(progress)

    name, work = f"jax on {jax.default_backend()}", N_STEPS * num_envs
    return [Contender(name, iterate, lambda: jax.block_until_ready(progress), work, {"reason": ""})]


def split_row(settings: Settings, num_envs: int, engine: str, iterations: int = 20) -> dict[str, Any]:
    """Return where the time of an engine's iteration goes."""
    learner = learner_of(settings, num_envs, engine=engine, rnd_coef=0.0)
    size = {"num_envs": num_envs, "batch_size": learner.config.batch_size}
    return {"engine": engine, **size, "split": split(learner, iterations)}


def split(learner: PPO, iterations: int) -> dict[str, float]:
    """Return the seconds of each part of an iteration without graphs; on a GPU, with a wait around each part."""
    update, telemetry = learner._loop.update, learner._loop.update.telemetry
    for stage in learner._loop.stages:
        stage.run_eagerly()
    whole = {"rollout": [(update, "collect")], "gradient steps": [(update, "climb")]}
    functions: dict[str, list[tuple[Any, str]]] = {
        **(whole if learner.engine == "fused" else {}),
        "environment steps": [(learner.env, "step")],
        "policy acts": [(learner.policy, "act")],
        "advantages": [(update, "advantages")],
        "forward and losses": [(ppo_update, "objective")],
        "backward": [(torch.Tensor, "backward")],
        "gradient norms and Adam": [(update.optimizer, "gradient_norms"), (update.optimizer, "step")],
        "metrics and faults": [
            *((telemetry, name) for name in ("add_step", "add_steps", "add_iteration")),
            *((telemetry.faults, name) for name in ("inspect_step", "inspect_rollout")),
        ],
    }
    wait()
    clock = Clock()
    with ExitStack() as stack:
        for part, places in functions.items():
            for owner, name in places:
                stack.enter_context(mock.patch.object(owner, name, clock.part(part)(getattr(owner, name))))
        for _ in range(iterations):
            learner._iterate()
        clock.turn_to(REST)
    return {part: clock.seconds[part] / iterations for part in (*functions, REST) if part in clock.seconds}


class Clock:
    """Adds up the seconds of parts. What is in none is the rest; of one part within another, the inner one counts.

    Attributes:
        seconds: Of each part.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._part, self._since = REST, time.perf_counter()

    def turn_to(self, part: str) -> str:
        """End a part once the device is done with it, and begin another; return the one that ended."""
        wait()
        ended, now = self._part, time.perf_counter()
        self.seconds[ended] = self.seconds.get(ended, 0.0) + now - self._since
        self._part, self._since = part, now
        return ended

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of a block, or as a decorator of a function, as that of a part."""
        before = self.turn_to(name)
        try:
            yield
        finally:
            self.turn_to(before)


if __name__ == "__main__":
    main(tyro.cli(Settings, args=sys.argv[1:]))
