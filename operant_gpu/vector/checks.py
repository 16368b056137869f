"""Checks of what `VecEnv` is given: each returns the argument as it is meant, or raises `InvalidConfig`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from operant_gpu.backends.base import NO_LIMIT
from operant_gpu.environment import Definition
from operant_gpu.errors import InvalidConfig, as_integer, one_of, whole


def autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """Return the mode, given itself or by its name, such as "same_step"."""
    if isinstance(mode, AutoresetMode):
        return mode
    return AutoresetMode[one_of("autoreset_mode", mode, list(AutoresetMode.__members__))]


def render_mode(mode: str | None, environment: Definition) -> str | None:
    """Return the mode if the environment can be drawn that way."""
    if mode is None:
        return None
    mode = one_of("render_mode", mode, ("rgb_array",), ", or None for no pictures")
    if environment.draw is None:
        raise InvalidConfig("render_mode", f"{environment.id} has no draw function: give its Environment one")
    return mode


def step_limit(max_episode_steps: int | None, environment: Definition) -> int:
    """Return the time limit: the environment's own for None, none for -1."""
    limit = environment.max_episode_steps if max_episode_steps is None else max_episode_steps
    if limit is None or limit == -1:
        return NO_LIMIT
    return whole("max_episode_steps", limit, 1, NO_LIMIT, ", or -1 for no limit")


def num_steps(steps: Any) -> int:
    """Return the length of a rollout."""
    return whole("num_steps", steps, 1, NO_LIMIT)


def first_env_id(first: int, num_envs: int) -> int:
    """Return the id of the first environment; ids are int32."""
    return whole("first_env_id", first, 0, 2**31 - num_envs)


def seeds(given: Any, num_envs: int) -> int | list[int | None]:
    """Return the streams' seed, or that of each environment, None where its stream is to go on."""
    # Arrays, tensors and columns of tables have it.
    plain = given.tolist() if hasattr(given, "tolist") and not isinstance(given, type) else given
    if as_integer(plain) is not None:
        return whole("seed", plain, 0)
    if not isinstance(plain, Sequence) or len(plain) != num_envs:
        raise InvalidConfig("seed", f"expected an integer, or {num_envs} of them in a list, got {given!r}")
    return [None if seed is None else whole("seed", seed, 0) for seed in plain]


def reset_mask(options: Mapping[str, Any] | None, num_envs: int, device: torch.device) -> Tensor | None:
    """Return which environments are to be reset, None for all."""
    if options is None:
        return None
    unknown = set(options) - {"reset_mask"}
    if unknown:
        raise InvalidConfig("options", f"unknown option {sorted(unknown)}: 'reset_mask' is the only one")
    given = options.get("reset_mask")
    if given is None:
        return None
    try:
        # NumPy arrays by a copy: torch refuses some strides, and warns of read-only memory.
        mask = torch.as_tensor(np.array(given) if isinstance(given, np.ndarray) else given, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidConfig("options", f"reset_mask must be a tensor or array, got {given!r}: {error}") from error
    if mask.dtype != torch.bool or mask.shape != (num_envs,):
        raise InvalidConfig(
            "options", f"reset_mask must be bool of shape ({num_envs},), got {mask.dtype} {tuple(mask.shape)}"
        )
    return mask.contiguous()
