"""What is verified, in which order, and how it is told."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import NamedTuple

import torch
from gymnasium.vector import AutoresetMode

from operant_gpu.cuda_environment import CudaEnvironment
from operant_gpu.environment import Definition
from operant_gpu.errors import BackendError, InvalidConfig, one_line
from operant_gpu.machine import machine_name, versions
from operant_gpu.registry import find
from operant_gpu.vector import VecEnv
from operant_gpu.verification.comparing import Differs, Inapplicable, Unavailable
from operant_gpu.verification.learning import compare_gradient, compare_network, compare_trainings
from operant_gpu.verification.stepping import Maker, compare_replays, compare_rollouts, compare_steps

OK, FAILED, SKIPPED = "ok", "failed", "skipped"
# Floats, a Box, boards, CUDA C++.
_USUAL = ("CartPole-v1", "Pendulum-v1", "Snake-v0", "MinAtar-Breakout-v1")


class Check(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: Of the environment, and what of it.
        state: "ok", "failed", or "skipped" for what cannot be verified here.
        text: What was compared, and how near it was; else what came and what was expected, or what is missing.
        seconds: How long that took, compilation included.
    """

    name: str
    state: str
    text: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """What was verified, and on what. Its string can be pasted into a report of a fault.

    Attributes:
        machine: Name of the GPU, else of the CPU.
        versions: Of Python, this library and what it builds on.
        checks: In order.
    """

    machine: str
    versions: Mapping[str, str]
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(check.state != FAILED for check in self.checks)

    @property
    def complete(self) -> bool:
        """Whether there was nothing that cannot be verified here."""
        return all(check.state != SKIPPED for check in self.checks)

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        rows = [f"{one.state:8}{one.name:{width}} {one.seconds:5.1f} s  {one.text}" for one in self.checks]
        counts = [f"{sum(one.state == state for one in self.checks)} {state}" for state in (OK, FAILED, SKIPPED)]
        software = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        head = f"Verified on {self.machine}, {datetime.now(timezone.utc).date()}"
        return "\n".join([head, software, *rows, ", ".join(counts)])


def verify(env: VecEnv | Definition | str | None = None, *, device: str | torch.device = "auto") -> Report:
    """Compare what an environment does here with what it should do.

    On a GPU: steps beside the CPU in each auto-reset mode (draws and integers are equal, floats within 256 times the
    spacing of float32 at the largest number), rollouts beside single steps, a network in a rollout beside PyTorch, a
    gradient step of the fused engine beside autograd, a training beside itself, a CUDA graph beside launches. On a CPU,
    the backend that is the default there, as far as that goes.

    Args:
        env: A definition, an id, or a vector environment: then its definition, parameters and device are meant, and
            it is left as it is. CartPole, Pendulum, Snake and Breakout if None.
        device: As `VecEnv` takes it.

    Returns:
        The report. What is found wrong does not raise.

    Raises:
        InvalidConfig: If there is no such environment or device.
    """
    checks = tuple(examine(env, device))
    return Report(machine_name(None if device == "auto" else torch.device(device)), versions(), checks)


def examine(env: VecEnv | Definition | str | None = None, device: str | torch.device = "auto") -> Iterator[Check]:
    """Yield the checks of `verify`, each as soon as it was made."""
    for make in [_maker(one, device) for one in (_USUAL if env is None else (env,))]:
        yield from _checks(make)
    if not torch.cuda.is_available():
        yield Check("GPU", SKIPPED, "PyTorch sees no CUDA device: what runs on a GPU is not verified")


def _maker(env: VecEnv | Definition | str, device: str | torch.device) -> Maker:
    """Return what makes vector environments of a definition."""
    params = {}
    if isinstance(env, VecEnv):
        definition, params, device = env.environment, env.params._asdict(), env.device
    else:
        definition = find(env) if isinstance(env, str) else env
    if not isinstance(definition, Definition):
        raise InvalidConfig("env", f"expected an Environment, a VecEnv or an id, got {env!r}")

    def make(num_envs: int, **settings: object) -> VecEnv:
        return VecEnv(definition, num_envs, params=params, **{"device": device, **settings})  # type: ignore[arg-type]

    return make


def _checks(make: Maker) -> Iterator[Check]:
    try:
        env = make(1)
    except BackendError as error:
        yield Check("backend", SKIPPED, one_line(error))
        return
    plain = "cpp" if isinstance(env.environment, CudaEnvironment) else "numpy"
    checks: dict[str, Callable[[], str]] = {}
    if env.backend != plain:
        for mode in AutoresetMode:
            name = f"step kernel beside {plain}, {mode.name}"
            checks[name] = functools.partial(compare_steps, make, plain, mode)
    for mode in AutoresetMode:
        name = f"rollout kernel beside single steps, {mode.name}"
        checks[name] = functools.partial(compare_rollouts, make, mode)
    checks["network in a rollout beside PyTorch"] = functools.partial(compare_network, make)
    for precision in ("ieee", "tf32"):
        name = f"gradient kernel beside autograd, {precision}"
        checks[name] = functools.partial(compare_gradient, make, precision)
    checks["training beside itself"] = functools.partial(compare_trainings, make)
    checks["graph of the step kernel beside launches"] = functools.partial(compare_replays, make)
    for name, check in checks.items():
        with contextlib.suppress(Inapplicable):
            yield _made(f"{env.environment.id}: {name}", check)


def _made(name: str, check: Callable[[], str]) -> Check:
    began = time.perf_counter()
    try:
        state, text = OK, check()
    except Inapplicable:
        raise
    except Unavailable as error:
        state, text = SKIPPED, str(error)
    except Differs as error:
        state, text = FAILED, str(error)
    except Exception as error:
        state, text = FAILED, f"{type(error).__name__}: {one_line(error)}"
    return Check(name, state, text, time.perf_counter() - began)
