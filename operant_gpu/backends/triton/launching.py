"""How kernels are launched: on a GPU, or in Triton's interpreter, and what is said where that fails."""

from __future__ import annotations

import functools
import subprocess
from typing import Any

import numpy as np
import torch
import triton
from triton.errors import TritonError

from operant_gpu.backends.failures import failure
from operant_gpu.errors import BackendError
from operant_gpu.kernels.triton.step import step_kernel

# How Triton, its compilers and the driver say that they cannot.
REFUSALS = (RuntimeError, TritonError, subprocess.SubprocessError, OSError)

# Whether TRITON_INTERPRET was set when the kernels were decorated: they then run on the CPU.
INTERPRETED = not isinstance(step_kernel, triton.JITFunction)


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
    try:
        with torch.cuda.device(device):
            kernel[grid](*arguments, **constants, **options)
    except REFUSALS as error:
        raise failure(kernel.fn.__name__, device, error, advice) from error


@functools.cache
def check_compiler(capability: tuple[int, int], version: str) -> None:
    """Raise `BackendError` where Triton miscompiles networks: up to 3.7 at the least, for compute capability 10."""
    if capability[0] == 10 and tuple(map(int, version.split(".")[:2])) < (3, 9):
        raise BackendError(
            "networks in rollouts on a device of compute capability 10 need Triton 3.9 or newer, "
            f"found {version}: pip install 'triton>=3.9'"
        )
