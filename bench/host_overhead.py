"""Measure what steps, resets and rollouts on a GPU cost the host, part by part: nothing here computes.

    python bench/host_overhead.py [--num-envs 64] [--repeats 7] [--seconds 0.2]

Triton's real launchers run above a driver that does nothing (tests/support/nothing_driver.py), so this needs no GPU.
What stands for PyTorch's look at the current device and stream is a function of the same kind. Beside it stands a step
of Gymnasium's vector environment, which computes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from machine import describe, write
from page import table

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
import nothing_driver  # type: ignore[import-not-found]

import operant_gpu
from operant_gpu.backends.triton import prepared
from operant_gpu.cli.timing import Contender, race
from operant_gpu.models import MLPPolicy, PPOConfig

STEPS = 32
OUT = ("obs", "reward", "terminated", "truncated")


@dataclass(frozen=True)
class Settings:
    """Measure what steps, resets and rollouts on a GPU cost the host."""

    num_envs: int = 64
    """CartPoles."""
    repeats: int = 7
    """Measurements of each part, in turns."""
    seconds: float = 0.2
    """About how long one takes."""
    json: Path | None = None
    """Where to write the result; bench/results/host-overhead.json if not given."""


class Nothing:
    """A backend that does nothing."""

    reset = step = rollout = staticmethod(lambda *_: None)


def parts(num_envs: int) -> dict[str, Callable[[], Any]]:
    """Return what is measured, by name."""
    launched, bare = (operant_gpu.make("CartPole-v1", num_envs, device="cpu", backend="triton") for _ in range(2))
    for env in (launched, bare):
        env.reset(seed=0)
    bare._backend = Nothing()
    actions = torch.zeros(num_envs, dtype=torch.int64)
    out = stored(launched, None, OUT)
    rows = {name: tensor[0] for name, tensor in out.items()}
    policy = MLPPolicy(launched.single_observation_space, launched.single_action_space, PPOConfig())
    names = (*OUT, "policy_action", "log_prob", "value", "final_value")
    drawn = stored(launched, policy, names)
    peer = gymnasium.make_vec("CartPole-v1", num_envs, vectorization_mode="vector_entry_point")
    peer.reset(seed=0)
    taken = np.zeros(num_envs, dtype=np.int64)
    return {
        "step, with a backend that does nothing": lambda: bare.step(actions),
        "step with out=, likewise": lambda: bare.step(actions, out=rows),
        "rollout of given tensors, likewise": lambda: bare.rollout(STEPS, out=out),
        "the step's launch by Triton": triton_launch(launched, actions),
        "the step's launch, prepared": lambda: launched._backend.step(actions, launched._outputs),
        "current device and stream": lambda: (nothing_driver.current_device(), abs(0)),
        "step": lambda: launched.step(actions),
        "step with out=": lambda: launched.step(actions, out=rows),
        "reset": lambda: launched.reset(),
        "rollout, nothing stored": lambda: launched.rollout(STEPS),
        "rollout of given tensors": lambda: launched.rollout(STEPS, out=out),
        "rollout with a network, of given tensors": lambda: launched.rollout(STEPS, policy, out=drawn),
        "Gymnasium's CartPoleVectorEnv.step, which computes": lambda: peer.step(taken),
    }


def stored(env: Any, policy: Any, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Return tensors for a rollout to write."""
    stored: dict[str, torch.Tensor] = env.rollout(STEPS, "random" if policy is None else policy, out=names)
    return stored


def triton_launch(env: Any, actions: torch.Tensor) -> Callable[[], Any]:
    """Return the same launch by `kernel[grid]`, which looks at each argument."""
    prepared.IS_DIRECT, address = False, prepared.address
    prepared.address = lambda tensor: tensor
    plain = operant_gpu.make("CartPole-v1", env.num_envs, device="cpu", backend="triton")
    plain.reset(seed=0)
    plain.step(actions)
    prepared.IS_DIRECT, prepared.address = True, address
    backend: Any = plain._backend
    (launch,) = (launch for key, launch in backend._launches.items() if key[0] == "step")
    own = backend._own
    return lambda: launch(actions, actions.stride(), own.addresses, own.strides)


def main(settings: Settings) -> None:
    """Measure, print a table and write the result."""
    torch.set_num_threads(1)
    nothing_driver.install()
    contenders = [Contender(name, functools.partial(called, call)) for name, call in parts(settings.num_envs).items()]
    rows = race(contenders, settings.repeats, settings.seconds)
    report = {**describe(("torch", "triton", "gymnasium", "numpy")), "num_envs": settings.num_envs, "rows": rows}
    print(tabled(rows))
    print(write(report, settings.json, "host-overhead"))


def called(call: Callable[[], Any], _: int) -> Any:
    """Call, whatever the number of the call."""
    return call()


def tabled(rows: list[dict[str, Any]]) -> str:
    """Return a table of microseconds."""
    cells = [(row["contender"], f"{row['seconds_per_call'] * 1e6:.1f}", f"{1e6 / row['fastest']:.1f}") for row in rows]
    return table(("part", "us", "least"), cells)


if __name__ == "__main__":
    main(tyro.cli(Settings))
