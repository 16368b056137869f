"""`operant-gpu play`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from gymnasium.vector import AutoresetMode
from rich.console import Console

from operant_gpu.cli.common import OfAnEnvironment, environment_id, say
from operant_gpu.cli.game import play
from operant_gpu.errors import InvalidConfig
from operant_gpu.registry import make


@dataclass
class Play(OfAnEnvironment):
    """Play an environment in the terminal, with the keys that it names; it begins at the first key."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """Environment, such as MinAtar-Breakout-v1, or FILE.py:NAME."""
    fps: float = 8.0
    """Steps per second. An environment that has no action for doing nothing waits for a key instead."""
    seed: int | None = None
    """Seed of the first episode; a random one if not given."""

    def run(self, console: Console) -> int:
        """Play until the user quits; return the exit status."""
        if not 0.1 <= self.fps <= 100:
            raise InvalidConfig("fps", f"expected 0.1 to 100 steps a second, got {self.fps}")
        id = environment_id(self.env)
        settings: dict[str, Any] = {"render_mode": "rgb_array", "autoreset_mode": AutoresetMode.DISABLED}
        env = make(id, device="cpu", params=self.params, **settings)
        game = play(env, self.fps, self.seed, console)
        say(console, f"{id}: score {game.score:g} in {game.steps} steps")
        return 0
