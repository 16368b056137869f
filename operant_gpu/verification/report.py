"""What is verified, in which order, and how it is told."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, NamedTuple

import torch
from gymnasium.vector import AutoresetMode

from operant_gpu.backends import compilations
from operant_gpu.backends.failures import KernelError
from operant_gpu.backends.select import backends_of, existing, spelled
from operant_gpu.environment import Definition
from operant_gpu.errors import BackendError, InvalidConfig, one_line
from operant_gpu.machine import machine_name, versions
from operant_gpu.models.contexts import undisturbed
from operant_gpu.registry import find
from operant_gpu.vector import VecEnv
from operant_gpu.verification.comparing import Differs, Inapplicable, Unavailable
from operant_gpu.verification.learning import compare_gradient, compare_network, compare_trainings
from operant_gpu.verification.stepping import compare_replays, compare_rollouts, compare_steps

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
        compilations: How many programs and kernels were compiled for them: of others, earlier processes had left them.
    """

    machine: str
    versions: Mapping[str, str]
    checks: tuple[Check, ...]
    compilations: int = 0

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
        return "\n".join([head, software, *rows, ", ".join([*counts, f"{self.compilations} compilations"])])


def verify(env: VecEnv | Definition | str | None = None, *, device: str | torch.device = "auto") -> Report:
    """Compare what an environment does here with what it should do.

    On a GPU: steps beside the CPU in each auto-reset mode (draws and integers are equal, floats within 256 times the
    spacing of float32 at a component's largest), rollouts beside single steps, a network in a rollout beside PyTorch, a
    gradient step of the fused engine beside autograd, a training beside itself, a CUDA graph beside launches. On a CPU,
    the backend that is the default there, as far as that goes.

    Args:
        env: A definition, an id, or a vector environment: then its definition, parameters and device are meant, and
            it is left as it is. CartPole, Pendulum, Snake and Breakout if None.
        device: As `VecEnv` takes it; "auto" is a GPU if PyTorch sees one.

    Returns:
        The report. What is found wrong does not raise.

    Raises:
        InvalidConfig: If there is no such environment or device.
        BackendError: If the device is not there.
    """
    where, before = _device(env, device), compilations.count()
    checks = tuple(examine(env, where))
    return Report(machine_name(where), versions(), checks, compilations.count() - before)


def examine(env: VecEnv | Definition | str | None = None, device: str | torch.device = "auto") -> Iterator[Check]:
    """Yield the checks of `verify`, each as soon as it was made."""
    where = _device(env, device)
    for one in _USUAL if env is None else (env,):
        yield from _checks(*_definition(one), where)
    if not torch.cuda.is_available():
        yield Check("GPU", SKIPPED, "PyTorch sees no CUDA device: what runs on a GPU is not verified")


def _device(env: object, device: str | torch.device) -> torch.device:
    if isinstance(device, str) and spelled(device) == "auto":
        # A GPU also where an environment would take the CPU beside it, for want of a package: that is to be told.
        device = env.device if isinstance(env, VecEnv) else "cuda" if torch.cuda.is_available() else "cpu"
    return existing(device)


def _definition(env: VecEnv | Definition | str) -> tuple[Definition, Callable[[int], dict[str, Any]]]:
    """Return what is meant, and the parameters of a number of environments."""
    if isinstance(env, VecEnv):
        return env.environment, env.parameters
    definition = find(env) if isinstance(env, str) else env
    if not isinstance(definition, Definition):
        raise InvalidConfig("env", f"expected an Environment, a VecEnv or an id, got {env!r}")
    return definition, lambda num_envs: {}


def _checks(definition: Definition, params: Callable[[int], dict[str, Any]], device: torch.device) -> Iterator[Check]:
    def make(num_envs: int, **settings: Any) -> VecEnv:
        return VecEnv(definition, num_envs, params=params(num_envs), **{"device": device, **settings})

    plain = backends_of(definition)[-1]
    try:
        with _as_usual(device):
            backend = make(1).backend
    except Exception as error:
        # What is missing cannot be verified; what is there and does not work is wrong.
        is_missing = isinstance(error, BackendError) and not isinstance(error, KernelError)
        yield Check(f"{definition.id}: backend", SKIPPED if is_missing else FAILED, _told(error))
        return
    checks: dict[str, Callable[[], str]] = {}
    if backend != plain:
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
            yield _made(f"{definition.id}: {name}", check, device)


def _made(name: str, check: Callable[[], str], device: torch.device) -> Check:
    began = time.perf_counter()
    try:
        with _as_usual(device):
            state, text = OK, check()
    except Inapplicable:
        raise
    except Exception as error:
        state, text = SKIPPED if isinstance(error, Unavailable) else FAILED, _told(error)
    return Check(name, state, text, time.perf_counter() - began)


def _told(error: Exception) -> str:
    ours = isinstance(error, BackendError | Differs | Unavailable)
    return one_line(error) if ours else f"{type(error).__name__}: {one_line(error)}"


@contextlib.contextmanager
def _as_usual(device: torch.device) -> Iterator[None]:
    """Check the same whatever is set in PyTorch, and leave that and its random numbers as they are."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.device("cpu"),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
            undisturbed(device),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)
