"""What stages of `gpu.py` measure: the device's limits, environments, training, and the PPO in JAX beside it."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gpu_reporter import NotHere, Reporter
from gpu_rows import RESULTS, read


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        repeats: Of each measurement.
        seconds: About how long one takes.
        environments: Name, backend and number of those that are stepped.
        learners: Environments and samples of a minibatch of those that learn; the first ones' time is looked into.
        seeds: Trainings until CartPole is solved, of each engine.
        cap: Seconds after which one is given up.
        launches: Of an empty kernel.
    """

    repeats: int
    seconds: float
    environments: tuple[tuple[str, str, int], ...]
    learners: tuple[tuple[int, int], ...]
    seeds: int
    cap: float
    launches: int


ENVIRONMENTS = (
    ("CartPole-v1", "triton", 4_096),
    ("CartPole-v1", "triton", 1 << 20),
    ("Pendulum-v1", "triton", 1 << 20),
    ("MinAtar-Breakout-v1", "cuda", 1 << 16),
    ("Snake-v0", "triton", 1 << 16),
)
LEARNERS = (16_384, 65_536), (16_384, 32_768), (8_192, 65_536), (8_192, 32_768)
SIZES = {
    "run": Sizes(5, 0.05, ENVIRONMENTS, LEARNERS, 3, 20.0, 256),
    # One of each, at the sizes of the run.
    "precompile": Sizes(1, 0.0, ENVIRONMENTS, LEARNERS, 1, 20.0, 16),
    "rehearse": Sizes(
        1, 0.0, tuple((env, backend, 64) for env, backend, number in ENVIRONMENTS if number != 4_096), ((16, 64),), 1,
        1.0, 8,
    ),
}  # fmt: skip


def limits(report: Reporter, sizes: Sizes) -> dict[str, float]:
    """Measure the copy and the products; return nothing where that fails."""
    import limits as device

    if report.mode != "run":
        device.COPY_BYTES, device.MATRIX = 1 << 20, 64
    with report.item("copy, matrix products", stand_in=True) as entry:
        entry.data = {"limits": device.references(sizes.repeats, sizes.seconds)}
        copy, tf32, exact = entry.data["limits"].values()
        entry.figure = f"{copy / 1e12:.2f} TB/s, {tf32 / 1e12:.0f} TFLOP/s tf32, {exact / 1e12:.1f} float32"
    return dict(entry.data.get("limits", {}))


def known_limits(report: Reporter, sizes: Sizes) -> dict[str, float]:
    """Return what stage a has measured last, or measure it now."""
    for row in reversed(read(Path(os.environ[RESULTS]).read_text().splitlines())):
        if row.data.get("limits"):
            return dict(row.data["limits"])
    return limits(report, sizes)


def environments(report: Reporter, sizes: Sizes) -> None:
    """Measure steps a second, as shares of what the device does at most."""
    import ours

    from operant_gpu.cli import timing

    known = known_limits(report, sizes)
    shrink_races(report)
    if report.mode == "rehearse":
        ours.ROLLOUT_WORK = 1 << 9
    for env, backend, num_envs in sizes.environments:
        where = [("cuda", backend)]

        def contenders(env: str = env, num_envs: int = num_envs, where: Any = where) -> Iterator[Any]:
            yield from ours.single_steps(env, num_envs, ours.random_actions(env, num_envs), where)
            yield from ours.rollouts(env, num_envs, where)

        name = f"{env}, {num_envs:,}"
        for contender in each(contenders(), report, name):
            is_stand_in = backend == "cuda" or "graph" in contender.name
            with report.item(f"{env} {num_envs:,}: {contender.name}", stand_in=is_stand_in) as entry:
                rows = timing.race([contender], sizes.repeats, sizes.seconds)
                if not rows:
                    raise RuntimeError(f"one call takes more than {timing.MAX_SECONDS} s")
                entry.data = {"env": env, "num_envs": num_envs, "backend": backend, **rows[0]}
                entry.data["shares"] = shares(env, backend, rows[0], contender.work, known)
                parts = [f"{share:.0%} of {limit}" for limit, share in entry.data["shares"].items()]
                entry.figure = ", ".join([f"{rows[0]['per_second'] / 1e6:,.0f} M steps/s", *parts])


