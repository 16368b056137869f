"""What this machine has for the library, what is missing, and how to get it."""

from __future__ import annotations

import functools
import importlib
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from operant_gpu.backends.select import backends_of
from operant_gpu.errors import EXTRAS, OperantError, installation, one_line
from operant_gpu.machine import cpu_name, version_of
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.registry import find, make

# An environment in each language, to try its backends with.
_TRIED = ("CartPole-v1", "MinAtar-Breakout-v1")
# What only a machine with an NVIDIA GPU has a use for.
_OF_GPUS = {"triton", "cupy", "pynvml", "backend triton", "backend cuda"}
_WITHOUT_A_GPU = "not needed without an NVIDIA GPU"
_REPORT = "see 'Reporting a bug' in docs/troubleshooting.md"


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: What.
        state: "ok", "missing" (something is slower or not to be had without it), "optional" (this machine does not need
            it) or "broken".
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
    has_gpu = driver.state == "ok" or torch.cuda.is_available()
    for module, (_, name, purpose) in EXTRAS.items():
        yield _needed(_package(module, name, purpose), module, has_gpu)
    for environment in _TRIED:
        for backend in backends_of(find(environment)):
            name = f"backend {backend}"
            yield _needed(_try(name, functools.partial(_step, environment, backend)), name, has_gpu)
    yield _try("fused engine", _train)


def verdict(findings: Sequence[Finding]) -> str:
    """Return in a sentence or two whether the library can be used here."""
    broken, missing = (
        ", ".join(finding.name for finding in findings if finding.state == state) for state in ("broken", "missing")
    )
    if broken:
        return f"Not ready: {broken}. Do what the last column says, and run this again."
    where = "the GPU" if torch.cuda.is_available() else "the CPU"
    if missing:
        return f"Ready on {where}. Without these, something is slower or does not work: {missing}."
    return f"Ready on {where}. Nothing that it needs is missing."


def _needed(finding: Finding, what: str, has_gpu: bool) -> Finding:
    """Return a finding that is optional, if what is missing is not needed here or only adds to the library."""
    if finding.state != "missing":
        return finding
    if what in _OF_GPUS:
        return finding if has_gpu else finding._replace(state="optional", advice=_WITHOUT_A_GPU)
    adds = what in EXTRAS and EXTRAS[what][0] in ("render", "export", "wandb")
    return finding._replace(state="optional") if adds else finding


def _driver() -> Finding:
    """Ask the program that comes with each NVIDIA driver: it needs no package."""
    install = "install NVIDIA's driver (nvidia.com/drivers)"
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except FileNotFoundError:
        return Finding("driver", "optional", "no NVIDIA driver", f"if there is an NVIDIA GPU: {install}")
    except subprocess.CalledProcessError as error:
        return Finding("driver", "missing", f"nvidia-smi: {' '.join((error.stdout + error.stderr).split())}", install)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("driver", "missing", f"nvidia-smi: {one_line(error)}", install)
    return Finding("driver", "ok", "; ".join(done.stdout.splitlines()))


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
        return Finding(name, "broken", f"{type(error).__name__}: {error}", _REPORT)


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
