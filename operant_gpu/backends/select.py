"""The backends, and which device and which of them a vector environment runs on."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import NamedTuple

import torch

from operant_gpu.backends import rows, threads
from operant_gpu.backends.base import Backend, Batch
from operant_gpu.backends.lowering.trial import Trial
from operant_gpu.cuda_environment import CudaEnvironment
from operant_gpu.environment import Definition, Environment
from operant_gpu.errors import BackendError, InvalidConfig, Lack, needed, one_of


class Entry(NamedTuple):
    """What is known of a backend beside its class, which is in `backends/<name>/backend.py`.

    Attributes:
        runs: The kind of definitions whose functions it runs.
        package: A module that not every installation has, of `errors.EXTRAS`, and the backend to use without it.
        on_gpu: Whether it is for CUDA devices, and not for the CPU.
        has_arrays: Whether it runs environments with arrays in their state.
        stores_rows: Whether it wants an environment's observation side by side in memory.
        learner: The folder of backends whose `update.py` takes gradient steps where it runs.
    """

    runs: type[Definition]
    package: tuple[str, str] | None = None
    on_gpu: bool = False
    has_arrays: bool = True
    stores_rows: bool = False
    learner: str = "cpp"


# Of each kind the GPU's first, then the CPU's, the fastest first; the last needs nothing that may be missing.
BACKENDS = {
    "triton": Entry(Environment, ("triton.language", "numpy"), on_gpu=True, learner="triton"),
    # Its programs have one number of each environment in each variable.
    "numba": Entry(Environment, ("numba", "numpy"), has_arrays=False),
    "numpy": Entry(Environment),
    "cuda": Entry(CudaEnvironment, ("cupy", "cpp"), on_gpu=True, learner="triton"),
    "cpp": Entry(CudaEnvironment, stores_rows=True),
}

# Here, since all of them use PyTorch's threads, in the library's own operations or in those around them.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=threads.begin_anew)


def backends_of(definition: Definition, has_arrays: bool = False) -> list[str]:
    """Return the backends that run an environment, the GPU's first."""
    entries = BACKENDS.items()
    return [name for name, one in entries if isinstance(definition, one.runs) and (one.has_arrays or not has_arrays)]


def resolve(
    environment: Definition, trial: Trial, device: str | torch.device, backend: str
) -> tuple[torch.device, str]:
    """Return the device, with its index, and the name of the backend that the arguments of `VecEnv` mean.

    Raises:
        UnsupportedConstruct: If the environment's functions are for another backend alone.
        InvalidConfig: If a name is unknown.
        BackendError: If the device or backend is missing here, or the two do not fit.
    """
    has_arrays = trial.width > 1
    on_gpu, *on_cpu = known = backends_of(environment, has_arrays)
    kind = f"{type(environment).__name__}s{' with arrays' if has_arrays else ''}"
    backend = one_of("backend", backend, ("auto", *known), f" for {kind}")
    device = spelled(device)
    if isinstance(device, str) and device == "auto":
        device = "cuda" if backend in ("auto", on_gpu) and has_gpu(environment) else "cpu"
    resolved = existing(device)
    if backend == "auto":
        backend = on_gpu if resolved.type == "cuda" else next(name for name in on_cpu if not _missing(name))
    if backend != on_gpu and resolved.type != "cpu":
        raise BackendError(f"the {backend} backend needs device='cpu', got {resolved}: use backend={on_gpu!r} there")
    if missing := _missing(backend):
        raise BackendError(missing)
    if backend == on_gpu and resolved.type == "cpu":
        _check_interpreter(backend, on_cpu[-1])
    if trial.refusal is not None and backend != on_gpu:
        raise trial.refusal
    return resolved, backend


def why_slower(environment: Definition, trial: Trial, device: str | torch.device, name: str) -> str | None:
    """Return why `backend="auto"` took this one, and none that is faster on the device that was asked for, or None."""
    on_gpu, *on_cpu = backends_of(environment)
    faster = [] if name == on_gpu else on_cpu[: on_cpu.index(name)]
    if name != on_gpu and spelled(device) == "auto" and torch.cuda.is_available():
        faster.insert(0, on_gpu)
    for one in faster:
        boards = "it runs no environments with arrays" if trial.width > 1 and not BACKENDS[one].has_arrays else None
        if reason := boards or _missing(one):
            return type(reason)(f"the {name} backend steps the environments, and not {one}: {reason}")
    return None


def has_gpu(environment: Definition) -> bool:
    """Tell whether there is a GPU, and what runs the environment there: whether the device "auto" stands for it."""
    return torch.cuda.is_available() and not _missing(backends_of(environment)[0])


def create(name: str, batch: Batch) -> Backend:
    """Return the backend of this name for a batch."""
    module = importlib.import_module(f"operant_gpu.backends.{name}.backend")
    backend: Backend = getattr(module, f"{name.capitalize()}Backend")(batch)
    return backend


@functools.cache
def row_copier(name: str) -> Callable[..., None]:
    """Return the function that copies rows of the environments that a backend steps, `backends.rows.copy_rows`.

    Raises:
        BackendError: If it needs Triton, on a GPU where that is missing.
    """
    if not BACKENDS[name].on_gpu:
        return rows.copy_rows
    needed("copying environments on a GPU", "triton.language", ", or use device='cpu'")
    copy: Callable[..., None] = importlib.import_module("operant_gpu.backends.triton.rows").copy_rows
    return copy


def spelled(device: str | torch.device) -> str | torch.device:
    """Return a device as PyTorch spells it, which does not know "CUDA:0"."""
    return device.strip().lower() if isinstance(device, str) else device


def existing(device: str | torch.device) -> torch.device:
    """Return a device of this machine, with its index.

    Raises:
        InvalidConfig: If it is none that environments can be on.
        BackendError: If it is not there.
    """
    try:
        resolved = torch.device(spelled(device))
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidConfig("device", f"expected 'auto', 'cpu', 'cuda' or 'cuda:<index>', got {device!r}") from error
    if resolved.type == "cpu":
        return torch.device("cpu")
    if resolved.type != "cuda":
        raise InvalidConfig("device", f"expected 'auto', 'cpu', 'cuda' or 'cuda:<index>', got {device!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = resolved.index if resolved.index is not None else torch.cuda.current_device() if count else 0
    if index >= count:
        advice = 'use device="cpu" (on the command line: --device cpu), or run `operant-gpu doctor` to see why'
        raise BackendError(f"{resolved} is not there: torch {torch.__version__} sees {count} CUDA devices; {advice}")
    return torch.device("cuda", index)


@functools.cache
def _missing(backend: str) -> Lack | None:
    """Return what the backend needs and does not find here, with what to do; None if nothing is missing."""
    package = BACKENDS[backend].package
    try:
        if package is not None:
            # It may also be too old for what is beside it.
            needed(f"the {backend} backend", package[0], f", or use backend={package[1]!r}")
    except BackendError as error:
        return Lack(error)
    return None


def _check_interpreter(backend: str, other: str) -> None:
    """Raise where a GPU's backend has no way to run on a CPU."""
    advice = f"use backend={other!r}"
    if backend == "triton":
        from operant_gpu.backends.triton import launching

        if launching.takes_host:
            return
        advice += ", or set TRITON_INTERPRET=1 before the first import to run the kernels in Triton's interpreter"
    raise BackendError(f"the {backend} backend needs a CUDA device: {advice}")