def shrink_races(report: Reporter) -> None:
    """Call contenders once, where how long that takes says nothing."""
    from operant_gpu.cli import timing

    if report.mode != "run":
        timing.calibrate = lambda contender, seconds, max_seconds: 1


def each(contenders: Iterator[Any], report: Reporter, name: str) -> Iterator[Any]:
    """Yield the contenders until one cannot be made, which is reported."""
    while True:
        try:
            contender = next(contenders)
        except StopIteration:
            return
        except Exception as error:
            report.failure(f"{name}: the next contender", error)
            return
        yield contender


def shares(env: str, backend: str, row: dict[str, Any], work: int, known: dict[str, float]) -> dict[str, float]:
    """Return what part of each limit a contender comes to: counted bytes and operations over measured ones."""
    import ours

    if not known:
        return {}
    costs = {"copy": (row.get("bytes_per_call", 0), known["copy_bytes_per_second"])}
    if "flop_per_call" in row:
        costs["tf32"] = row["flop_per_call"], known["matrix_flop_per_second"]
    elif backend == "triton":
        # A sine counts as one operation, and a multiplication with an addition as two, as in the product.
        costs["float32"] = ours.operations_of_step(env) * work, known["float32_flop_per_second"]
    return {limit: cost / row["seconds_per_call"] / most for limit, (cost, most) in costs.items()}


def training(report: Reporter, sizes: Sizes) -> None:
    """Measure trained steps a second of each engine, where an iteration's time goes, and seconds to solve CartPole."""
    import ppo_throughput as ppo

    shrink(report)
    for num_envs, batch_size in sizes.learners:
        for engine in engines(report):
            # PyTorch's part takes minutes on a CPU, and Triton's is the same at each size.
            if report.mode != "precompile" or engine == "fused" or (num_envs, batch_size) == sizes.learners[-1]:
                throughput(report, sizes, num_envs, batch_size, engine)
    num_envs, batch_size = sizes.learners[0]
    for engine in ("fused", "eager") if report.mode != "precompile" else ("fused",):
        with report.item(f"where the time goes: {engine}, {num_envs:,} x 32") as entry:
            settings = settings_of(sizes, num_envs, batch_size, engine)
            entry.data = ppo.split_row(settings, num_envs, engine, 5 if report.mode == "run" else 1)
            entry.figure = ", ".join(f"{part} {seconds * 1e3:.2f} ms" for part, seconds in entry.data["split"].items())
    for engine in engines(report):
        solved(report, sizes, engine)


def settings_of(sizes: Sizes, num_envs: int, batch_size: int, *engines: str, jax: bool = False) -> Any:
    """Return those of `ppo_throughput.py`."""
    import ppo_throughput as ppo

    return ppo.Settings(
        num_envs=(num_envs,), repeats=sizes.repeats, seconds=4 * sizes.seconds, batch_size=batch_size, engines=engines,
        jax=jax,
    )  # fmt: skip


def shrink(report: Reporter) -> None:
    """Iterate as little as there is to show, where there is no GPU."""
    import learning_run
    import ppo_throughput as ppo

    from operant_gpu.models.presets import PRESETS

    shrink_races(report)
    if report.mode != "run":
        ppo.WARM_UP = 1
    if report.mode == "rehearse":
        ppo.N_STEPS = 8
        PRESETS["CartPole-v1"] = {"num_envs": 16, "n_steps": 8, "batch_size": 64}
    if report.mode == "precompile":
        runner: Any = learning_run
        runner.evaluate = evaluate_briefly


