"""Environments for skrl: `env = SkrlEnv("CartPole-v1", 64)` in place of `wrap_env(...)`."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import Space, spaces
from torch import Tensor

from operant_gpu.adapters.common import Actions, Adapted, Units, made, missing, seed_of
from operant_gpu.environment import Definition

try:
    from skrl import config
    from skrl.envs.wrappers.torch import Wrapper
except ImportError as error:
    raise missing(__name__, error) from error


class SkrlEnv(Adapted, Wrapper):
    """A `skrl.envs.wrappers.torch.Wrapper`, whose tensors stay where they are.

    skrl keeps observations across a step. Each step therefore copies them, as float32, and computes a flag, 1 byte an
    environment. Rewards and `terminated` are live: skrl stores them at once.

    What follows a step is for skrl also what the next one begins with. With the auto-reset mode NEXT_STEP, the default
    and that of Gymnasium's vector environments, it is the last observation of an episode that ended, so that skrl
    bootstraps truncated episodes right; the step that resets is learned from too, with reward 0. With SAME_STEP there
    is no such step, and what follows a truncated one is the next episode's first observation.

    With `time_limit_bootstrap`, skrl's PPO adds a value wherever `truncated` is set; so an episode that ends both ways
    at once is only `terminated` here. Discrete observations are whole numbers, counted from 0.

    Args:
        environment: Id of a registered environment, or a definition.
        num_envs: How many environments.
        seed: Of the random streams; if None, that of `skrl.utils.set_seed`, which is 0 until it is called.
        settings: Other arguments of `operant_gpu.VecEnv` (device, autoreset_mode, ...), and parameters of the
            environment.

    Attributes:
        env (operant_gpu.VecEnv): The environments.

    Raises:
        InvalidConfig: If a setting makes no sense, or is the adapter's to choose.
    """

    def __init__(
        self, environment: str | Definition, num_envs: int = 1, *, seed: int | None = None, **settings: Any
    ) -> None:
        self.env = made(environment, num_envs, settings, ("next_step", "same_step"), "skrl")
        super().__init__(self.env)
        self._obs_units = Units(self.env.single_observation_space, self.env.device)
        self._action_units = Actions(self.env)
        space = self._obs_units.space
        # skrl knows neither MultiBinary nor networks of integers.
        self._is_one = isinstance(space, spaces.Discrete)
        self._obs_space = spaces.Box(0, 1, space.shape) if isinstance(space, spaces.MultiBinary) else space
        self._seed = seed_of(seed)
        self._obs: Tensor | None = None
        self._info: dict[str, Any] = {}

    def __getattr__(self, key: str) -> Any:
        """Find what is not here in the `operant_gpu.VecEnv`, if there is one: a copy begins without."""
        if key in ("_env", "_unwrapped"):
            raise AttributeError(key)
        return super().__getattr__(key)

    @property
    def observation_space(self) -> Space[Any]:
        """The space of one observation."""
        return self._obs_space

    @property
    def action_space(self) -> Space[Any]:
        """The space of one action."""
        return self._action_units.space

    def reset(self) -> tuple[Tensor, dict[str, Any]]:
        """Return the present observations; the first call begins the episodes, later ones reset themselves."""
        if self._obs is None:
            obs, self._info = self.env.reset(seed=config.torch.key if self._seed is None else self._seed)
            self._obs = self._kept(obs)
        return self._obs, self._info

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Take one step.

        Args:
            actions: (num_envs, k), of any dtype.

        Returns:
            obs (Tensor): Observations `(num_envs, size)`.
            reward (Tensor): Rewards `(num_envs, 1)`.
            terminated (Tensor): Whether the episode reached an end of the task, `(num_envs, 1)` bool.
            truncated (Tensor): Whether the time limit alone cut the episode, `(num_envs, 1)` bool.
            info (dict): That of `operant_gpu.VecEnv.step`, whose tensors are live.
        """
        obs, reward, terminated, truncated, self._info = self.env.step(self._action_units.read(actions))
        self._obs = self._kept(obs)
        results = (reward, terminated, truncated & ~terminated)
        return self._obs, *(result.unsqueeze(1) for result in results), self._info

    def state(self) -> None:
        """Return None: there is no state beside the observations."""

    def render(self, *args: Any, **kwargs: Any) -> Any:
        """Return a picture of each environment, or None without a render mode."""
        return self.env.render()

    def _kept(self, obs: Tensor) -> Tensor:
        seen = self._obs_units.seen(obs)
        return seen.to(seen.dtype if self._is_one else torch.float32, copy=True).reshape(self.num_envs, -1)
