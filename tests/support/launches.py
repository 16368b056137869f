"""Make launches above a driver that does nothing; print as JSON what it got, what was compiled and what was told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import nothing_driver
import torch
from gpu_checks import compilations
from ptx_executor.triton_driver import flattened
from triton import knobs

import operant_gpu
from operant_gpu.backends.triton import prepared
from operant_gpu.models import MLPPolicy, PPOConfig

# No multiple of 16, nor do rows of so many begin at one.
NUM_ENVS, ROWS = 75, 20


def started(id: str, num_envs: int = NUM_ENVS, **params: Any) -> Any:
    env = operant_gpu.make(id, num_envs, device="cpu", backend="triton", **params)
    env.reset(seed=0)
    return env


def rows_of(env: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Yield a step's outputs in rows of a user's memory, each with other distances from multiples of 16 bytes."""
    n, size = env.num_envs, env.single_observation_space.shape[0]
    for row in range(ROWS):
        numbers, flags = torch.zeros(row + n * (size + 1)), torch.zeros(row + 2 * n, dtype=torch.bool)
        reward, obs = numbers[row : row + n], numbers[row + n :].view(n, size)
        yield {"obs": obs, "reward": reward, "terminated": flags[row : row + n], "truncated": flags[row + n :]}


def calls(env: Any) -> dict[str, Callable[[], Any]]:
    """Return what launches each kernel, by name."""
    space, n = env.single_action_space, env.num_envs
    actions = torch.zeros(2, n, *space.shape, dtype=torch.float32 if space.shape else torch.int64)
    policy = MLPPolicy(env.single_observation_space, space, PPOConfig(hidden_sizes=(16,)))
    return {
        "reset": env.reset,
        "step": lambda: env.step(actions[0]),
        "step with out=": lambda: [env.step(actions[0], out=out) for out in rows_of(env)],
        "rollout, random": lambda: env.rollout(2),
        "rollout, given": lambda: env.rollout(2, actions, out=["obs", "reward", "action"]),
        "rollout, network": lambda: env.rollout(2, policy, out=["policy_action", "value", "final_value"]),
    }


def number_of(kind: str, value: Any) -> int:
    """Return a parameter as the driver has it: nothing is a pointer to 0."""
    bits = 64 if kind.startswith("*") else int(kind.lstrip("iu"))
    return int(value or 0) % 2**bits


def what_the_driver_got(driver: nothing_driver.Nothing) -> list[tuple[str, bool]]:
    """Return of each launch whether the driver got its arguments, in the order of the kernel's parameters."""
    found, launch = list[tuple[str, bool]](), prepared.Launch._directly

    def compared(self: Any, *changing: Any) -> None:
        arguments = (*self._fixed, *changing, *self._constants)
        pairs = list(flattened(self._kernel.src.signature.values(), arguments))
        driver.want(len(pairs))
        launch(self, *changing)
        got = [number_of(kind, value) for (kind, _), value in zip(pairs, driver.values(len(pairs)), strict=True)]
        threads = 32 * self._kernel.metadata.num_warps
        is_right = got == [number_of(*pair) for pair in pairs] and driver.shape() == (*self._grid, threads, 1, 1)
        found.append((self._name, is_right))
        # The next one may have fewer.
        driver.want(0)

    prepared.Launch._directly = compared  # type: ignore[method-assign]
    for id in ("CartPole-v1", "Pendulum-v1", "FrozenLake-v1"):
        for name, call in calls(started(id)).items():
            if id != "FrozenLake-v1" or "out=" not in name:
                call()
    prepared.Launch._directly = launch  # type: ignore[method-assign]
    return found


def compiled() -> dict[str, list[str]]:
    """Return the kernels that were loaded by each call: of batches of odd sizes, and rows of any."""
    found: dict[str, list[str]] = {}
    # A parameter that nothing else here has.
    for num_envs in (NUM_ENVS, 1_001, 33):
        for name, call in calls(started("CartPole-v1", num_envs, gravity=9.80667)).items():
            with compilations() as names:
                call()
            found[name] = found.get(name, []) + names
    return found


def told() -> list[str]:
    """Return the names of the kernels that a profiler is told of."""
    env, names = started("CartPole-v1"), list[str]()

    def note(metadata: Any) -> None:
        names.append(metadata.get()["name"])

    knobs.runtime.launch_enter_hook.add(note)
    for name in ("reset", "step", "rollout, random"):
        calls(env)[name]()
    knobs.runtime.launch_enter_hook.remove(note)
    env.reset()
    return names


def on_another_device(driver: nothing_driver.Nothing) -> list[int]:
    """Return the devices that were made current to launch for device 1, and for device 0, which is."""
    env, entered = started("CartPole-v1"), list[int]()
    place: Any = torch.cuda
    place.device = lambda device: entered.append(device.index) or nothing_driver.contextlib.nullcontext()
    for index in (1, 0):
        for launch in env._backend._launches.values():
            launch._device = torch.device("cuda", index)
        env.reset()
    return entered


if __name__ == "__main__":
    driver = nothing_driver.install()
    results = {
        "got": what_the_driver_got(driver),
        "compiled": compiled(),
        "told": told(),
        "entered": on_another_device(driver),
    }
    print(json.dumps({"is_direct": prepared.IS_DIRECT, **results}))
