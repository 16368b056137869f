"""Which device and which backend a vector environment runs on."""

from __future__ import annotations

import functools
import importlib

import torch

from operant_gpu.backends.base import Backend, Batch
from operant_gpu.errors import BackendError, InvalidConfig
from operant_gpu.lang import HAS_TRITON

BACKENDS = ("triton", "numba", "numpy")


def resolve(device: str | torch.device, backend: str) -> tuple[torch.device, str]:
    """Return the device, with its index, and the name of the backend that the arguments of `VecEnv` mean.

    Raises:
        InvalidConfig: If a name is unknown.
        BackendError: If the device or backend is missing here, or the two do not fit.
    """
    if backend not in ("auto", *BACKENDS):
        raise InvalidConfig(
            "backend", f"expected 'auto', {', '.join(map(repr, BACKENDS[:-1]))} or {BACKENDS[-1]!r}, got {backend!r}"
        )
    if device == "auto":
        on_gpu = torch.cuda.is_available() and HAS_TRITON and backend in ("auto", "triton")
        device = "cuda" if on_gpu else "cpu"
    resolved = _existing(device)
    if backend == "auto":
        backend = "triton" if resolved.type == "cuda" else "numpy" if _numba_failure() else "numba"
    if backend != "triton" and resolved.type != "cpu":
        raise BackendError(f"the {backend} backend needs device='cpu', got {resolved}: use backend='triton' there")
    if backend == "numba" and (failure := _numba_failure()):
        advice = "pip install 'operant-gpu[cpu]', or use backend='numpy'"
        raise BackendError(f"the numba backend needs numba ({failure}): {advice}")
    if backend == "triton":
        _check_triton(resolved)
    return resolved, backend


def create(name: str, batch: Batch) -> Backend:
    """Return the backend of this name for a batch."""
    if name == "triton":
        from operant_gpu.backends.triton import TritonBackend

        return TritonBackend(batch)
    if name == "numba":
        from operant_gpu.backends.numba import NumbaBackend

        return NumbaBackend(batch)
    from operant_gpu.backends.numpy import NumpyBackend

    return NumpyBackend(batch)


def _existing(device: str | torch.device) -> torch.device:
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InvalidConfig("device", f"expected 'auto', 'cpu', 'cuda' or 'cuda:<index>', got {device!r}") from error
    if resolved.type == "cpu":
        return torch.device("cpu")
    if resolved.type != "cuda":
        raise InvalidConfig("device", f"expected 'auto', 'cpu', 'cuda' or 'cuda:<index>', got {device!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = resolved.index if resolved.index is not None else torch.cuda.current_device() if count else 0
    if index >= count:
        raise BackendError(
            f"{resolved} is not there: torch {torch.__version__} sees {count} CUDA devices; use device='cpu'"
        )
    return torch.device("cuda", index)


@functools.cache
def _numba_failure() -> str | None:
    """Return why numba cannot be used, None if it can: it may be missing, or too old for the NumPy beside it."""
    try:
        importlib.import_module("numba")
    except ImportError as error:
        return str(error)
    return None


def _check_triton(device: torch.device) -> None:
    if not HAS_TRITON:
        raise BackendError("the triton backend needs Triton: pip install 'operant-gpu[gpu]', or use backend='numpy'")
    from operant_gpu.backends.triton import INTERPRETED

    if device.type == "cpu" and not INTERPRETED:
        raise BackendError(
            "the triton backend needs a CUDA device: use backend='numpy', or set TRITON_INTERPRET=1 before the "
            "first import to run the kernels in Triton's interpreter"
        )
