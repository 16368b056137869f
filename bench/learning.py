"""Measure how this library's PPO learns beside Stable-Baselines3's, and write docs/results.md from it.

    python bench/learning.py [--envs CartPole-v1 ...] [--seeds 10] [--sb3-seeds 3] [--no-sb3] [--cap 180]
    python bench/learning.py --render-only [--json FILE]

Each run has a fresh interpreter and the machine for itself; ours and SB3's take turns. The raw data is written after
every run, and the environments in it that are not measured this time stay as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from learning_page import write_page
from learning_run import Contender, Job, goal_of, in_process
from machine import RESULTS, describe, slug, write

from operant_gpu.machine import cpu_name

ROOT = Path(__file__).parent.parent
ENVS = (
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "GridWalk-v0",
)
# Seeds of SB3 where none are asked for: it takes minutes for one where ours takes seconds.
SB3_SEEDS = {"CartPole-v1": 10}
SB3_SEEDS_ELSEWHERE = 3
PACKAGES = ("torch", "numpy", "gymnasium", "stable-baselines3")


@dataclass(frozen=True)
class Settings:
    """Measure how this library's PPO learns beside Stable-Baselines3's, and write docs/results.md from it."""

    envs: tuple[str, ...] = ENVS
    """Environments to measure."""
    seeds: int = 10
    """Seeds of this library's PPO."""
    sb3_seeds: int | None = None
    """Seeds of Stable-Baselines3; 10 for CartPole-v1 and 3 for the others if not given."""
    sb3: bool = True
    """Whether to measure Stable-Baselines3 too."""
    device: str = "cpu"
    """Device of this library; Stable-Baselines3 runs on the CPU."""
    cap: float = 180.0
    """Seconds of training after which a run counts as not solved."""
    json: Path | None = None
    """Raw data; bench/results/learning-<machine>.json if not given."""
    docs: Path = ROOT / "docs"
    """Folder for results.md and its images."""
    render_only: bool = False
    """Write the page from the raw data without training."""


def main(settings: Settings) -> None:
    """Measure, write the raw data, write the page."""
    machine = describe_machine(settings.device)
    path = settings.json or RESULTS / f"learning-{slug(machine['gpu'] or machine['cpu'])}.json"
    report: dict[str, Any] = {"machine": machine, "environments": {}}
    if path.exists() or settings.render_only:
        report = json.loads(path.read_text())
    if not settings.render_only:
        report["machine"] = machine
        for env in settings.envs:
            measure(settings, env, report, path)
    page = write_page(report, path, settings.docs)
    print(f"written to {path} and {page}")


def describe_machine(device: str) -> dict[str, Any]:
    """Return what a reader needs to know of the hardware."""
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "gpu": gpu}


def measure(settings: Settings, env: str, report: dict[str, Any], path: Path) -> None:
    """Do all runs of an environment; put them into the report and write it after each."""
    about = describe(PACKAGES)
    entry: dict[str, Any] = {
        "goal": goal_of(Job(env)),
        "cap": settings.cap,
        "device": settings.device,
        **{name: about[name] for name in ("date", "command", "versions")},
        "runs": [],
    }
    report["environments"][env] = entry
    for contender, seed in turns(settings, env):
        run = in_process(Job(env, seed, contender, device=settings.device, cap=settings.cap))
        entry["runs"].append(asdict(run))
        write(report, path)


def turns(settings: Settings, env: str) -> Iterator[tuple[Contender, int]]:
    """Yield whose run is next, and its seed: both in turn while both have seeds."""
    default = SB3_SEEDS.get(env, SB3_SEEDS_ELSEWHERE)
    sb3_seeds = (default if settings.sb3_seeds is None else settings.sb3_seeds) if settings.sb3 else 0
    for seed in range(max(settings.seeds, sb3_seeds)):
        if seed < settings.seeds:
            yield "operant_gpu", seed
        if seed < sb3_seeds:
            yield "sb3", seed


if __name__ == "__main__":
    main(tyro.cli(Settings))
