"""Other libraries' ways to step environments, as contenders, where they are installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from ours import ACTION_BATCHES, ROLLOUT_WORK

from operant_gpu.cli.benchmark import own_vector_environment
from operant_gpu.cli.timing import Contender

# Sub-environments that are Python objects take seconds to make.
MAX_SYNC_ENVS = 4_096
Actions = list[np.ndarray[Any, Any]]


def peers(env: str, num_envs: int, actions: Actions) -> Iterator[Contender]:
    """Yield the contenders that have this environment."""
    yield from gymnasium_vector(env, num_envs, actions)
    yield from gymnasium_sync(env, num_envs, actions)
    yield from envpool(env, num_envs, actions)
    yield from gymnax(env, num_envs)


def gymnasium_vector(env: str, num_envs: int, actions: Actions) -> Iterator[Contender]:
    """Yield Gymnasium's own vector environment."""
    if vec := own_vector_environment(env, num_envs):
        yield Contender("step, gymnasium vector", lambda i: vec.step(actions[i % ACTION_BATCHES]), work=num_envs)


def gymnasium_sync(env: str, num_envs: int, actions: Actions) -> Iterator[Contender]:
    """Yield Gymnasium's loop over single environments."""
    if env in gymnasium.registry and num_envs <= MAX_SYNC_ENVS:
        vec = gymnasium.make_vec(env, num_envs, vectorization_mode="sync")
        vec.reset(seed=0)
        yield Contender("step, gymnasium sync", lambda i: vec.step(actions[i % ACTION_BATCHES]), work=num_envs)


def envpool(env: str, num_envs: int, actions: Actions) -> Iterator[Contender]:
    """Yield EnvPool, with as many threads as it chooses."""
    try:
        import envpool
    except ImportError:
        return
    if env in envpool.list_all_envs():
        pool = envpool.make_gymnasium(env, num_envs=num_envs, seed=0)
        pool.reset()
        yield Contender("step, envpool", lambda i: pool.step(actions[i % ACTION_BATCHES]), work=num_envs)


def gymnax(env: str, num_envs: int) -> Iterator[Contender]:
    """Yield gymnax on JAX, on whatever device that finds: random actions, many steps a call in one `lax.scan`."""
    # JAX would take three quarters of a GPU's memory for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import gymnax
        import jax
    except ImportError:
        return
    if env not in gymnax.registered_envs:
        return
    one, params = gymnax.make(env)
    space = one.action_space(params)
    steps = min(1024, max(8, ROLLOUT_WORK // num_envs // 4))

    def step(carry: Any, _: Any) -> Any:
        states, key = carry
        key, *keys = jax.random.split(key, 3)
        actions = jax.vmap(space.sample)(jax.random.split(keys[0], num_envs))
        states = jax.vmap(one.step, (0, 0, 0, None))(jax.random.split(keys[1], num_envs), states, actions, params)[1]
        return (states, key), None

    rollout = jax.jit(lambda states, key: jax.lax.scan(step, (states, key), None, steps)[0])
    key = jax.random.PRNGKey(0)
    carry = [jax.vmap(one.reset, (0, None))(jax.random.split(key, num_envs), params)[1], key]

    def call(_: int) -> None:
        carry[:] = rollout(*carry)

    wait = lambda: jax.block_until_ready(carry)  # noqa: E731
    name = f"rollout random, gymnax on {jax.default_backend()}"
    yield Contender(name, call, wait, num_envs * steps, {"steps_per_call": steps})
