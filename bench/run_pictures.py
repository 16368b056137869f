"""Take the pictures of the documentation from real runs: dashboards, a table of runs, a learning curve, a video.

    python bench/run_pictures.py [--images docs/images]

Trains Pendulum-v1 and CartPole-v1, some seconds each, and draws what a terminal shows half way.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console, RenderableType

import operant_gpu
from operant_gpu.models import PPO, PPOConfig, record
from operant_gpu.monitor import Run, RunReader
from operant_gpu.monitor.dashboard import comparison, dashboard
from operant_gpu.monitor.run import free_folder

ROOT = Path(__file__).parent.parent
WIDTH = 100
FONTS = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


@dataclass(frozen=True)
class Settings:
    """Take the pictures of the documentation from real runs."""

    images: Path = ROOT / "docs" / "images"
    """Where to write them."""


def main(settings: Settings) -> None:
    """Train, and take the pictures."""
    torch.set_num_threads(1)
    images = settings.images.resolve()
    images.mkdir(parents=True, exist_ok=True)
    with in_temporary_folder():
        train("Pendulum-v1", None, images / "dashboard.svg")
        for seed in (1, 2, 3):
            run = train("CartPole-v1", 475.0, None, seed=seed)
            views = [RunReader(path).refresh() for path in sorted(Path("runs").iterdir())]
        draw(comparison(views, WIDTH), images / "monitor.svg", "operant-gpu monitor runs/*")
        (images / "curve.png").write_bytes((run.folder / "curve.png").read_bytes())
        # A quarter of an episode says it all.
        record(run.learner, images / "cartpole.gif", max_steps=120)


def train(env: str, goal: float | None, picture: Path | None, **changes: Any) -> Run:
    """Train in a run, and draw its dashboard half way."""
    config = PPOConfig.for_env(env, **changes)
    learner = PPO(operant_gpu.make(env, config.num_envs), config)
    with Run(learner, free_folder(env), goal=goal) as run:

        def callback(metrics: dict[str, float]) -> bool:
            going_on = run(metrics)
            if picture is not None and not picture_is_taken and run.view.progress >= 0.55:
                draw(dashboard(run.view, WIDTH), picture, f"operant-gpu train {env}")
                picture_is_taken.append(True)
            return going_on

        picture_is_taken: list[bool] = []
        learner.learn(callback=callback)
    return run


def draw(shown: RenderableType, path: Path, title: str) -> None:
    """Write what a terminal shows as an SVG."""
    console = Console(width=WIDTH, record=True, file=io.StringIO(), force_terminal=True)
    console.print(shown)
    # The reader's own fonts, not some from elsewhere.
    svg = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title=title), flags=re.DOTALL)
    path.write_text(svg.replace("Fira Code, monospace", FONTS))
    print(path)


@contextlib.contextmanager
def in_temporary_folder() -> Iterator[None]:
    """Work in a folder of its own, so that runs have the names that a user's would."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


if __name__ == "__main__":
    main(tyro.cli(Settings))
