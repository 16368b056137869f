"""Environments by name, here and in Gymnasium."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium
from gymnasium.vector import AutoresetMode

from operant_gpu.environment import Definition
from operant_gpu.errors import InvalidConfig, nearest

if TYPE_CHECKING:
    from operant_gpu.vector import VecEnv

NAMESPACE = "operant_gpu"

Defined = TypeVar("Defined", bound=Definition)

_environments: dict[str, Definition] = {}


def register(environment: Defined) -> Defined:
    """Make an environment known to `make` and, as `"operant_gpu/<id>"`, to `gymnasium.make_vec` and `gymnasium.make`.

    With `gymnasium.make_vec` the auto-reset mode defaults to NEXT_STEP, and each step returns fresh arrays
    (`copy=True`), as with Gymnasium's own vector environments. `gymnasium.make` makes a single environment with NumPy
    observations.

    Args:
        environment: The environment; it replaces one registered before with the same id.

    Returns:
        The environment, so that a definition can be registered where it stands.
    """
    if not isinstance(environment, Definition):
        raise InvalidConfig("environment", f"expected an Environment or a CudaEnvironment, got {environment!r}")
    name = f"{NAMESPACE}/{environment.id}"
    _environments[environment.id] = environment
    gymnasium.registry.pop(name, None)
    gymnasium.register(
        id=name,
        entry_point="operant_gpu.adapters.single:SingleEnv",
        vector_entry_point="operant_gpu.registry:make_as_gymnasium",
        max_episode_steps=environment.max_episode_steps,
        reward_threshold=environment.reward_threshold,
        # Not "id": that is Gymnasium's, which hands these on to its own `make`.
        kwargs={"environment": environment.id},
    )
    return environment


def make(id: str, num_envs: int = 1, **settings: Any) -> VecEnv:
    """Make a `VecEnv` of a registered environment.

    Args:
        id: Name of the environment, such as "CartPole-v1".
        num_envs: How many environments to step together.
        settings: Arguments of `VecEnv` (device, backend, ...) and parameters of the environment.

    Raises:
        InvalidConfig: If the id, a setting or a parameter is unknown or makes no sense.
    """
    return find(id)(num_envs, **settings)


def make_as_gymnasium(environment: str, num_envs: int = 1, **settings: Any) -> VecEnv:
    """Make a `VecEnv` that does as Gymnasium's own vector environments do, where `settings` say nothing else."""
    return make(environment, num_envs, **{"autoreset_mode": AutoresetMode.NEXT_STEP, "copy": True, **settings})


def find(id: str) -> Definition:
    """Return the environment registered as `id`."""
    if isinstance(id, Definition):
        raise InvalidConfig(
            "id", f"expected a name, got the definition of {id.id}: call it, as in environment(num_envs)"
        )
    environment = _environments.get(id) if isinstance(id, str) else None
    if environment is None:
        hint = nearest(id, _environments)
        raise InvalidConfig("id", f"unknown environment {id!r}; {hint}registered: {', '.join(list_envs())}")
    return environment


def list_envs() -> list[str]:
    """Return the ids of all registered environments, sorted."""
    return sorted(_environments)
