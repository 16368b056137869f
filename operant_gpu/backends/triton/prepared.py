"""Launches that are prepared once and made many times, and all that they need of Triton's that is not public.

Triton looks at every argument of a launch, to find what it has compiled for their like: ten times the work of the
launch itself. With a release that is not among `KNOWN` it still does so, in `launching.launch`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

from operant_gpu.backends.failures import failure
from operant_gpu.backends.triton.launching import INTERPRETED, REFUSALS, compiled, launch, refused

# The first and the last release whose compiled kernels are known to be launched as here.
KNOWN = (3, 6), (3, 9)
IS_DIRECT = not INTERPRETED and KNOWN[0] <= tuple(map(int, triton.__version__.split(".")[:2])) <= KNOWN[1]

_KNOBS: Any = triton.knobs.runtime
# What a launch takes for a tensor. Triton would ask the tensor for its address, and then the driver whether it is one.
address: Callable[[Tensor], Any] = Tensor.data_ptr if IS_DIRECT else lambda tensor: tensor
# Numbers that Triton compiles nothing of their own for, by their bits.
_INTEGERS = {32: 7, 64: 2**31 + 7}


def width(number: int | None) -> int | None:
    """Return for how many bits of an integer a kernel is compiled; 1 for the number 1, which is compiled in."""
    return number if number is None or number == 1 else 32 if number < 2**31 else 64


# Once for all tensors that lie alike.
@functools.lru_cache(1024)
def widths(strides: tuple[int, ...] | None) -> tuple[int | None, ...] | None:
    """Return those of a tensor's strides."""
    return None if strides is None else tuple(map(width, strides))


def like(value: Any) -> Any:
    """Return an example for `Launch` of all that is like a value: of its dtype, or its width."""
    if isinstance(value, Tensor):
        # No multiple of 16, as Triton knows most tensors to be.
        return torch.empty(2, dtype=value.dtype, device=value.device)[1:]
    if isinstance(value, tuple):
        return _mapped(like, value)
    return _INTEGERS.get(width(value) or 0, value)


def form(value: Any) -> Any:
    """Return what a kernel is compiled for of a value: a tensor's dtype, the width of a number."""
    if isinstance(value, Tensor):
        return value.dtype
    return _mapped(form, value) if isinstance(value, tuple) else width(value)


def addressed(value: Any) -> Any:
    """Return an argument with the `address` of each tensor in its place."""
    return address(value) if isinstance(value, Tensor) else _mapped(addressed, value)


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Return the members of a tuple under a function, as what it was; what is no tuple stays."""
    if not isinstance(value, tuple):
        return value
    members = map(function, value)
    return value._make(members) if hasattr(value, "_make") else tuple(members)


class Launch:
    """A kernel that is launched again and again, with other values of its last arguments.

    Args:
        kernel: Of `kernels/triton`.
        grid: How many programs.
        fixed: The first arguments, which stay.
        example: Those that change: it is compiled for what is `like` these.
        constants: What is compiled in, in the order of the kernel's parameters.
        device: Where the arguments are.
        options: Of the compiler.
        advice: What to do if it cannot be launched.

    Raises:
        BackendError: If it cannot be compiled or loaded.
    """

    def __init__(
        self,
        kernel: Any,
        grid: tuple[int, ...],
        fixed: tuple[Any, ...],
        example: tuple[Any, ...],
        constants: dict[str, Any],
        device: torch.device,
        options: dict[str, Any],
        advice: str,
    ) -> None:
        self._name, self._device, self._advice = kernel.fn.__name__, device, advice
        if not IS_DIRECT:
            how = constants, device, options, advice
            self._launch: Callable[..., None] = lambda *changing: launch(kernel, grid, (*fixed, *changing), *how)
            return
        self._kernel = compiled(kernel, (*fixed, *example), constants, device, options, advice)
        self._grid = (*grid, 1, 1)[:3]
        self._fixed, self._constants = addressed(fixed), tuple(constants.values())
        with refused(kernel, device, advice):
            # Loads it, and compiles what passes arguments to it.
            self._run = self._kernel.run
            driver: Any = triton.runtime.driver.active
            self._stream, self._place = driver.get_current_stream, driver.get_current_device()
        # Without hooks, and what is for them.
        self._loaded = self._kernel.function, self._kernel.packed_metadata, None, None, None
        self._launch = self._directly

    def __call__(self, *changing: Any) -> None:
        """Launch on the current stream of the device.

        Args:
            changing: The last arguments, with the `address` of each tensor in its place.

        Raises:
            BackendError: If it cannot be launched.
        """
        try:
            if self._device.index is None or self._device.index == torch.cuda.current_device():
                self._launch(*changing)
            else:
                with torch.cuda.device(self._device):
                    self._launch(*changing)
        except REFUSALS as error:
            raise failure(self._name, self._device, error, self._advice) from error

    def _directly(self, *changing: Any) -> None:
        if _KNOBS.launch_enter_hook.calls or _KNOBS.launch_exit_hook.calls:
            # A profiler is told of each launch, and of what.
            self._kernel[self._grid](*self._fixed, *changing, *self._constants)
            return
        stream = self._stream(self._place)
        self._run(*self._grid, stream, *self._loaded, *self._fixed, *changing, *self._constants)
