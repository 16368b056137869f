"""Record the games as animated pictures for the documentation, played by the policies of `levels.py`.

python bench/game_pictures.py [--policies build/policies] [--images docs/images]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from PIL import Image

import operant_gpu
from operant_gpu.models import PPO

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Settings:
    """Record the games as animated pictures for the documentation."""

    policies: Path = ROOT / "build" / "policies"
    """Folder with a policy for each game."""
    images: Path = ROOT / "docs" / "images"
    """Where to write the pictures."""
    steps: int = 120
    """Steps to show."""
    skip: int = 130
    """Steps to play before, so that something is going on: in Seaquest the air grows thin."""
    seed: int = 5
    """Seed of the episode."""


def main(settings: Settings) -> None:
    """Record every game that there is a policy for."""
    for path in sorted(settings.policies.glob("*.pt")):
        record(settings, path)


def record(settings: Settings, path: Path) -> None:
    """Play a game and write its picture."""
    torch.manual_seed(settings.seed)
    learner = PPO.load(path)
    env = operant_gpu.make(path.stem, device="cpu", render_mode="rgb_array")
    obs, info = env.reset(seed=settings.seed)
    frames = []
    for step in range(settings.skip + settings.steps):
        if step >= settings.skip:
            (frame,) = env.render() or ()
            frames.append(Image.fromarray(frame).quantize(32))
        actions = learner.predict(obs, deterministic=False, action_mask=info.get("action_mask"))
        obs, *_, info = env.step(actions)
    target = settings.images / f"{path.stem.lower()}.gif"
    target.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(target, save_all=True, append_images=frames[1:], duration=90, loop=0, optimize=True)
    print(f"{target}: {target.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(tyro.cli(Settings))
