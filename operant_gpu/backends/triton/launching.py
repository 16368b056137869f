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
from torch import Tensor
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
) -> Any:
    """Launch a kernel on the current stream of a device, or interpret it; return what was compiled, or None.

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
        return None
    with _refused(kernel, device, advice):
        return kernel[grid](*arguments, **constants, **options)


class Repeated:
    """A launch that is made again, with another tensor in one place.

    Triton looks at all arguments of a launch to find what it has compiled for their like: ten times the work of the
    launch. Who calls this knows that the tensor is like the one before.

    Args:
        kernel: Of `kernels/triton`.
        compiled: What a first launch returned.
        grid: How many programs.
        arguments: Of the first launch, with what was compiled in, as the kernel takes them.
        place: Of the tensor among them.
        device: Where they are.
        advice: What to do if it cannot be launched.
    """

    def __init__(
        self,
        kernel: Any,
        compiled: Any,
        grid: tuple[int, ...],
        arguments: tuple[Any, ...],
        place: int,
        device: torch.device,
        advice: str,
    ) -> None:
        self._name, self._device, self._advice = kernel.fn.__name__, device, advice
        self._launch = compiled[(*grid, 1, 1)[:3]]
        self._before, self._after = arguments[:place], arguments[place + 1 :]

    def __call__(self, tensor: Tensor) -> None:
        """Launch on the current stream of the device.

        Raises:
            BackendError: If it cannot be launched.
        """
        try:
            if self._device.index is None or self._device.index == torch.cuda.current_device():
                self._launch(*self._before, tensor, *self._after)
            else:
                with torch.cuda.device(self._device):
                    self._launch(*self._before, tensor, *self._after)
        except REFUSALS as error:
            raise failure(self._name, self._device, error, self._advice) from error


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
    with _refused(kernel, device, advice):
        return kernel.warmup(*arguments, **constants, **options, grid=(1,))


@contextlib.contextmanager
def _refused(kernel: Any, device: torch.device, advice: str) -> Iterator[None]:
    """On a device, raise `BackendError` for what it or the compiler refuses."""
    try:
        with torch.cuda.device(device):
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
            f"found {version}: pip install 'triton>=3.9'"
        )
