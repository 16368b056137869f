"""How kernels are launched: on a GPU, or in Triton's interpreter, and what is said where that fails."""

from __future__ import annotations

import contextlib
import functools
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import triton
from triton.errors import TritonError

from operant_gpu.backends.compilations import note, told
from operant_gpu.backends.failures import failure
from operant_gpu.backends.triton import ahead
from operant_gpu.errors import BackendError
from operant_gpu.kernels.triton.step import step_kernel
from operant_gpu.machine import machine_name

# How Triton, its compilers and the driver say that they cannot.
REFUSALS = (RuntimeError, TritonError, subprocess.SubprocessError, OSError)

ahead.use_shipped()


def _count(*, src: Any, cache_hit: bool, **others: Any) -> None:
    """Count the library's kernels that Triton compiles, and pass on what others want to know."""
    if not cache_hit and getattr(src.fn, "__module__", "").startswith("operant_gpu."):
        note()
    if _listener is not None:
        _listener(src=src, cache_hit=cache_hit, **others)


_listener = triton.knobs.compilation.listener
triton.knobs.compilation.listener = _count

# Whether TRITON_INTERPRET was set when the kernels were decorated: they then run on the CPU.
INTERPRETED = not isinstance(step_kernel, triton.JITFunction)
# Whether kernels take tensors in the host's memory: interpreted, or for a device that is not here (`ahead.py`).
takes_host = INTERPRETED


def target_name(device: torch.device) -> str:
    """Return the name of a GPU, or the compute capability of one that is not here."""
    return (
        machine_name(device)
        if device.type == "cuda"
        else f"sm_{triton.runtime.driver.active.get_current_target().arch}"
    )


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    arguments: tuple[Any, ...],
    constants: dict[str, Any],
    device: torch.device,
    options: dict[str, Any],
    advice: str,
) -> None:
    """Launch a kernel on the current stream of a device, or interpret it.

    Args:
        kernel: Of `kernels/triton`.
        grid: How many programs.
        arguments: What it reads and writes.
        constants: What is compiled in.
        device: Where the arguments are.
        options: Of the compiler.
        advice: What to do if it cannot be launched.

    Raises:
        BackendError: If it cannot be launched.
    """
    if INTERPRETED:
        # The interpreter is NumPy, which warns of what the rows beyond the last one compute from zeros.
        with np.errstate(all="ignore"):
            kernel[grid](*arguments, **constants)
        return
    with told(kernel.fn.__name__, functools.partial(target_name, device)), refused(kernel, device, advice):
        kernel[grid](*arguments, **constants, **options)


def compiled(
    kernel: Any,
    arguments: tuple[Any, ...],
    constants: dict[str, Any],
    device: torch.device,
    options: dict[str, Any],
    advice: str,
) -> Any:
    """Return what the compiler makes of a kernel for a device, as a launch with these arguments would have it.

    Raises:
        BackendError: If it cannot be compiled.
    """
    with refused(kernel, device, advice):
        return kernel.warmup(*arguments, **constants, **options, grid=(1,))


@contextlib.contextmanager
def refused(kernel: Any, device: torch.device, advice: str) -> Iterator[None]:
    """On a device, raise `BackendError` for what it or the compiler refuses."""
    try:
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            yield
    except REFUSALS as error:
        raise failure(kernel.fn.__name__, device, error, advice) from error


@functools.cache
def check_compiler(capability: tuple[int, int], version: str) -> None:
    """Raise `BackendError` where networks cannot be compiled.

    Triton up to 3.7 at the least miscompiles them for compute capability 10, and before 7.5 there is no instruction for
    their hyperbolic tangents.
    """
    if capability < (7, 5):
        found = ".".join(map(str, capability))
        raise BackendError(
            f"networks in rollouts need a device of compute capability 7.5 or newer, found {found}: "
            "let PyTorch evaluate them step by step (engine='graph'), or use device='cpu'"
        )
    if capability[0] == 10 and tuple(map(int, version.split(".")[:2])) < (3, 9):
        raise BackendError(
            "networks in rollouts on a device of compute capability 10 need Triton 3.9 or newer, "
            f'found {version}: pip install "triton>=3.9"'
        )
