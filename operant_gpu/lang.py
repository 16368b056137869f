"""The language of environment functions: Triton's `jit` and `tl`, or stand-ins where Triton is missing.

The stand-ins execute nothing. They carry the same names, so that the files that define environments
import anywhere; the CPU backends then read the functions' source (see `backends/lowering/rewriting.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from operant_gpu.errors import UnsupportedConstruct

__all__ = [
    *("HAS_TRITON", "Array", "constexpr_function", "constexpr_value", "is_jit_function", "jit", "next_power_of_2"),
    *("numpy_dtype", "sourceless", "tl"),
]

_NUMPY_DTYPES = {
    "int1": np.dtype(np.bool_),
    "int8": np.dtype(np.int8),
    "int16": np.dtype(np.int16),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "uint8": np.dtype(np.uint8),
    "uint32": np.dtype(np.uint32),
    "uint64": np.dtype(np.uint64),
    "fp32": np.dtype(np.float32),
    "fp64": np.dtype(np.float64),
}


class _Dtype:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"tl.{self.name.replace('fp', 'float')}"

    def __call__(self, *_args: Any) -> None:
        # typing.NamedTuple on Python 3.10 accepts callables alone as annotations.
        raise TypeError(f"{self!r} is a dtype, not a function: use value.to({self!r})")


class _Constexpr:
    def __init__(self, value: Any) -> None:
        self.value = value


class _Function:
    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.__name__ = fn.__name__
        self.__doc__ = fn.__doc__

    def __call__(self, *_args: Any, **_kwargs: Any) -> None:
        raise TypeError(f"{self.__name__} is a jit function: a backend runs it, Python does not")


class _Language:
    """Stands in for `triton.language`: dtypes, `constexpr`, and a name for every operation."""

    constexpr = _Constexpr
    float32 = _Dtype("fp32")
    float64 = _Dtype("fp64")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Dtype(name) if name in _NUMPY_DTYPES else name


def _next_power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()


try:
    import triton.language as _tl
    from triton import constexpr_function as _constexpr_function
    from triton import jit as _jit
    from triton import next_power_of_2 as _power
except ImportError:
    HAS_TRITON, _jit, _constexpr_function, _tl, _power = False, _Function, _Function, _Language(), _next_power_of_2
else:
    HAS_TRITON = True

tl: Any = _tl
# Triton's own is known inside jit functions.
next_power_of_2: Any = _power
# What Triton calls while it compiles.
constexpr_function: Any = _constexpr_function


def jit(function: Callable[..., Any]) -> Any:
    """Mark a function as one that a backend runs.

    Raises:
        UnsupportedConstruct: If Triton cannot read its source.
    """
    try:
        return _jit(function)
    except (OSError, ValueError):
        raise sourceless(function) from None


def sourceless(function: Callable[..., Any]) -> UnsupportedConstruct:
    """Return the error for a function that stands in no file, as in `exec`, `python -c` or on the standard input."""
    advice = "define environment functions in a file or a notebook cell"
    return UnsupportedConstruct(f"the source of {function.__name__} cannot be read: {advice}")


@dataclass(frozen=True)
class Array:
    """The annotation of a `State` field that holds a vector or a board in each environment.

    `board: Array(tl.int8, (10, 10))` is a column of shape (num_envs, 10, 10).

    Attributes:
        dtype: Of its numbers, such as `tl.int8`.
        shape: Sizes of its axes.
    """

    dtype: Any
    shape: tuple[int, ...]

    def __call__(self) -> None:
        """Refuse: `typing.NamedTuple` on Python 3.10 accepts callables alone as annotations."""
        raise TypeError(f"{self!r} is a type of columns, not a function")


def is_jit_function(value: object) -> bool:
    """Tell whether `value` was decorated with `jit` (compiled, interpreted or stand-in)."""
    return callable(getattr(value, "fn", None))


def constexpr_value(value: object) -> Any:
    """Return the number inside a `tl.constexpr`, and anything else as it is."""
    return value.value if isinstance(value, tl.constexpr) else value


def numpy_dtype(dtype: object) -> np.dtype[Any] | None:
    """Return the NumPy dtype of a `tl` dtype, or None if `dtype` is not one that columns can have."""
    return _NUMPY_DTYPES.get(getattr(dtype, "name", ""))
