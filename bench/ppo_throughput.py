"""Measure how many environment steps a second PPO learns from, and where an iteration's time goes.

    python bench/ppo_throughput.py [--env CartPole-v1] [--num-envs 64 4096] [--repeats 7]

Contenders take turns, so that a machine that slows down slows all. Four passes over 32 steps of every environment, in
minibatches of an eighth or 512 steps, with the preset's network (64x64 for CartPole). Beside the engines, where JAX is
installed: a PPO written in JAX (`peers_jax.py`), on CartPole and Pendulum, with as many threads as JAX takes.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from machine import RESULTS, describe, slug
from rich.console import Console
from rich.table import Table

import operant_gpu
from operant_gpu.models import PPO, PPOConfig

N_STEPS, MINIBATCHES, LEAST_BATCH = 32, 8, 512
WARM_UP, CALIBRATING = 4, 3


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
    console = Console()
    report = {**describe(), "env": settings.env}
    report["rows"] = [row for num_envs in settings.num_envs for row in measure_size(settings, num_envs)]
    report["split"], report["fused_split"] = (
        {
            str(num_envs): split(learner_of(settings, num_envs, engine=engine, rnd_coef=0.0))
            for num_envs in settings.num_envs
        }
        for engine in ("eager", "fused")
    )
    path = settings.json or RESULTS / f"{slug(report['machine'])}-ppo-{slug(settings.env)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    tables = split_table(report["split"], "an eager"), split_table(report["fused_split"], "a fused")
    console.print(speed_table(report), *tables, sep="\n")
    console.print(f"{report['command']}\n{report['versions']}\nwritten to {path}", highlight=False)


def learner_of(settings: Settings, num_envs: int, **changes: Any) -> PPO:
    """Return a learner that has warmed up: kernels compiled, graphs captured."""
    vec = operant_gpu.make(settings.env, num_envs)
    learner = PPO(vec, config_of(settings, num_envs, **changes))
    return learner.learn(WARM_UP * N_STEPS * num_envs)


def config_of(settings: Settings, num_envs: int, **changes: Any) -> PPOConfig:
    """Return the preset for another number of environments."""
    batch_size = settings.batch_size or max(LEAST_BATCH, N_STEPS * num_envs // MINIBATCHES)
    size = {"num_envs": num_envs, "n_steps": N_STEPS, "n_epochs": 4, "batch_size": batch_size}
    size |= {"anneal_lr": False, "log_interval": 10**9}
    return PPOConfig.for_env(settings.env, **{**size, **changes})


def measure_size(settings: Settings, num_envs: int) -> list[dict[str, Any]]:
    """Return one row per contender at this number of environments."""
    engines: dict[str, dict[str, Any]] = {name: {"engine": name} for name in settings.engines}
    if settings.compile:
        engines |= {
            f"{name}, compiled": {**changes, "compile": True} for name, changes in engines.items() if name != "fused"
        }
    learners = {name: learner_of(settings, num_envs, **changes) for name, changes in engines.items()}
    contenders: dict[str, Callable[[int], float]] = {}
    reasons: dict[str, str] = {}
    for name, learner in learners.items():
        title = f"{name} (fell back to {learner.engine})" if is_other(name, learner) else name
        contenders[title] = functools.partial(timed, learner)
        reasons[title] = learner.engine_reason
    if settings.jax:
        contenders |= jax_contender(settings, num_envs)
    iterations = {name: max(1, round(settings.seconds / measure(CALIBRATING))) for name, measure in contenders.items()}
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(settings.repeats):
        for name, measure in contenders.items():
            seconds[name].append(measure(iterations[name]))
    steps = N_STEPS * num_envs
    return [
        {
            "engine": name,
            "num_envs": num_envs,
            "batch_size": config_of(settings, num_envs).batch_size,
            "reason": reasons.get(name, ""),
            "steps_per_second": steps / statistics.median(times),
            "slowest": steps / max(times),
            "fastest": steps / min(times),
            "seconds_per_iteration": statistics.median(times),
        }
        for name, times in seconds.items()
    ]


def jax_contender(settings: Settings, num_envs: int) -> dict[str, Callable[[int], float]]:
    """Return what measures the PPO in JAX, if that is here and has the environment: a function like `timed`."""
    if not importlib.util.find_spec("jax"):
        return {}
    import jax
    import peers_jax

    if settings.env not in peers_jax.TASKS:
        return {}
    program = peers_jax.JaxPPO(settings.env, config_of(settings, num_envs))
    progress = program.begin(0)

    def timed(iterations: int) -> float:
        nonlocal progress
        jax.block_until_ready(progress)
        started = time.perf_counter()
        for _ in range(iterations):
            progress, _ = program.iterate(progress)
        jax.block_until_ready(progress)
        return (time.perf_counter() - started) / iterations

    return {f"jax on {jax.default_backend()}": timed}


def is_other(name: str, learner: PPO) -> bool:
    """Tell whether a learner runs in another way than it was asked to."""
    return not name.startswith(learner.engine)


def timed(learner: PPO, iterations: int) -> float:
    """Return the seconds of one iteration, over several of them."""
    wait()
    started = time.perf_counter()
    for _ in range(iterations):
        learner._iterate()
    wait()
    return (time.perf_counter() - started) / iterations


def wait() -> None:
    """Return once the device has done all it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def split(learner: PPO, iterations: int = 20) -> dict[str, float]:
    """Return the seconds of each part of an iteration without graphs; on a GPU, with a wait after each part."""
    update, faults = learner._loop.update, learner._telemetry.faults
    for stage in learner._loop.stages:
        stage.run_eagerly()
    fused: list[tuple[str, Any, str]] = [
        ("rollout", update, "collect"),
        ("advantages", update, "advantages"),
        ("gradient steps", getattr(update, "_steps", None), "run"),
        ("metrics and faults", learner._telemetry, "add_steps"),
        ("metrics and faults", learner._telemetry, "add_iteration"),
        ("metrics and faults", faults, "inspect_rollout"),
    ]
    eager: list[tuple[str, Any, str]] = [
        ("environment steps", learner.env, "step"),
        ("policy acts", learner.policy, "act"),
        ("advantages", update, "advantages"),
        ("forward and losses", update, "_objective"),
        ("backward", torch.Tensor, "backward"),
        ("gradient norms and Adam", update.optimizer, "gradient_norms"),
        ("gradient norms and Adam", update.optimizer, "step"),
        ("metrics and faults", learner._telemetry, "add_step"),
        ("metrics and faults", learner._telemetry, "add_iteration"),
        ("metrics and faults", faults, "inspect_step"),
        ("metrics and faults", faults, "inspect_rollout"),
    ]
    seconds: dict[str, float] = defaultdict(float)
    with stopwatches(fused if learner.engine == "fused" else eager, seconds):
        total = timed(learner, iterations)
    means = {name: spent / iterations for name, spent in seconds.items()}
    return {**means, "shuffles, storage and the rest": total - sum(means.values())}


