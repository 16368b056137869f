"""What lets tests for GPUs run on the executor: for them "cuda" is the host's memory, with Triton."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from operant_gpu import vector


class _OnHost(TorchFunctionMode):
    """Has PyTorch's functions take the CPU for "cuda"."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs = {**kwargs, "device": "cpu"}
        if function in (torch.Tensor.to, torch.nn.Module.to) and any(str(x).startswith("cuda") for x in args[1:]):
            args = (args[0], *("cpu" if str(x).startswith("cuda") else x for x in args[1:]))
        return function(*args, **kwargs)


def pretend() -> None:
    """Do so from now on."""
    _OnHost().__enter__()
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.cuda.synchronize = lambda *_: None
    plain_to = torch.nn.Module.to
    torch.nn.Module.to = lambda self, *args, **named: plain_to(
        self, *("cpu" if str(x).startswith("cuda") else x for x in args), **named
    )
    resolve = vector.select.resolve

    def resolved(environment: Any, params: Any, device: Any, backend: str) -> Any:
        if str(device).startswith("cuda"):
            return resolve(environment, params, "cpu", "triton")
        return resolve(environment, params, device, backend)

    vector.select.resolve = resolved
