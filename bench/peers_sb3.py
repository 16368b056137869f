"""PPO of Stable-Baselines3 with the settings of rl-baselines3-zoo, on Gymnasium's environments."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from peers_sb3_settings import SETTINGS
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

# Takes timesteps, episodes and the mean return of the last of them; False ends training.
Report = Callable[[int, int, float], bool]

# More steps than any run has time for.
UNLIMITED = 1_000_000_000

# Settings that are not arguments of SB3's PPO.
OUTSIDE_PPO = ("normalize", "n_envs", "n_timesteps")


class GridWalk(gymnasium.Env[np.ndarray[Any, Any], np.int64]):
    """The library's GridWalk as one Gymnasium environment: walk to a random goal, -0.01 a step, 1 at the goal."""

    # The moves up, down, left and right; y points down.
    MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0))

    def __init__(self, grid_size: int = 10) -> None:
        self.grid_size = grid_size
        self.observation_space = spaces.Box(-1.0, 1.0, (4,))
        self.action_space = spaces.Discrete(4)
        self.position, self.goal = (0, 0), (0, 0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        """Draw a start and another cell as the goal."""
        super().reset(seed=seed)
        start, goal = self.np_random.choice(self.grid_size**2, size=2, replace=False).tolist()
        self.position = start % self.grid_size, start // self.grid_size
        self.goal = goal % self.grid_size, goal // self.grid_size
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray[Any, Any], float, bool, bool, dict[str, Any]]:
        """Move by one cell; the edge of the grid holds."""
        last = self.grid_size - 1
        x, y = (place + move for place, move in zip(self.position, self.MOVES[action], strict=True))
        self.position = min(max(x, 0), last), min(max(y, 0), last)
        terminated = self.position == self.goal
        return self._observe(), 1.0 if terminated else -0.01, terminated, False, {}

    def _observe(self) -> np.ndarray[Any, Any]:
        return np.array([*self.position, *self.goal], np.float32) * (2.0 / (self.grid_size - 1)) - 1.0


class Watch:
    """A callback of SB3, called at every step: keep the returns that Monitor saw, and report."""

    def __init__(self, report: Report, episodes: int) -> None:
        self.report = report
        self.returns: deque[float] = deque(maxlen=episodes)
        self.episodes = 0
        self.mean = float("nan")

    def __call__(self, local: dict[str, Any], _: dict[str, Any]) -> bool:
        """Return whether to go on; `local` are the variables of SB3's loop over steps."""
        # Monitor's returns, which VecNormalize has not touched.
        ended = [info["episode"]["r"] for info in local["infos"] if "episode" in info]
        if ended:
            self.returns.extend(ended)
            self.episodes += len(ended)
            self.mean = sum(self.returns) / len(self.returns)
        return self.report(local["self"].num_timesteps, self.episodes, self.mean)


def make_learner(env: str, seed: int) -> PPO:
    """Return SB3's PPO for an environment, on a CPU, which SB3 advises for networks without convolutions."""
    settings = SETTINGS[env]
    make = (lambda: TimeLimit(GridWalk(), 100)) if env == "GridWalk-v0" else env
    vec: Any = make_vec_env(make, settings["n_envs"], seed=seed, vec_env_cls=DummyVecEnv)
    arguments = {name: scheduled(value) for name, value in settings.items() if name not in OUTSIDE_PPO}
    if settings.get("normalize"):
        vec = VecNormalize(vec, gamma=arguments["gamma"])
    return PPO("MlpPolicy", vec, seed=seed, device="cpu", **arguments)


def learn(learner: PPO, env: str, report: Report, episodes: int) -> None:
    """Train until `report` returns False, or where a setting follows a schedule until its end.

    Args:
        learner: What `make_learner` returned.
        env: The environment it was made for.
        report: Called at every step.
        episodes: Over how many of the last episodes to take the mean return.
    """
    planned = any(is_schedule(value) for value in SETTINGS[env].values())
    learner.learn(SETTINGS[env]["n_timesteps"] if planned else UNLIMITED, callback=Watch(report, episodes))


def is_schedule(value: Any) -> bool:
    """Tell whether a setting is one of the zoo's linear schedules."""
    return isinstance(value, str) and value.startswith("lin_")


def scheduled(value: Any) -> Any:
    """Return a setting as SB3 takes it: a schedule as a function of the part of training that remains."""
    if not is_schedule(value):
        return value
    first = float(value.removeprefix("lin_"))
    return lambda remaining: remaining * first
