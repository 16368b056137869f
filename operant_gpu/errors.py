"""The one family of exceptions that operant_gpu raises, and what its messages share."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np

_MOST = 2**63 - 1
# Modules that not every installation has: the extra and the package they come with, and what for.
EXTRAS = {
    "numba": ("cpu", "numba", "compiles environments for the CPU, several times as fast as NumPy"),
    "triton": ("gpu", "triton", "compiles environments for the GPU"),
    "cupy": ("gpu", "cupy-cuda13x", "runs environments in CUDA C++ on the GPU, and CuPy arrays"),
    "pynvml": ("gpu", "nvidia-ml-py", "tells how busy and how hot the GPU is"),
    "pygame": ("render", "pygame", "draws classic control"),
    "imageio_ffmpeg": ("render", "imageio-ffmpeg", "writes MP4 videos"),
    "onnxscript": ("export", "onnxscript", "exports policies to ONNX"),
    "onnxruntime": ("export", "onnxruntime", "checks exported policies"),
    "wandb": ("wandb", "wandb", "logs to Weights & Biases"),
}


class OperantError(Exception):
    """Base of every error raised by operant_gpu."""


class InvalidConfig(OperantError, ValueError):
    """A setting that cannot work.

    Attributes:
        param: Name of the offending setting.
    """

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param


class ActionError(OperantError, ValueError):
    """Actions that the environment cannot take: wrong shape, dtype, device or value."""


class BackendError(OperantError, RuntimeError):
    """A backend or device that is missing on this machine, or that does not fit the request."""


class CheckpointError(OperantError, RuntimeError):
    """A checkpoint that cannot be written, or that is damaged or none at all."""


class ExportError(OperantError, RuntimeError):
    """A policy that cannot be exported, or does something else where it was exported to."""


class ResetNeeded(OperantError, RuntimeError):
    """A step before the first reset, or any use after `close`."""


class TrainingError(OperantError, RuntimeError):
    """A training run that has gone wrong: numbers that are not finite."""


class UnsupportedConstruct(OperantError, TypeError):
    """A construct in an environment function that not every backend runs alike."""


def one_line(error: Exception) -> str:
    """Return an error's text without line breaks, of which PyTorch's have many."""
    return " ".join(str(error).split())


def nearest(name: object, known: Iterable[str]) -> str:
    """Return a question whether the likest of the known names was meant, with a space behind it; "" if none is like."""
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def is_integer(value: object) -> bool:
    """Tell whether `value` is a whole number of Python or NumPy; True and False are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def whole(param: str, value: Any, low: int, high: int = _MOST, note: str = "") -> int:
    """Return a setting that is to be a whole number from `low` to `high`.

    Raises:
        InvalidConfig: If it is none; `note` follows on the range.
    """
    if not is_integer(value) or not low <= value <= high:
        most = "2**63 - 1" if high == _MOST else high
        raise InvalidConfig(param, f"expected an integer from {low} to {most}{note}, got {value!r}")
    return int(value)


def installation(module: str) -> str:
    """Return the command that installs a module of `EXTRAS`."""
    return f"pip install 'operant-gpu[{EXTRAS[module][0]}]'"


def needed(what: str, module: str, instead: str = "") -> Any:
    """Import a module of `EXTRAS`, or raise `BackendError` with what it is needed for and what to do about it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        root = module.partition(".")[0]
        raise BackendError(f"{what} needs {EXTRAS[root][1]} ({error}): {installation(root)}{instead}") from error
