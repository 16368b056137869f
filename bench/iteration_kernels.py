"""Count what an iteration of PPO launches on a GPU, and what it reads back for its metrics: nothing here is timed.

    python bench/iteration_kernels.py [--num-envs 4096] [--engines fused eager]

Kernels of the library's own are launched above a driver that does nothing (tests/support/nothing_driver.py). An
operation of PyTorch that computes counts as one kernel, on the host's tensors. So this needs no GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from machine import describe, write
from page import table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
import nothing_driver  # type: ignore[import-not-found]
from triton import knobs

import operant_gpu
from operant_gpu.backends.triton import update
from operant_gpu.models import PPO, PPOConfig

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled observations": {"normalize_observations": True},
    "scaled rewards": {"normalize_rewards": True},
    "RND": {"rnd_coef": 1.0},
}
# What computes nothing.
FREE = ("aten::empty", "aten::detach", "aten::_local_scalar_dense", "aten::new_empty", "aten::lift_fresh")


@dataclass(frozen=True)
class Settings:
    """Count what an iteration of PPO launches."""

    num_envs: int = 16_384
    """CartPoles, of 32 steps each."""
    batch_size: int = 65_536
    """Samples of a minibatch."""
    engines: tuple[str, ...] = ("fused", "eager")
    """Engines; what "graph" replays is what "eager" launches."""
    json: Path | None = None
    """Where to write the result; bench/results/iteration-kernels.json if not given."""


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, launches and reads while it is entered.

    Attributes:
        kernels: Operations that compute, and launches.
        reads: Transfers to the host.
        bytes: What they transferred.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels = self.reads = self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.kernels += not (function.is_view or function.name().startswith(FREE))
        return function(*args, **(kwargs or {}))

    def launch(self, metadata: Any) -> None:
        """Count a launch of Triton's."""
        self.kernels += 1

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count what is read of tensors meanwhile."""
        names = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__")
        plain = {name: getattr(Tensor, name) for name in names}

        def counted(name: str) -> Any:
            def read(tensor: Tensor) -> Any:
                self.reads, self.bytes = self.reads + 1, self.bytes + tensor.numel() * tensor.element_size()
                return plain[name](tensor)

            return read

        for name in names:
            setattr(Tensor, name, counted(name))
        knobs.runtime.launch_enter_hook.add(self.launch)
        try:
            with self:
                yield
        finally:
            knobs.runtime.launch_enter_hook.remove(self.launch)
            for name, function in plain.items():
                setattr(Tensor, name, function)


def count(settings: Settings, engine: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the counts of an iteration, and of reading its metrics."""
    env = operant_gpu.make("CartPole-v1", settings.num_envs, device="cpu", backend="triton")
    config = PPOConfig(n_steps=32, batch_size=settings.batch_size, engine=engine, **changes)
    learner = PPO(env, config).learn(config.n_steps * settings.num_envs)
    learner._begin({})
    iteration, metrics = Counted(), Counted()
    with iteration.reading():
        learner._iterate()
    with metrics.reading():
        learner._loop.read(learner.iterations, True)
    counts = {"kernels": iteration.kernels, "metrics_kernels": metrics.kernels, "metrics_reads": metrics.reads}
    return {"engine": engine, **counts, "metrics_bytes": metrics.bytes, "reads": iteration.reads}


def main(settings: Settings) -> None:
    """Count, print a table and write the result."""
    nothing_driver.install()
    update._programs_at_once = lambda device, fit: 264
    rows = [
        {"case": name, **count(settings, engine, changes)}
        for engine in settings.engines
        for name, changes in CASES.items()
    ]
    head = ("iteration", "kernels", "kernels for metrics", "reads", "bytes read")
    keys = ("kernels", "metrics_kernels", "metrics_reads", "metrics_bytes")
    print(table(head, [(f"{row['engine']}, {row['case']}", *(f"{row[key]:,}" for key in keys)) for row in rows]))
    sizes = {"num_envs": settings.num_envs, "batch_size": settings.batch_size}
    print(write({**describe(("torch", "triton")), **sizes, "rows": rows}, settings.json, "iteration-kernels"))


if __name__ == "__main__":
    main(tyro.cli(Settings))