@contextmanager
def stopwatches(parts: list[tuple[str, Any, str]], seconds: dict[str, float]) -> Iterator[None]:
    """Time functions, given as (name, owner, attribute), until the end of the block."""
    originals = [(owner, attribute, getattr(owner, attribute)) for _, owner, attribute in parts]
    for (name, owner, attribute), (*_, original) in zip(parts, originals, strict=True):
        setattr(owner, attribute, with_stopwatch(original, name, seconds))
    try:
        yield
    finally:
        for owner, attribute, original in originals:
            setattr(owner, attribute, original)


def with_stopwatch(function: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    """Return the function, adding the time of its calls to `seconds[name]`."""

    def measured(*arguments: Any, **keywords: Any) -> Any:
        started = time.perf_counter()
        result = function(*arguments, **keywords)
        wait()
        seconds[name] += time.perf_counter() - started
        return result

    return measured


def speed_table(report: dict[str, Any]) -> Table:
    """Return trained steps per second, a row per engine and size."""
    table = Table(title=f"{report['env']} on {report['machine']}: environment steps that PPO learns from")
    for heading in ("environments", "engine", "M steps/s", "spread", "ms an iteration", "x eager"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    for row in report["rows"]:
        speeds = {other["engine"]: other for other in report["rows"] if other["num_envs"] == row["num_envs"]}
        eager = speeds.get("eager")
        table.add_row(
            f"{row['num_envs']:,}",
            row["engine"],
            f"{row['steps_per_second'] / 1e6:.3f}",
            f"{row['slowest'] / 1e6:.3f}-{row['fastest'] / 1e6:.3f}",
            f"{row['seconds_per_iteration'] * 1e3:.2f}",
            f"{row['steps_per_second'] / eager['steps_per_second']:.2f}" if eager else "-",
        )
    return table


def split_table(sizes: dict[str, dict[str, float]], kind: str) -> Table:
    """Return where an iteration's time goes, a column per size."""
    table = Table(title=f"Where {kind} iteration's time goes")
    table.add_column("part")
    for num_envs in sizes:
        table.add_column(f"{int(num_envs):,} environments", justify="right")
    for name in next(iter(sizes.values())):
        cells = [f"{parts[name] * 1e3:.2f} ms  {parts[name] / sum(parts.values()):4.0%}" for parts in sizes.values()]
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    main(tyro.cli(Settings, args=sys.argv[1:]))
