"""Environments for TorchRL: `env = TorchRLEnv("CartPole-v1", 64)` in place of `GymEnv(...)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from gymnasium import Space, spaces
from torch import Tensor

from operant_gpu.adapters.common import Actions, Adapted, Units, made, missing, seed_of
from operant_gpu.environment import Definition
from operant_gpu.tensors import torch_dtype

try:
    from tensordict import TensorDict
    from torchrl.data import Binary, Bounded, Categorical, Composite, MultiCategorical, Unbounded
    from torchrl.envs import EnvBase
except ImportError as error:
    raise missing(__name__, error) from error


class TorchRLEnv(Adapted, EnvBase):
    """A `torchrl.envs.EnvBase`, whose tensors stay where they are.

    TorchRL keeps what a step returned. Each step therefore copies the observation, the action mask if there is one, and
    4 + 3 bytes an environment: the reward and three flags. Ended environments are reset by TorchRL, with a mask.

    Keys are "observation", "action", "reward", "done", "terminated", "truncated" and, if the environment has one,
    "action_mask", for the transform `ActionMask`. Discrete actions are whole numbers from 0 (`Categorical`), not
    one-hot. `set_seed` and `reset(options=...)` do as those of `operant_gpu.VecEnv.reset`.

    Args:
        environment: Id of a registered environment, or a definition.
        num_envs: How many environments: the batch size is (num_envs,).
        seed: Of the random streams, as `set_seed` sets it for the next reset.
        settings: Other arguments of `operant_gpu.VecEnv` (device, backend, ...), and parameters of the environment.

    Attributes:
        env (operant_gpu.VecEnv): The environments.

    Raises:
        InvalidConfig: If a setting makes no sense, or is the adapter's to choose.
    """

    def __init__(
        self, environment: str | Definition, num_envs: int = 1, *, seed: int | None = None, **settings: Any
    ) -> None:
        env = made(environment, num_envs, settings, ("disabled",), "TorchRL")
        batch = torch.Size([env.num_envs])
        super().__init__(device=env.device, batch_size=batch)
        self.env = env
        self._next_seed = seed_of(seed)
        self._has_begun = False
        self._obs_units, self._action_units = Units(env.single_observation_space, env.device), Actions(env)
        observed = {"observation": _spec(self._obs_units.space, env.device, batch)}
        if env.action_mask is not None:
            observed["action_mask"] = Binary(shape=env.action_mask.shape, device=env.device, dtype=torch.bool)
        self.observation_spec = Composite(observed, shape=batch)
        self.action_spec = _spec(self._action_units.space, env.device, batch)
        self.reward_spec = Unbounded(shape=(*batch, 1), device=env.device)
        flag = Categorical(2, shape=(*batch, 1), device=env.device, dtype=torch.bool)
        self.full_done_spec = Composite(
            {name: flag.clone() for name in ("done", "terminated", "truncated")}, shape=batch
        )

    def _reset(self, tensordict: Any = None, *, options: Mapping[str, Any] | None = None) -> Any:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        # The first reset takes all, whatever a collector asks for.
        chosen = {} if mask is None or not self._has_begun else {"reset_mask": mask.reshape(self.batch_size)}
        obs, _ = self.env.reset(seed=self._next_seed, options={**(options or {}), **chosen})
        self._next_seed, self._has_begun = None, True
        flags = torch.zeros(3, *self.batch_size, 1, dtype=torch.bool, device=self.device)
        return self._data(obs, done=flags[0], terminated=flags[1], truncated=flags[2])

    def _step(self, tensordict: Any) -> Any:
        actions = self._action_units.read(tensordict.get("action"))
        obs, *others, _ = self.env.step(actions)
        reward, terminated, truncated = (one.clone().unsqueeze(-1) for one in others)
        return self._data(obs, reward=reward, terminated=terminated, truncated=truncated, done=terminated | truncated)

    def _set_seed(self, seed: int | None) -> None:
        self._next_seed = seed

    def close(self, **kwargs: Any) -> None:
        """Take no further steps."""
        Adapted.close(self)
        EnvBase.close(self, **kwargs)

    def _data(self, obs: Tensor, **others: Tensor) -> Any:
        """Return what TorchRL keeps of a step or a reset."""
        seen = {"observation": self._obs_units.seen(obs).clone()}
        if self.env.action_mask is not None:
            seen["action_mask"] = self.env.action_mask.clone()
        return TensorDict({**seen, **others}, batch_size=self.batch_size, device=self.device)


def _spec(space: Space[Any], device: torch.device, batch: torch.Size) -> Any:
    """Return the spec of a batch of a space that begins at 0."""
    if isinstance(space, spaces.Discrete):
        return Categorical(int(space.n), shape=batch, device=device, dtype=torch.int64)
    if isinstance(space, spaces.MultiDiscrete):
        sizes = [int(size) for size in space.nvec]
        return MultiCategorical(sizes, shape=(*batch, len(sizes)), device=device, dtype=torch.int64)
    shape = (*batch, *(space.shape or ()))
    if isinstance(space, spaces.MultiBinary):
        return Binary(shape=shape, device=device, dtype=torch.int8)
    assert isinstance(space, spaces.Box)
    dtype = torch_dtype(space.dtype)
    if space.is_bounded():
        low, high = (torch.as_tensor(bound, device=device).expand(shape).clone() for bound in (space.low, space.high))
        return Bounded(low=low, high=high, shape=shape, device=device, dtype=dtype)
    return Unbounded(shape=shape, device=device, dtype=dtype)
