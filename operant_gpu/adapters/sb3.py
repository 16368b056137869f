"""Environments for Stable-Baselines3 and sb3-contrib: `model = PPO("MlpPolicy", SB3VecEnv("CartPole-v1", 64))`."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from operant_gpu.adapters.common import Actions, Adapted, Units, made, missing, seed_of
from operant_gpu.environment import Definition
from operant_gpu.errors import ActionError, InvalidConfig
from operant_gpu.tensors import as_tensor

try:
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise missing(__name__, error) from error


class SB3VecEnv(Adapted, VecEnv):
    """A `stable_baselines3.common.vec_env.VecEnv`.

    Stable-Baselines3 knows NumPy alone. Each step therefore copies observations, rewards and flags to fresh arrays,
    4 + 2 bytes an environment beside the observation (from a GPU, in one wait), and of environments that have ended
    also what their `infos` say: "terminal_observation", "TimeLimit.truncated", and "episode" with the return "r", the
    length "l", the time "t" and the environment's metrics, as `Monitor` has them. A metric called `is_success` is also
    where Stable-Baselines3 looks for the rate of success. Other `infos` are empty.

    `MaskablePPO` finds the masks of an environment that has them. Discrete spaces begin at 0.

    Args:
        environment: Id of a registered environment, or a definition.
        num_envs: How many environments.
        seed: Of the random streams, as `seed(...)` sets it for the next reset, and an algorithm with a `seed`.
        settings: Other arguments of `operant_gpu.VecEnv` (device, backend, ...), and parameters of the environment.

    Attributes:
        env (operant_gpu.VecEnv): The environments.

    Raises:
        InvalidConfig: If a setting makes no sense, or is the adapter's to choose.
    """

    def __init__(
        self, environment: str | Definition, num_envs: int = 1, *, seed: int | None = None, **settings: Any
    ) -> None:
        self.env = made(environment, num_envs, settings, ("same_step",), "Stable-Baselines3")
        self._obs_units = Units(self.env.single_observation_space, self.env.device)
        self._action_units = Actions(self.env)
        self._began = time.monotonic()
        super().__init__(self.env.num_envs, self._obs_units.space, self._action_units.space)
        if (first := seed_of(seed)) is not None:
            self.seed(first)

    def reset(self) -> np.ndarray[Any, Any]:
        """Begin new episodes everywhere, with the options of `set_options`, and return observations."""
        options = self._options[0]
        if any(others != options for others in self._options):
            raise InvalidConfig("options", "expected the same for all environments: a batch is reset by one call")
        obs, _ = self.env.reset(seed=self._seeds[0], options=options or None)
        self._reset_seeds()
        self._reset_options()
        [obs] = self._arrays(self._obs_units.seen(obs))
        return obs

    def step_async(self, actions: np.ndarray[Any, Any]) -> None:
        """Take the actions of the next `step_wait`."""
        try:
            given = as_tensor(actions)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ActionError(f"expected an array of actions, got {actions!r}: {error}") from error
        self._actions = self._action_units.read(given.to(self.env.device))

    def step_wait(
        self,
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any], list[dict[str, Any]]]:
        """Step, and return observations, rewards, whether episodes ended, and `infos`."""
        obs, reward, terminated, truncated, info = self.env.step(self._actions)
        obs, reward, terminated, truncated = self._arrays(self._obs_units.seen(obs), reward, terminated, truncated)
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        ended = np.flatnonzero(done)
        if ended.size:
            rows = torch.from_numpy(ended).to(self.env.device)
            sums = {**info.get("metrics", {}), **info["episode"]}
            last = self._obs_units.seen(info["final_obs"][rows])
            final_obs, *totals = self._arrays(last, *(total[rows] for total in sums.values()))
            now = round(time.monotonic() - self._began, 6)
            for place, index in enumerate(ended):
                summary = {name: total[place].item() for name, total in zip(sums, totals, strict=True)}
                infos[index] = {
                    "terminal_observation": final_obs[place],
                    "TimeLimit.truncated": bool(truncated[index] and not terminated[index]),
                    "episode": {**summary, "t": now},
                }
                if "is_success" in summary:
                    infos[index]["is_success"] = summary["is_success"]
        return obs, reward, done, infos

    def get_images(self) -> Sequence[np.ndarray[Any, Any] | None]:
        """Return a picture of each environment."""
        return self.env.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the `operant_gpu.VecEnv`, which is the same for all environments."""
        if attr_name == "action_masks" and self.env.action_mask is None:
            raise AttributeError(f"{self.env.environment.id} has no action mask")
        if attr_name == "action_masks":
            return [functools.partial(self._mask_of, index) for index in self._get_indices(indices)]
        value = getattr(self.env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: a batch is one object.

        Raises:
            AttributeError: Always, with what to write to instead.
        """
        raise AttributeError(
            f"cannot set {attr_name!r} of single environments: a batch is one object. Write to .env.params, "
            ".env.tables or .env.state, which are live tensors, or make the environments with other settings"
        )

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Return what `action_masks`, the one method of single environments, gives for each.

        Raises:
            AttributeError: For any other method, with what to call instead.
        """
        if method_name != "action_masks" or self.env.action_mask is None:
            raise AttributeError(
                f"{self.env.environment.id} has no method {method_name!r} for one environment: a batch is one object. "
                f"Call .env.{method_name} for all"
            )
        masks = self._masks()
        return [masks[index] for index in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Return whether Monitor is a `wrapper_class`: `infos` have the statistics of episodes."""
        return [issubclass(Monitor, wrapper_class) for _ in self._get_indices(indices)]

    def _mask_of(self, index: int) -> np.ndarray[Any, Any]:
        """Return the actions that are legal now in one environment, (n,) bool."""
        mask: np.ndarray[Any, Any] = self._masks()[index]
        return mask

    def _masks(self) -> np.ndarray[Any, Any]:
        """Return the actions that are legal now, (num_envs, n) bool."""
        assert self.env.action_mask is not None
        [masks] = self._arrays(self.env.action_mask)
        return masks

    def _arrays(self, *tensors: Tensor) -> list[np.ndarray[Any, Any]]:
        """Return copies of tensors as arrays, with one wait for all."""
        host = [tensor.to("cpu", non_blocking=True, copy=True) for tensor in tensors]
        if self.env.device.type == "cuda":
            torch.cuda.current_stream(self.env.device).synchronize()
        return [tensor.numpy() for tensor in host]
