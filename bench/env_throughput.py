"""Measure environment steps per second beside Gymnasium and EnvPool, in one run.

    python bench/env_throughput.py [--env CartPole-v1] [--num-envs 1 64 4096 65536] [--repeats 7]

Every contender takes the same random actions, made before the clock starts. Repeats are interleaved, so that a machine
that slows down slows all of them; the table shows medians, the JSON all of it. On a GPU it adds eager steps,
CUDA-graph replay, and the share of a device copy measured in the same run.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

import operant_gpu
from operant_gpu import VecEnv

RESULTS = Path(__file__).parent / "results"
# Batches of actions that a measurement cycles through.
ACTION_BATCHES = 16
# A contender that needs longer for one step of all environments is left out of that size.
MAX_STEP_SECONDS = 1.0
# Sub-environments that are Python objects take seconds to make.
MAX_SYNC_ENVS = 4_096
COPY_BYTES = 1 << 30

Step = Callable[[int], Any]


@dataclass(frozen=True)
class Settings:
    """Measure environment steps per second beside Gymnasium and EnvPool."""

    env: str = "CartPole-v1"
    """Environment of operant_gpu; peers are those that have one of the same name."""
    num_envs: tuple[int, ...] = (1, 64, 4_096, 65_536)
    """How many environments to step together."""
    repeats: int = 7
    """Repeats of each measurement."""
    seconds: float = 0.2
    """About how long one repeat takes."""
    json: Path | None = None
    """Where to write the result; bench/results/<machine>.json if not given."""
    peers: bool = True
    """Whether to measure other libraries too."""


@dataclass
class Contender:
    """One way to step environments: `step(i)` takes step number i, `wait` returns once all is done."""

    name: str
    step: Step
    wait: Callable[[], None] = lambda: None
    steps_per_repeat: int = 1


def main(settings: Settings) -> None:
    """Measure, print a table and write JSON."""
    console = Console()
    report = describe(settings.env)
    report["rows"] = [row for num_envs in settings.num_envs for row in measure_size(settings, num_envs)]
    if torch.cuda.is_available():
        report["copy_bytes_per_second"] = copy_bandwidth()
    path = settings.json or RESULTS / f"{slug(report['machine'])}-{slug(settings.env)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    console.print(table_of(report))
    console.print(f"{report['command']}\n{report['versions']}\nwritten to {path}", highlight=False)


def describe(env: str) -> dict[str, Any]:
    """Return what a reader needs to know of the machine and the software."""
    packages = ("torch", "numpy", "triton", "gymnasium", "envpool")
    return {
        "machine": machine_name(),
        "cores": os.cpu_count(),
        "env": env,
        "command": "python " + " ".join(sys.argv),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": {
            "operant_gpu": operant_gpu.__version__,
            "python": platform.python_version(),
            **{name: version_of(name) for name in packages},
        },
    }


def machine_name() -> str:
    """Return the name of the GPU, else that of the CPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def version_of(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def slug(name: str) -> str:
    """Return a name fit for a file."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def measure_size(settings: Settings, num_envs: int) -> list[dict[str, Any]]:
    """Return one row per contender at this number of environments."""
    contenders = [
        contender for contender in contenders_of(settings, num_envs) if calibrate(contender, settings.seconds)
    ]
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(settings.repeats):
        for contender in contenders:
            seconds[contender.name].append(timed(contender, contender.steps_per_repeat))
    return [
        {
            "contender": name,
            "num_envs": num_envs,
            "steps_per_second": num_envs / statistics.median(times),
            "slowest": num_envs / max(times),
            "fastest": num_envs / min(times),
            "seconds_per_step": statistics.median(times),
            "bytes_per_step": bytes_per_step(settings.env) * num_envs if name.startswith("operant_gpu") else None,
        }
        for name, times in seconds.items()
    ]


def calibrate(contender: Contender, budget: float) -> bool:
    """Warm up and choose how many steps fill the budget; tell whether the contender is fast enough to measure."""
    timed(contender, 1)
    once = timed(contender, 2)
    contender.steps_per_repeat = max(1, int(budget / once))
    return once < MAX_STEP_SECONDS


def timed(contender: Contender, steps: int) -> float:
    """Return the seconds that one step takes, over `steps` of them."""
    contender.wait()
    started = time.perf_counter()
    for number in range(steps):
        contender.step(number % ACTION_BATCHES)
    contender.wait()
    return (time.perf_counter() - started) / steps


def contenders_of(settings: Settings, num_envs: int) -> Iterator[Contender]:
    """Yield what can be measured here, ours first."""
    actions = random_actions(settings.env, num_envs)
    yield ours(settings.env, num_envs, actions, "cpu")
    if torch.cuda.is_available():
        yield ours(settings.env, num_envs, actions, "cuda")
        yield ours_as_graph(settings.env, num_envs, actions)
    if settings.peers:
        makers = (gymnasium_vector, gymnasium_sync, envpool_sync)
        yield from (peer for make in makers if (peer := make(settings.env, num_envs, actions)) is not None)


def random_actions(env: str, num_envs: int) -> list[np.ndarray[Any, Any]]:
    """Return the batches of actions that every contender takes."""
    space: Any = operant_gpu.make(env, 1, device="cpu").single_action_space
    rng = np.random.default_rng(0)
    if isinstance(space, gymnasium.spaces.Discrete):
        return [rng.integers(int(space.n), size=num_envs) for _ in range(ACTION_BATCHES)]
    low, high = space.low, space.high
    return [rng.uniform(low, high, (num_envs, *low.shape)).astype(np.float32) for _ in range(ACTION_BATCHES)]


def ours(env: str, num_envs: int, actions: list[np.ndarray[Any, Any]], device: str) -> Contender:
    """Return our environments, one call a step."""
    vec = operant_gpu.make(env, num_envs, device=device)
    batches = [torch.as_tensor(batch, device=device) for batch in actions]
    vec.reset(seed=0)
    name = f"operant_gpu {vec.backend}"
    return Contender(name, lambda i: vec.step(batches[i]), torch.cuda.synchronize if device == "cuda" else lambda: None)


def ours_as_graph(env: str, num_envs: int, actions: list[np.ndarray[Any, Any]]) -> Contender:
    """Return our environments on a GPU, each step a replay of a captured launch."""
    vec = operant_gpu.make(env, num_envs, device="cuda")
    batches = [torch.as_tensor(batch, device="cuda") for batch in actions]
    vec.reset(seed=0)
    vec.step(batches[0])
    graphs = [torch.cuda.CUDAGraph() for _ in batches]
    for graph, batch in zip(graphs, batches, strict=True):
        with torch.cuda.graph(graph):
            vec.step(batch)

    def replay(number: int, _memory: Any = (vec, batches)) -> None:
        # The graphs write to memory that must live as long as they.
        graphs[number].replay()

    return Contender("operant_gpu triton, graph", replay, torch.cuda.synchronize)


def gymnasium_vector(env: str, num_envs: int, actions: list[np.ndarray[Any, Any]]) -> Contender | None:
    """Return Gymnasium's own vector environment, where it has one."""
    spec = gymnasium.registry.get(env)
    if spec is None or spec.vector_entry_point is None:
        return None
    vec = gymnasium.make_vec(env, num_envs, vectorization_mode="vector_entry_point")
    vec.reset(seed=0)
    return Contender("gymnasium vector", lambda i: vec.step(actions[i]))


def gymnasium_sync(env: str, num_envs: int, actions: list[np.ndarray[Any, Any]]) -> Contender | None:
    """Return Gymnasium's loop over single environments."""
    if env not in gymnasium.registry or num_envs > MAX_SYNC_ENVS:
        return None
    vec = gymnasium.make_vec(env, num_envs, vectorization_mode="sync")
    vec.reset(seed=0)
    return Contender("gymnasium sync", lambda i: vec.step(actions[i]))


def envpool_sync(env: str, num_envs: int, actions: list[np.ndarray[Any, Any]]) -> Contender | None:
    """Return EnvPool with as many threads as it chooses, if it is installed and has the environment."""
    try:
        import envpool
    except ImportError:
        return None
    if env not in envpool.list_all_envs():
        return None
    pool = envpool.make_gymnasium(env, num_envs=num_envs, seed=0)
    pool.reset()
    return Contender("envpool", lambda i: pool.step(actions[i]))


def bytes_per_step(env: str) -> int:
    """Return the bytes that one step of one environment reads and writes, counted from its columns."""
    vec: VecEnv = operant_gpu.make(env, 1, device="cpu")
    vec.reset(seed=0)
    action = torch.as_tensor(random_actions(env, 1)[0])
    obs, reward, terminated, truncated, info = vec.step(action)
    clock = [info["_episode"], info["episode"]["r"], info["episode"]["l"], torch.zeros(1, dtype=torch.int32)]
    read_and_written = [*vec.state, *clock]
    once = [action, obs, info["final_obs"], reward, terminated, truncated]
    return sum(2 * int(tensor.nbytes) for tensor in read_and_written) + sum(int(tensor.nbytes) for tensor in once)


def copy_bandwidth() -> float:
    """Return the bytes per second that a device copy reads and writes."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = Contender("copy", lambda i: target.copy_(source), torch.cuda.synchronize)
    timed(copy, 5)
    return 2 * COPY_BYTES / statistics.median(timed(copy, 20) for _ in range(7))


def table_of(report: dict[str, Any]) -> Table:
    """Return the report as a table, a row per contender and size."""
    copy = report.get("copy_bytes_per_second")
    table = Table(
        title=f"{report['env']} on {report['machine']}, {report['cores']} cores: environment steps per second"
    )
    for heading in ("environments", "contender", "M steps/s", "spread", "us a step", "x gymnasium vector"):
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    if copy:
        table.add_column("GB/s", justify="right")
        table.add_column(f"of copy ({copy / 1e9:.0f} GB/s)", justify="right")
    for row in report["rows"]:
        table.add_row(*cells_of(row, report["rows"], copy))
    return table


def cells_of(row: dict[str, Any], rows: list[dict[str, Any]], copy: float | None) -> list[str]:
    """Return one row of the table as text."""
    same_size = (other for other in rows if other["num_envs"] == row["num_envs"])
    reference = [other["steps_per_second"] for other in same_size if other["contender"] == "gymnasium vector"]
    cells = [
        f"{row['num_envs']:,}",
        row["contender"],
        f"{row['steps_per_second'] / 1e6:.3f}",
        f"{row['slowest'] / 1e6:.3f}-{row['fastest'] / 1e6:.3f}",
        f"{row['seconds_per_step'] * 1e6:.1f}",
        f"{row['steps_per_second'] / reference[0]:.2f}" if reference else "-",
    ]
    if copy:
        rate = row["bytes_per_step"] and row["bytes_per_step"] / row["seconds_per_step"]
        cells += [f"{rate / 1e9:.1f}", f"{rate / copy:.1%}"] if rate else ["-", "-"]
    return cells


if __name__ == "__main__":
    main(tyro.cli(Settings))
