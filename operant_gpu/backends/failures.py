"""What to say of a kernel that a device does not take."""

from __future__ import annotations

import textwrap

import torch

from operant_gpu.errors import BackendError, one_line
from operant_gpu.machine import machine_name, versions

_LONGEST = 500


class KernelError(BackendError):
    """A kernel that a device does not take, where nothing is missing."""


def failure(kernel: str, device: torch.device, error: Exception, way_round: str) -> KernelError:
    """Return the error of a kernel that could not be compiled, loaded or launched.

    Launches do not wait, so what is said may also be of a kernel before it.

    Args:
        kernel: Its name.
        device: Where to.
        error: What the compiler or the driver says.
        way_round: What does the same without it.
    """
    card, software = machine_name(device), ", ".join(f"{name} {version}" for name, version in versions().items())
    # Compilers complain of each line.
    said = textwrap.shorten(one_line(error), _LONGEST, placeholder=" ...")
    what = f"{kernel} does not compile or run on {card} ({software}): {type(error).__name__}: {said}"
    return KernelError(f"{what}; until that is mended, {way_round}; `operant-gpu doctor --verify` tells what works")
