"""Launch kernels with the executor for a GPU and a compiler that refuses all; print the errors as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
import triton
from ptx_executor.cuda_on_host import pretend
from ptx_executor.operant import install
from triton.runtime.errors import OutOfResources

import operant_gpu
from operant_gpu.backends.triton import launching
from operant_gpu.backends.triton.update import estimate_advantages


def refuse(*arguments: Any, **named: Any) -> None:
    raise OutOfResources(200_000, 101_376, "shared memory")


def refusal(attempt: Callable[[], Any]) -> tuple[str, str]:
    """Return what the error says, and the name of its cause."""
    try:
        attempt()
    except operant_gpu.BackendError as error:
        return str(error), type(error.__cause__).__name__
    raise AssertionError("nothing was refused")


if __name__ == "__main__":
    install()
    pretend()
    triton.JITFunction.run = refuse
    # Tensors are on the host here.
    failure = launching.failure
    launching.failure = lambda kernel, device, *rest: failure(kernel, torch.device("cuda", 0), *rest)
    tensors = [torch.zeros(4, 64) for _ in range(3)]
    flags = [tensor > 0 for tensor in tensors[:2]]
    attempts = (
        lambda: operant_gpu.make("CartPole-v1", 64, device="cuda").reset(seed=0),
        lambda: estimate_advantages(*tensors, *flags, tensors[0]),
    )
    print(json.dumps([refusal(attempt) for attempt in attempts]))
