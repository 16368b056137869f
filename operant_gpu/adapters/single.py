"""One environment as a `gymnasium.Env`, which `gymnasium.make("operant_gpu/CartPole-v1")` makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from operant_gpu.adapters.common import definition_of
from operant_gpu.environment import Definition
from operant_gpu.errors import InvalidConfig

# What a single environment leaves to Gymnasium, or settles itself.
_FIXED = {
    "num_envs": "gymnasium.make_vec makes many",
    "autoreset_mode": "whoever steps it resets it",
    "max_episode_steps": "it is an argument of gymnasium.make",
    "device": "it is on the CPU",
    "output": "observations are NumPy arrays",
    "copy": "observations are fresh arrays",
}


class SingleEnv(gymnasium.Env[Any, Any]):
    """A `VecEnv` of one environment on the CPU, without an axis for it. For checks, videos and play: it is slow.

    `info` has "action_mask" (n,) bool and "metrics", numbers by name, if the environment has them. The time limit is
    Gymnasium's wrapper `TimeLimit`, which `gymnasium.make` adds.

    Args:
        environment: Id of a registered environment, or a definition.
        render_mode: "rgb_array" or None.
        settings: Other arguments of `VecEnv` (backend, debug, ...) and parameters of the environment.

    Attributes:
        env (operant_gpu.VecEnv): The environments.

    Raises:
        InvalidConfig: If a setting is unknown or makes no sense.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, environment: str | Definition, render_mode: str | None = None, **settings: Any) -> None:
        for name in _FIXED.keys() & settings.keys():
            raise InvalidConfig(name, f"not a setting of a single environment: {_FIXED[name]}")
        alone = {"device": "cpu", "output": "numpy", "autoreset_mode": "disabled", "max_episode_steps": -1}
        self.env = definition_of(environment)(1, render_mode=render_mode, **alone, **settings)
        self.render_mode = render_mode
        self.observation_space, self.action_space = self.env.single_observation_space, self.env.single_action_space

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, as `VecEnv.reset` does."""
        super().reset(seed=seed)
        obs, info = self.env.reset(seed=seed, options=options)
        return obs[0].copy(), _row(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step.

        Raises:
            ActionError: If the action is not one of the action space, or the episode has ended.
        """
        batch = np.asarray(action)[None]
        widths = {"f": np.float32, "i": np.int64, "u": np.int64}
        obs, reward, terminated, truncated, info = self.env.step(
            batch.astype(widths.get(batch.dtype.kind, batch.dtype))
        )
        self.env.check()
        return obs[0].copy(), float(reward[0]), bool(terminated[0]), bool(truncated[0]), _row(info)

    def render(self) -> Any:
        """Return a picture (height, width, 3) uint8, or None without a render mode."""
        pictures = self.env.render()
        return None if pictures is None else pictures[0]

    def close(self) -> None:
        """Take no further steps."""
        self.env.close()


def _row(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `info` of the batch says of its one environment."""
    row: dict[str, Any] = {}
    if "action_mask" in info:
        row["action_mask"] = info["action_mask"][0].copy()
    if "metrics" in info:
        row["metrics"] = {name: float(metric[0]) for name, metric in info["metrics"].items()}
    return row
