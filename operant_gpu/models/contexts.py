"""What is around a call: contexts of PyTorch that the caller has open, and PyTorch's own generators."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Compute with gradients and in float32, whatever contexts the caller has open.

    What inference mode allocates could not be learned with later. Autocast keeps copies of the first weights that it
    sees, for as long as it is open.
    """
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as contexts:
        contexts.enter_context(torch.inference_mode(False))
        contexts.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                contexts.enter_context(torch.autocast(device, enabled=False))
        if dtype is not torch.float32:
            torch.set_default_dtype(torch.float32)
            contexts.callback(torch.set_default_dtype, dtype)
        yield


def undisturbed(device: torch.device) -> AbstractContextManager[None]:
    """Keep the states of PyTorch's own generators, from which networks of the caller's own may draw."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])
