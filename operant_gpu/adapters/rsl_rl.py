"""Environments for rsl_rl: `OnPolicyRunner(RslRlVecEnv("Pendulum-v1", 64, device="cuda"), settings, device="cuda")`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from operant_gpu.adapters.common import Actions, Adapted, Units, made, missing
from operant_gpu.backends.base import NO_LIMIT
from operant_gpu.environment import Definition
from operant_gpu.errors import InvalidConfig, mapping
from operant_gpu.parameters import described
from operant_gpu.vector import VecEnv as OwnVecEnv

try:
    from rsl_rl.env import VecEnv
    from tensordict import TensorDict
except ImportError as error:
    raise missing(__name__, error) from error


class _Settings(dict[str, Any]):
    """What rsl_rl's loggers write of the environments."""

    def to_dict(self) -> dict[str, Any]:
        return dict(self)


class RslRlVecEnv(Adapted, VecEnv):
    """A `rsl_rl.env.VecEnv`, whose tensors stay where they are. Its policies choose from a Box.

    rsl_rl keeps observations across a step. Each step therefore copies them, as float32 (those of Discrete one-hot),
    and computes two flags, 9 bytes an environment.

    Actions are clamped to the bounds of the Box, since rsl_rl's policies know of none. Where "time_outs" says that time
    alone ended an episode, rsl_rl adds the value of the observation before the step to the reward.

    `learn(n, init_at_random_ep_len=True)` staggers the starts.

    Args:
        environment: Id of a registered environment, or a definition.
        num_envs: How many environments.
        seed: Of the random streams.
        groups: Groups of observations beside "policy": functions that get the `operant_gpu.VecEnv` and return tensors
            (num_envs, k) of what is so now, such as `lambda env: env.state.theta[:, None]`. What the critic alone is to
            see goes into one of them, named in the runner's `obs_groups["critic"]`.
        settings: Other arguments of `operant_gpu.VecEnv` (device, backend, ...), and parameters of the environment.

    Attributes:
        env (operant_gpu.VecEnv): The environments.

    Raises:
        InvalidConfig: If a setting makes no sense, is the adapter's to choose, or the action space is no Box.
    """

    def __init__(
        self,
        environment: str | Definition,
        num_envs: int = 1,
        *,
        seed: int | None = None,
        groups: Mapping[str, Callable[[OwnVecEnv], Tensor]] | None = None,
        **settings: Any,
    ) -> None:
        self.env = made(environment, num_envs, settings, ("same_step",), "rsl_rl")
        space = self.env.single_action_space
        if not isinstance(space, spaces.Box):
            raise InvalidConfig(
                "environment", f"rsl_rl chooses actions from a Box, {self.env.environment.id} has {space}"
            )
        self.num_envs, self.device = self.env.num_envs, self.env.device
        self.num_actions = space.shape[0]
        # rsl_rl has no word for episodes without a limit.
        self.max_episode_length = self.env.max_episode_steps or NO_LIMIT
        self.cfg = _Settings(id=self.env.environment.id, num_envs=self.num_envs, **described(self.env.given))
        self._low, self._high = (torch.as_tensor(bound, device=self.device) for bound in (space.low, space.high))
        self._units, self._actions = Units(self.env.single_observation_space, self.device), Actions(self.env)
        self._groups = mapping("groups", groups or {}, "functions")
        if "policy" in self._groups:
            raise InvalidConfig("groups", "'policy' is the environment's own observation: choose another name")
        self.env.reset(seed=seed)
        for name, function in self._groups.items():
            self._check_group(name, function)

    @property
    def episode_length_buf(self) -> Tensor:
        """Steps of the episodes under way, (num_envs,) int64. Written, it begins episodes as if so many were taken."""
        return self.env.episode_so_far[1].long()

    @episode_length_buf.setter
    def episode_length_buf(self, steps: Tensor) -> None:
        self.env.reset(options={"elapsed": steps})

    def get_observations(self) -> Any:
        """Return the present observations, a TensorDict of the groups."""
        obs = self._units.seen(self.env.shown)
        space = self._units.space
        if isinstance(space, spaces.Discrete):
            obs = nn.functional.one_hot(obs, int(space.n))
        groups = {"policy": obs, **{name: function(self.env) for name, function in self._groups.items()}}
        kept = {name: group.to(torch.float32, copy=True) for name, group in groups.items()}
        return TensorDict(kept, batch_size=[self.num_envs], device=self.device)

    def step(self, actions: Tensor) -> tuple[Any, Tensor, Tensor, dict[str, Any]]:
        """Take one step.

        Args:
            actions: (num_envs, k) float32.

        Returns:
            obs (TensorDict): Observations, as `get_observations` returns them.
            reward (Tensor): Rewards `(num_envs,)`. They are live: the next step overwrites them.
            done (Tensor): Which episodes ended, `(num_envs,)` int64.
            extras (dict): `time_outs` says which episodes the time limit alone ended. If the environment has metrics,
                `log` has those of the episodes that ended, which rsl_rl averages. To find them, the step waits for the
                device.

        Raises:
            ActionError: If the actions have another shape.
        """
        clamped = self._actions.read(actions).clamp(self._low, self._high)
        _, reward, terminated, truncated, info = self.env.step(clamped)
        done = terminated | truncated
        extras: dict[str, Any] = {"time_outs": truncated & ~terminated}
        if "metrics" in info and len(rows := done.nonzero()[:, 0]):
            extras["log"] = {name: metric[rows] for name, metric in info["metrics"].items()}
        return self.get_observations(), reward, done.long(), extras

    def _check_group(self, name: str, function: Any) -> None:
        expected = f"{name!r} must be a function of the VecEnv that returns a tensor ({self.num_envs}, ...)"
        try:
            group = function(self.env)
        except Exception as error:
            advice = "a parameter that is to be a tensor has to be given as one"
            raise InvalidConfig("groups", f"{expected}, it raised {type(error).__name__}: {error}; {advice}") from error
        if not isinstance(group, Tensor) or group.ndim < 2 or len(group) != self.num_envs:
            came = f"one of shape {tuple(group.shape)}" if isinstance(group, Tensor) else f"{type(group).__name__}"
            raise InvalidConfig("groups", f"{expected}, got {came}")
