"""Record every environment as an animated picture for the documentation, played by policies of its preset.

    python bench/environment_pictures.py [--envs CartPole-v1 ...] [--policies build/policies] [--images docs/images]

The policies of games are those that `levels.py` leaves in build/policies. What learns in less than half a minute is
trained here if it has none there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from gymnasium.vector import AutoresetMode
from PIL import Image

import operant_gpu
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.models.presets import LEVELS

ROOT = Path(__file__).parent.parent
# Of a preset's training, in seconds.
MOST_TO_TRAIN = 30


class Show(NamedTuple):
    """How an environment is shown.

    Attributes:
        steps: Pictures.
        skip: Steps to play before, so that something is going on: in Seaquest the air grows thin.
        milliseconds: Each picture stays.
        width: In pixels; that of what the environment draws if there is none.
        deterministic: Whether the policy takes its likeliest actions.
    """

    steps: int = 120
    skip: int = 130
    milliseconds: int = 90
    width: int | None = None
    deterministic: bool = False


PHYSICS = Show(skip=0, milliseconds=50, width=320, deterministic=True)
WALKS = Show(steps=60, skip=0, milliseconds=200, deterministic=True)
SHOWS = {
    "CartPole-v1": PHYSICS,
    "Acrobot-v1": PHYSICS._replace(milliseconds=80, width=240),
    "MountainCar-v0": PHYSICS._replace(width=256),
    "MountainCarContinuous-v0": PHYSICS._replace(width=256),
    "Pendulum-v1": PHYSICS._replace(width=240),
    "GridWalk-v0": WALKS,
    "FrozenLake-v1": WALKS,
    "FrozenLake8x8-v1": WALKS,
}


@dataclass(frozen=True)
class Settings:
    """Record the environments as animated pictures for the documentation."""

    envs: tuple[str, ...] = tuple(LEVELS)
    """Environments; those without a policy that take long to learn are left out."""
    policies: Path = ROOT / "build" / "policies"
    """Folder with a policy for each game."""
    images: Path = ROOT / "docs" / "images"
    """Where to write the pictures."""
    seed: int = 5
    """Seed of the first episode."""


def main(settings: Settings) -> None:
    """Record every environment that there is a policy for, or soon is."""
    for env in settings.envs:
        path = settings.policies / f"{env}.pt"
        if path.is_file() or LEVELS[env].seconds < MOST_TO_TRAIN:
            record(PPO.load(path) if path.is_file() else trained(env), SHOWS.get(env, Show()), settings)


def trained(env: str) -> PPO:
    """Return what the preset of an environment learns."""
    torch.set_num_threads(1)
    config = PPOConfig.for_env(env)
    return PPO(operant_gpu.make(env, config.num_envs, device="cpu"), config).learn()


def record(learner: PPO, show: Show, settings: Settings) -> None:
    """Play, and write the picture."""
    torch.manual_seed(settings.seed)
    id = learner.env.environment.id
    first, *others = pictures(learner, show, settings.seed)
    target = settings.images / f"{id.lower()}.gif"
    target.parent.mkdir(parents=True, exist_ok=True)
    first.save(target, save_all=True, append_images=others, duration=show.milliseconds, loop=0, optimize=True)
    print(f"{target}: {target.stat().st_size / 1024:.0f} KiB")


def pictures(learner: PPO, show: Show, seed: int) -> Iterator[Image.Image]:
    """Yield what is drawn of episodes, their last states too."""
    id = learner.env.environment.id
    env = operant_gpu.make(id, device="cpu", render_mode="rgb_array", autoreset_mode=AutoresetMode.NEXT_STEP)
    obs, info = env.reset(seed=seed)
    for step in range(show.skip + show.steps):
        if step >= show.skip:
            (frame,) = env.render() or ()
            picture = Image.fromarray(frame)
            if show.width is not None:
                picture = picture.resize((show.width, show.width * picture.height // picture.width))
            yield picture.quantize(32, dither=Image.Dither.NONE)
        actions = learner.predict(obs, deterministic=show.deterministic, action_mask=info.get("action_mask"))
        obs, *_, info = env.step(actions)


if __name__ == "__main__":
    main(tyro.cli(Settings))
