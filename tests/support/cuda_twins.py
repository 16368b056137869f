"""Environments of the contract's tests written a second time, in CUDA C++."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import operant_gpu
from operant_gpu.cuda_environment import CudaEnvironment
from operant_gpu.environment import Environment

FOLDER = Path(__file__).parent / "cuda"


def twin(environment: Environment, file: str) -> CudaEnvironment:
    """Return an environment like this one, whose functions are in a file of `cuda`."""
    return CudaEnvironment(
        id=f"Cuda{environment.id}",
        source=FOLDER / file,
        state=environment.state,
        params=environment.params,
        tables=environment.tables,
        metrics=environment.metrics,
        observation_space=environment.observation_space,
        action_space=environment.action_space,
        max_episode_steps=environment.max_episode_steps,
        action_mask=environment.has_action_mask,
        validate=environment.validate,
    )


def makers(environments: dict[str, Environment]) -> dict[str, Callable[..., Any]]:
    """Return makers of the twins and of the registered environments in CUDA C++, by name.

    Args:
        environments: What there are twins of, by the name of the file.
    """
    games = [name for name in operant_gpu.list_envs() if isinstance(operant_gpu.registry.find(name), CudaEnvironment)]
    twins = [twin(environment, file) for file, environment in environments.items()]
    return {name: functools.partial(operant_gpu.make, name) for name in games} | {one.id: one for one in twins}