def evaluate_briefly(learner: Any, episodes: int, seed: int) -> Any:
    """Launch what an evaluation launches: with kernels that do nothing, no episode would end."""
    import operant_gpu

    env = operant_gpu.make(learner.env.environment.id, episodes, device=learner.env.device)
    obs, _ = env.reset(seed=seed)
    env.step(learner.controller()(obs))
    return SimpleNamespace(mean=math.nan)


def engines(report: Reporter) -> tuple[str, ...]:
    """Return the engines to measure: without a GPU graphs run as the eager loop, which compiles the same kernels."""
    return ("fused", "graph", "eager") if report.mode != "precompile" else ("fused", "eager")


def throughput(report: Reporter, sizes: Sizes, num_envs: int, batch_size: int, engine: str) -> None:
    """Measure one engine at one size."""
    import ppo_throughput as ppo

    stands_in = engine == "graph" and report.mode != "run"
    with report.item(f"trains: {engine}, {num_envs:,} x 32, by {batch_size:,}", stand_in=stands_in) as entry:
        settings = settings_of(sizes, num_envs, batch_size, engine)
        (row,) = ppo.measure_size(settings, num_envs)
        entry.data = row
        entry.figure = (
            f"{row['steps_per_second'] / 1e6:,.1f} M steps/s, {row['seconds_per_iteration'] * 1e3:.2f} ms an iteration"
        )
        if ("fell back" in row["engine"] or "no graph" in row["reason"]) and not stands_in:
            raise RuntimeError(f"{row['engine']}: {row['reason']}")


def solved(report: Reporter, sizes: Sizes, engine: Any, name: str = "CartPole-v1") -> None:
    """Measure how long an engine or another learner trains until an environment is solved."""
    import training as solving
    from learning_run import OTHER_SEED

    stands_in = engine in ("graph", "jax") and report.mode != "run"
    with report.item(f"solves {name}: {engine}", stand_in=stands_in) as entry:
        # What compiles, does so before.
        if report.mode == "run":
            solving.solve(name, engine, OTHER_SEED, sizes.cap)
        runs = [solving.solve(name, engine, seed, sizes.cap) for seed in range(sizes.seeds)]
        number = sum(run["solved"] for run in runs)
        seconds = statistics.median(run["seconds"] for run in runs)
        entry.data = {"env": name, "engine": engine, "runs": runs, "seconds": seconds, "solved": number}
        entry.figure = f"{seconds:.2f} s, {number} of {len(runs)} seeds"
        if report.mode == "run" and number < len(runs):
            raise RuntimeError(f"solved {number} of {len(runs)} seeds in {sizes.cap:.0f} s each")


def beside_jax(report: Reporter, sizes: Sizes) -> None:
    """Measure the fused PPO and the one in JAX, in turns."""
    import ppo_throughput as ppo

    shrink(report)
    num_envs, batch_size = sizes.learners[0]
    with report.item(f"JAX beside fused, {num_envs:,} x 32, by {batch_size:,}", stand_in=True) as entry:
        if report.mode == "precompile":
            raise NotHere("JAX compiles for a GPU on a GPU alone")
        require_jax(report)
        rows = ppo.measure_size(settings_of(sizes, num_envs, batch_size, "fused", jax=True), num_envs)
        entry.data = {"rows": rows}
        speeds = [f"{row['engine']} {row['steps_per_second'] / 1e6:,.1f}" for row in rows]
        entry.figure = f"{', '.join(speeds)} M steps/s"
    if report.mode != "precompile" and entry.data:
        solved(report, sizes, "jax")


def require_jax(report: Reporter) -> None:
    """Raise `NotHere` without JAX, or without its GPU."""
    try:
        import jax

        # Before JAX is asked anything: it keeps JAX from taking most of the memory.
        import peers_jax  # noqa: F401
    except ImportError as error:
        raise NotHere(f"JAX is not here: {error}") from error
    if report.mode == "run" and jax.default_backend() != "gpu":
        raise NotHere(f"JAX sees no GPU here, its backend is {jax.default_backend()}")
