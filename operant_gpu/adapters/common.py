"""What adapters share: how their environments are made, and spaces as trainers count them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

from operant_gpu import registry
from operant_gpu.adapters import ADAPTERS
from operant_gpu.environment import Definition
from operant_gpu.errors import ActionError, BackendError, InvalidConfig, one_of, whole
from operant_gpu.spaces import action_layout
from operant_gpu.vector import VecEnv


def missing(module: str, error: ImportError) -> BackendError:
    """Return the error that says how to install what an adapter's module, given by its whole name, needs."""
    trainer = next(iter(ADAPTERS[module.rpartition(".")[2]].tried))
    return BackendError(f"{module} needs {trainer} ({error}): pip install {trainer}")


def definition_of(environment: Any) -> Definition:
    """Return the definition that an adapter is given, itself or by the id of a registered one.

    Raises:
        InvalidConfig: If it is neither.
    """
    if isinstance(environment, str):
        return registry.find(environment)
    if not isinstance(environment, Definition):
        expected = "expected the id of an environment, an Environment or a CudaEnvironment"
        raise InvalidConfig("environment", f"{expected}, got {environment!r}: the adapter makes the VecEnv itself")
    return environment


def made(environment: Any, num_envs: int, settings: dict[str, Any], modes: Sequence[str], trainer: str) -> VecEnv:
    """Make the environments of an adapter.

    Args:
        environment: Id of a registered environment, or a definition.
        num_envs: How many.
        settings: Arguments of `VecEnv`, and parameters.
        modes: Names of the auto-reset modes that the trainer knows what to do with, the default first.
        trainer: Its name.

    Raises:
        InvalidConfig: If a setting is the adapter's to choose, or makes no sense.
    """
    for name in ("output", "copy"):
        if name in settings:
            raise InvalidConfig(name, f"chosen by the adapter as {trainer} needs it: leave it out")
    mode = settings.get("autoreset_mode", modes[0])
    mode = mode.name if isinstance(mode, AutoresetMode) else mode
    mode = one_of("autoreset_mode", mode, modes, f", as {trainer} needs it")
    return definition_of(environment)(num_envs, **{**settings, "autoreset_mode": mode})


class Adapted:
    """What all that stand around a `VecEnv` have in common; a trainer's own class comes after it.

    Attributes:
        env: The `operant_gpu.VecEnv`.
    """

    env: VecEnv

    def close(self) -> None:
        """Take no further steps."""
        self.env.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.env})"


def seed_of(seed: Any) -> int | None:
    """Return the seed of an adapter's first reset, or None for one of the operating system's.

    Raises:
        InvalidConfig: If it is neither.
    """
    return None if seed is None else whole("seed", seed, 0)


class Units:
    """A space whose whole numbers begin at 0, as trainers count them, and the way between it and the environment's.

    Args:
        space: Of one observation or action of the environment.
        device: Where tensors are.

    Attributes:
        space: The trainer's; the same but for the `start` of a Discrete or MultiDiscrete.
    """

    def __init__(self, space: Space[Any], device: torch.device) -> None:
        self.space: Space[Any] = space
        self._start: Tensor | None = None
        if isinstance(space, spaces.Discrete):
            self.space = spaces.Discrete(int(space.n))
        elif isinstance(space, spaces.MultiDiscrete):
            self.space = spaces.MultiDiscrete(space.nvec)
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and np.any(space.start):
            self._start = torch.from_numpy(np.asarray(space.start)).to(device)

    def given(self, numbers: Tensor) -> Tensor:
        """Return the trainer's numbers as the environment's."""
        return numbers if self._start is None else numbers + self._start

    def seen(self, numbers: Tensor) -> Tensor:
        """Return the environment's numbers as the trainer's."""
        return numbers if self._start is None else numbers - self._start


class Actions(Units):
    """Such a space of actions, and tensors of any dtype and shape as `VecEnv.step` takes them.

    Args:
        env: The environments.
    """

    def __init__(self, env: VecEnv) -> None:
        super().__init__(env.single_action_space, env.device)
        layout = action_layout(env.single_action_space)
        self._dtype = torch.int64 if layout.is_discrete else torch.float32
        self._shape = (env.num_envs, *layout.shape)

    def read(self, actions: Tensor) -> Tensor:
        """Return the trainer's actions, one row for each environment.

        Raises:
            ActionError: If they have another shape.
        """
        if tuple(actions.shape) not in (self._shape, (*self._shape, 1)):
            column = f" or {(*self._shape, 1)}" if len(self._shape) == 1 else ""
            came = f"got {tuple(actions.shape)}: one row per environment"
            raise ActionError(f"actions must be of shape {self._shape}{column}, {came}")
        return self.given(actions.to(self._dtype).reshape(self._shape))
