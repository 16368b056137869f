"""Measure games in CUDA C++ beside the MinAtar package, and boards and CartPole in Triton beside those in CUDA C++.

    python bench/games_throughput.py [--num-envs 4096] [--num-envs-on-gpu 262144] [--repeats 7]

The package plays one game on one core, with and without its observation, with actions drawn beforehand as for all.
Ours take single steps with observations, and rollouts with observations stored and without, on one core and on all, and
on a GPU if there is one. Repeats are interleaved. Writes bench/results/games-<machine>.json and .md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from machine import describe, write
from ours import places, started
from page import header, table

import operant_gpu
from operant_gpu import CudaEnvironment, Environment, VecEnv
from operant_gpu.backends.lowering.trial import try_out
from operant_gpu.cli.timing import Contender, race, waiter
from operant_gpu.envs import CartPole, Game2048, Snake

ON_GPU = torch.cuda.is_available()
SOURCES = Path(__file__).parents[1] / "tests" / "support" / "cuda"
# Physics of a few numbers, and boards; and those of them that are also written in CUDA C++.
WRITTEN_IN_TRITON = (CartPole, Snake, Game2048)
TWINS = {CartPole.id: "cartpole.cu", Snake.id: "snake.cu"}
PACKAGE = {
    "MinAtar-Asterix-v1": "asterix",
    "MinAtar-Breakout-v1": "breakout",
    "MinAtar-Freeway-v1": "freeway",
    "MinAtar-Seaquest-v1": "seaquest",
    "MinAtar-SpaceInvaders-v1": "space_invaders",
}
# Of a rollout: of many environments on a GPU, more would not fit beside each other.
STEPS = {"cpu": 64, "cuda": 16}


@dataclass(frozen=True)
class Settings:
    """Measure the games beside the MinAtar package."""

    num_envs: int = 4_096
    """How many environments to step together on a CPU."""
    num_envs_on_gpu: int = 1 << 18
    """How many environments to step together on a GPU."""
    repeats: int = 7
    """Repeats of each measurement."""
    seconds: float = 0.2
    """About how long one repeat takes."""
    json: Path | None = None
    """Where to write the result; bench/results/games-<machine>.json if not given."""


def main(settings: Settings) -> None:
    """Measure and write the page."""
    sizes = {"cpu": settings.num_envs, "cuda": settings.num_envs_on_gpu}
    pace = settings.repeats, settings.seconds
    games = {env: race(game_contenders(env, sizes), *pace) for env in PACKAGE}
    twins = {original.id: race(twin_contenders(original, sizes), *pace) for original in WRITTEN_IN_TRITON}
    report = {**describe(), "num_envs": sizes["cpu"], "games": games, "twins": twins}
    if ON_GPU:
        report["num_envs_on_gpu"] = sizes["cuda"]
    path = write(report, settings.json, "games-{}")
    path.with_suffix(".md").write_text(page_of(report))
    print(page_of(report), f"\nwritten to {path}")


def game_contenders(env: str, sizes: dict[str, int]) -> Iterator[Contender]:
    """Yield ours on one core, on all, and on a GPU, and the package."""
    print(env, file=sys.stderr)
    yield from package(env)
    for threads in (1, torch.get_num_threads()):
        vec = started(env, sizes["cpu"], "cpu", "cpp")
        yield from ways(vec, f"cpp, {threads} thread{'s'[: threads - 1]}", threads)
    if ON_GPU:
        yield from ways(started(env, sizes["cuda"], "cuda", "cuda"), "cuda", 1)


def ways(vec: VecEnv, where: str, threads: int) -> Iterator[Contender]:
    """Yield single steps, and rollouts with and without observations."""
    steps = STEPS[vec.device.type]
    actions = vec.rollout(steps, out=("action",))["action"]
    out = vec.rollout(steps, actions, out=("obs",))
    wait, work = waiter(vec.device), vec.num_envs

    def on_threads(call: Any) -> Any:
        def limited(i: int) -> None:
            torch.set_num_threads(threads)
            call(i)

        return limited

    yield Contender(f"step, {where}", on_threads(lambda i: vec.step(actions[i % steps])), wait, work)
    many = work * steps
    yield Contender(f"rollout with obs, {where}", on_threads(lambda _: vec.rollout(steps, actions, out)), wait, many)
    yield Contender(f"rollout, {where}", on_threads(lambda _: vec.rollout(steps, actions)), wait, many)
    yield Contender(f"rollout random, {where}", on_threads(lambda _: vec.rollout(steps)), wait, many)


def package(env: str) -> Iterator[Contender]:
    """Yield the MinAtar package, one game on one core, where it is installed."""
    try:
        import minatar
    except ImportError:
        return
    count = 1_000
    space: Any = operant_gpu.make(env, device="cpu").single_action_space
    actions = np.random.default_rng(0).integers(space.n, size=count)

    def player(observes: bool) -> Any:
        game = minatar.Environment(PACKAGE[env])
        # The package's own minimal actions are those of ours, in the same order.
        known = np.array(game.minimal_action_set())[actions].tolist()
        game.reset()

        def play(_: int) -> None:
            for action in known:
                _, ended = game.act(action)
                if observes:
                    game.state()
                if ended:
                    game.reset()

        return play

    yield Contender("MinAtar package, with obs", player(True), work=count)
    yield Contender("MinAtar package", player(False), work=count)


def twin_contenders(original: Environment, sizes: dict[str, int]) -> Iterator[Contender]:
    """Yield an environment in Triton, and in CUDA C++ if it is written in that too, on each backend."""
    print(original.id, file=sys.stderr)
    threads, has_arrays = torch.get_num_threads(), try_out(original, original.make_params({})).width > 1
    for device, backend in places():
        if backend != "numba" or not has_arrays:
            yield from ways(started(original.id, sizes[device], device, backend), f"Triton on {backend}", threads)
    if original.id not in TWINS:
        return
    shared = ("state", "params", "observation_space", "action_space", "max_episode_steps")
    parts = {name: getattr(original, name) for name in shared}
    twin = CudaEnvironment(id=f"Cuda{original.id}", source=SOURCES / TWINS[original.id], **parts)
    for device, backend in (("cpu", "cpp"), ("cuda", "cuda"))[: 1 + ON_GPU]:
        vec = twin(sizes[device], device=device)
        vec.reset(seed=0)
        yield from ways(vec, f"CUDA on {backend}", threads)


def page_of(report: dict[str, Any]) -> str:
    """Return the tables as Markdown."""
    sections = [header("Games", report)]
    sizes = f"{report['num_envs']:,} environments"
    if "num_envs_on_gpu" in report:
        sizes += f", {report['num_envs_on_gpu']:,} on a GPU"
    for env, rows in report["games"].items():
        rates = {row["contender"]: row["per_second"] for row in rows}
        with_obs, without = (rates.get(f"MinAtar package{more}") for more in (", with obs", ""))
        cells = [
            (name, f"{rate / 1e6:,.3f}", ratio(rate, with_obs if "step" in name or "obs" in name else without))
            for name, rate in rates.items()
        ]
        sections.append(f"## {env}, {sizes}")
        sections.append(table(("contender", "M steps/s", "x package"), cells))
    for env, rows in report["twins"].items():
        languages = " and in CUDA C++" if env in TWINS else ""
        sections.append(f"## {env} in Triton{languages}, {sizes}")
        sections.append(
            table(("contender", "M steps/s"), [(row["contender"], f"{row['per_second'] / 1e6:,.2f}") for row in rows])
        )
    return "\n\n".join(sections) + "\n"


def ratio(rate: float, reference: float | None) -> str:
    """Return how many times the package's rate this is."""
    return f"{rate / reference:.0f}" if reference else "-"


if __name__ == "__main__":
    main(tyro.cli(Settings))
