"""What this machine has for the library, what is missing, and how to get it."""

from __future__ import annotations

import functools
import importlib
import platform
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from operant_gpu.backends.select import backends_of
from operant_gpu.errors import EXTRAS, OperantError, installation
from operant_gpu.machine import cpu_name, version_of
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.registry import find, make

# An environment in each language, to try its backends with.
_TRIED = ("CartPole-v1", "MinAtar-Breakout-v1")


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: What.
        state: "ok", "missing" (something is slower or not to be had without it) or "broken".
        text: What was found, or what it would be for.
        advice: What to do, with the command; empty if nothing.
    """

    name: str
    state: str
    text: str
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Look at packages, driver and GPUs, and try each backend and the fused engine; some are compiled for that."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("cpu", "ok", f"{cpu_name()}, {torch.get_num_threads()} threads")
    driver = _driver()
    yield driver
    yield _torch(driver.state == "ok")
    for module, (_, name, purpose) in EXTRAS.items():
        yield _package(module, name, purpose)
    for environment in _TRIED:
        for backend in backends_of(find(environment)):
            yield _try(f"backend {backend}", functools.partial(_step, environment, backend))
    yield _try("fused engine", _train)


def _driver() -> Finding:
    try:
        import pynvml
    except ImportError:
        advice = f"{installation('pynvml')}, where there is an NVIDIA GPU"
        return Finding("driver", "missing", "cannot be looked for without nvidia-ml-py", advice)
    try:
        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetDriverVersion()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        names = ", ".join(pynvml.nvmlDeviceGetName(handle) for handle in handles)
        return Finding("driver", "ok", f"NVIDIA {version}: {names}")
    except pynvml.NVMLError as error:
        advice = "with an NVIDIA GPU, install its driver (nvidia.com/drivers); without one, all runs on the CPU"
        return Finding("driver", "missing", f"no NVIDIA driver: {error}", advice)


def _torch(has_driver: bool) -> Finding:
    version = torch.__version__
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Finding("torch", "ok", f"{version}, CUDA {torch.version.cuda}: {names}")
    if not has_driver:
        return Finding("torch", "ok", f"{version}, on the CPU")
    advice = "pip install --force-reinstall torch (pytorch.org/get-started has the command for each driver)"
    return Finding("torch", "broken", f"{version} does not see the GPU that the driver has", advice)


def _package(module: str, name: str, purpose: str) -> Finding:
    try:
        importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            return Finding(name, "missing", purpose, installation(module))
        return Finding(name, "broken", f"{type(error).__name__}: {error}", f"pip install --force-reinstall {name}")
    return Finding(name, "ok", version_of(name) or "")


def _try(name: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(name, "ok", attempt())
    except OperantError as error:
        what, _, advice = str(error).partition(": ")
        return Finding(name, "missing", what, advice)
    except Exception as error:
        return Finding(name, "broken", f"{type(error).__name__}: {error}", "please report this, with the above")


def _step(environment: str, backend: str) -> str:
    env = make(environment, 64, backend=backend)
    env.reset(seed=0)
    env.rollout(8)
    return f"ran {environment} on {env.device}"


def _train() -> str:
    config = PPOConfig(num_envs=64, n_steps=8, engine="fused")
    learner = PPO(make("CartPole-v1", config.num_envs), config)
    learner.learn(config.n_steps * config.num_envs)
    return learner.engine_reason
