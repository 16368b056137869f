"""What stages of `gpu.py` measure in turns, to decide by: how wide a fused rollout pays, and which kernels may go."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_reporter import NotHere, Reporter
from gpu_rows import RESULTS, read
from gpu_speeds import Sizes, each, shrink_races

# Steps of one graph: a replay alone takes as long as a step.
STEPS = 16
EPOCHS = 4
LEARNED_FROM = ("obs", "policy_action", "log_prob", "value", "reward", "terminated", "truncated", "final_value")
# What a step writes beside the observation, which a rollout writes after its last step.
STEPPED = ("final_obs", "reward", "terminated", "truncated")


@dataclass(frozen=True)
class Amounts:
    """What is measured of each mode.

    Attributes:
        widths: Of both hidden layers.
        num_envs: CartPoles that a network acts in.
        steps: Of a rollout.
        stepped: Environments, and how many of them.
        samples: Of an iteration, which are shuffled.
    """

    widths: tuple[int, ...]
    num_envs: tuple[int, ...]
    steps: int
    stepped: tuple[tuple[str, int], ...]
    samples: tuple[int, ...]


WIDTHS, NUM_ENVS, SAMPLES = (16, 32, 64, 128, 256), (4_096, 65_536), (131_072, 524_288)
STEPPED_ENVS = ("CartPole-v1", 64), ("CartPole-v1", 4_096), ("CartPole-v1", 1 << 20), ("Snake-v0", 1 << 16)
AMOUNTS = {
    "run": Amounts(WIDTHS, NUM_ENVS, 64, STEPPED_ENVS, SAMPLES),
    # Kernels are the same for any number of steps.
    "precompile": Amounts(WIDTHS, NUM_ENVS, 2, STEPPED_ENVS, SAMPLES),
    "rehearse": Amounts((16, 256), (64,), 4, (("CartPole-v1", 64), ("Snake-v0", 64)), (4_096,)),
}


def fusion(report: Reporter, sizes: Sizes) -> None:
    """Measure rollouts that a network acts in: one kernel, beside PyTorch and the step kernel in a graph.

    Products are what each has by default: tf32 in the kernel, float32 in PyTorch.
    """
    from operant_gpu.cli.timing import race

    shrink_races(report)
    amounts = AMOUNTS[report.mode]
    for num_envs in amounts.num_envs:
        for width in amounts.widths:
            name = f"{width} x {width}, {num_envs:,}"
            contenders = list(each(rollouts(report, width, num_envs, amounts.steps), report, f"rollout, {name}"))
            if not contenders:
                continue
            with report.item(f"rollout, fused beside graph: {name}", stand_in=True) as entry:
                rows = race(contenders, sizes.repeats, sizes.seconds, math.inf)
                speeds = {row["contender"]: row["per_second"] for row in rows}
                entry.data = {"env": "CartPole-v1", "num_envs": num_envs, "width": width, "rows": rows}
                entry.figure = ", ".join(f"{way} {speed / 1e6:,.0f} M steps/s" for way, speed in speeds.items())
                if "fused" in speeds:
                    entry.data["ratio"] = speeds["fused"] / speeds["graph"]
                    entry.figure += f", fused/graph {entry.data['ratio']:.2f}"


def rollouts(report: Reporter, width: int, num_envs: int, steps: int) -> Iterator[Any]:
    """Yield rollouts of CartPole that store what a learner needs, by the graph and, if the kernel holds it, fused."""
    import ours

    from operant_gpu.cli.timing import Contender, waiter
    from operant_gpu.mlp import MAX_WIDTH
    from operant_gpu.models import MLPPolicy, PPOConfig
    from operant_gpu.models.policies.making import make_policy
    from operant_gpu.models.ppo.rollout import Rollout, collect, next_values

    env, twin = (ours.started("CartPole-v1", num_envs, "cuda", "triton") for _ in range(2))
    config = PPOConfig(hidden_sizes=(width, width))
    policy = make_policy(env.single_observation_space, env.single_action_space, config).to(env.device)
    rollout = Rollout(env, policy, steps)
    rollout.begin(env)
    generator = own_generator()

    def by_graph() -> Any:
        collect(env, policy, rollout, generator)
        return next_values(rollout, policy, env.max_episode_steps)

    yield replayed("graph", by_graph, num_envs * steps, env.capture if report.mode == "run" else ungraphed)
    if isinstance(policy, MLPPolicy):
        out = twin.rollout(steps, policy, out=LEARNED_FROM)
        yield Contender("fused", lambda _: twin.rollout(steps, policy, out=out), waiter("cuda"), num_envs * steps)
    else:
        with report.item(f"rollout, fused: {width} x {width}, {num_envs:,}"):
            raise NotHere(f"its kernel holds up to {MAX_WIDTH} units a layer")


def own_generator() -> Any:
    """Return PyTorch's own generator, which goes on drawing at each replay of a graph."""
    import torch

    # Without a GPU there is that of the CPU alone.
    return (*torch.cuda.default_generators, torch.default_generator)[0]


def replayed(name: str, function: Callable[[], Any], work: int, capture: Callable[[Any], Callable[[], Any]]) -> Any:
    """Return the contender that replays the graph of a function."""
    from operant_gpu.cli.timing import Contender, waiter

    replay = capture(function)

    def call(_: int, _memory: Any = function) -> None:
        # The graph writes to memory that must live as long as it.
        replay()

    return Contender(name, call, waiter("cuda"), work)


def ungraphed(function: Callable[[], Any]) -> Callable[[], Any]:
    """Return the function, where a graph would hold what PyTorch computes: without a GPU it cannot."""
    return function


def graphed(function: Callable[[], Any]) -> Callable[[], Any]:
    """Return the replay of the graph of a function."""
    from operant_gpu.vector.graphs import captured

    function()
    graph, _ = captured(function)
    return graph.replay


def decisions(report: Reporter, sizes: Sizes) -> None:
    """Measure kernels that something else could stand for, beside that."""
    shrink_races(report)
    amounts = AMOUNTS[report.mode]
    for env, num_envs in amounts.stepped:
        make = functools.partial(single_steps, env, num_envs)
        decide(report, sizes, f"step kernel: {env}, {num_envs:,}", make, STEPS)
    for samples in amounts.samples:
        make = functools.partial(shuffles, report, samples)
        decide(report, sizes, f"shuffle kernel: {EPOCHS} x {samples:,}", make, 1, iteration_of(samples))


def decide(
    report: Reporter,
    sizes: Sizes,
    what: str,
    make: Callable[[], tuple[Any, Any]],
    number: int,
    iteration: float | None = None,
) -> None:
    """Report how long both ways take in turns.

    Args:
        report: Where.
        sizes: How often.
        what: In a few words.
        make: Returns the kernel as a contender, and what could stand for it.
        number: How often each call does it.
        iteration: Seconds of an iteration that does it once, if they are known.
    """
    from operant_gpu.cli.timing import race

    with report.item(what, stand_in=True) as entry:
        rows = race(make(), sizes.repeats, sizes.seconds, math.inf)
        kernel, other = (row["seconds_per_call"] / number for row in rows)
        entry.data = {"rows": rows, "seconds": (kernel, other), "ratio": other / kernel}
        ways = [f"{row['contender']} {row['seconds_per_call'] / number * 1e6:,.2f} us" for row in rows]
        entry.figure = f"{', '.join(ways)}: {other / kernel:.3f} times as long"
        if iteration is not None:
            entry.data |= {"iteration": iteration, "share": (other - kernel) / iteration}
            entry.figure += f", {entry.data['share']:.2%} of {iteration * 1e3:.2f} ms more"


def single_steps(name: str, num_envs: int) -> tuple[Any, Any]:
    """Return single steps by the step kernel, and by the rollout kernel, as contenders."""
    import numpy as np
    import ours
    import torch

    env, twin = (ours.started(name, num_envs, "cuda", "triton") for _ in range(2))
    actions = torch.as_tensor(np.stack(ours.random_actions(name, num_envs)[:STEPS]), device=env.device)
    out = twin.rollout(1, actions[:1], out=STEPPED)

    def by_step() -> None:
        for step in range(STEPS):
            env.step(actions[step])

    def by_rollout() -> None:
        for step in range(STEPS):
            twin.rollout(1, actions[step : step + 1], out=out)

    work = num_envs * STEPS
    return replayed("step", by_step, work, env.capture), replayed("rollout", by_rollout, work, twin.capture)


def shuffles(report: Reporter, samples: int) -> tuple[Any, Any]:
    """Return the orders of an iteration by the fused engine's kernel, and by the other engines' sorting."""
    import torch
    import triton

    from operant_gpu.backends.triton import update
    from operant_gpu.kernels.triton.shuffle import shuffle_kernel, widths
    from operant_gpu.models.ppo.rollout import permutation

    order = torch.zeros(EPOCHS, samples, dtype=torch.int32, device="cuda")
    iteration = torch.zeros((), dtype=torch.int32, device="cuda")
    generator = own_generator()

    def by_kernel() -> None:
        # As `GradientSteps` does.
        arguments, grid = (order, iteration, 0, 0, samples, *widths(samples)), (triton.cdiv(samples, 1024), EPOCHS)
        update._launch(shuffle_kernel, grid, arguments, {"BLOCK": 1024}, order.device)

    def by_sorting() -> Any:
        return [permutation(samples, generator) for _ in range(EPOCHS)]

    work = EPOCHS * samples
    sorting = replayed("sorting", by_sorting, work, graphed if report.mode == "run" else ungraphed)
    return replayed("kernel", by_kernel, work, graphed), sorting


def iteration_of(samples: int) -> float | None:
    """Return the seconds of the fused engine's fastest iteration of so many samples in this run, if it has one."""
    from ppo_throughput import N_STEPS

    times = list[float]()
    for row in read(Path(os.environ[RESULTS]).read_text().splitlines()):
        if row.what == "the run":
            times = []
        elif row.data.get("engine") == "fused" and "seconds_per_iteration" in row.data:
            times += [row.data["seconds_per_iteration"]] if row.data["num_envs"] * N_STEPS == samples else []
    return min(times, default=None)
