"""The language of environment functions: Triton's `jit` and `tl`, or stand-ins where Triton is missing.

The stand-ins execute nothing. They carry the same names, so that the files that define environments
import anywhere; the CPU backends then read the functions' source (see `backends/lowering/rewriting.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import CellType, FunctionType
from typing import Any

import numpy as np

from operant_gpu.errors import UnsupportedConstruct

__all__ = [
    *("HAS_TRITON", "Array", "Table", "constexpr_function", "constexpr_value", "is_jit_function", "jit"),
    *("next_power_of_2", "numpy_dtype", "sourceless", "tl"),
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
    from triton import knobs as _knobs
    from triton import next_power_of_2 as _power
    from triton.runtime.interpreter import InterpretedFunction as _Interpreted
except ImportError:
    HAS_TRITON, _jit, _constexpr_function, _tl, _power = False, _Function, _Function, _Language(), _next_power_of_2
    _Interpreted, _is_interpreted = object, False
else:
    HAS_TRITON, _is_interpreted = True, _knobs.runtime.interpret

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
    if function.__name__ == "<lambda>":
        raise UnsupportedConstruct("a lambda cannot be a jit function: define it with def")
    try:
        return _Enclosed(function) if _is_interpreted and function.__closure__ else _jit(function)
    except (OSError, ValueError):
        raise sourceless(function) from None


def enclosed(function: FunctionType) -> dict[str, Any]:
    """Return what the names of enclosing functions stand for that a function uses, as far as they are there."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    # One without contents is not yet assigned; it is equal to a new one alone.
    return {name: cell.cell_contents for name, cell in cells if cell != CellType()}


class _Enclosed(_Interpreted):  # type: ignore[misc]
    """A function within another, for the interpreter, which compiles its source anew where outer names are unknown."""

    def rewrite(self) -> Any:
        """Return it with those names as global ones, as they are when it first runs."""
        own: FunctionType = self.fn  # type: ignore[has-type]
        if own not in self.rewritten_fn and (names := enclosed(own)):
            known = {**own.__globals__, **names}
            bare = FunctionType(own.__code__, known, own.__name__, own.__defaults__, own.__closure__)
            self.fn = self.rewriter.fn = functools.update_wrapper(bare, own)
        return super().rewrite()


def sourceless(function: Callable[..., Any]) -> UnsupportedConstruct:
    """Return the error for a function that stands in no file, as in `exec`, `python -c` or on the standard input."""
    advice = "define environment functions in a file or a notebook cell"
    return UnsupportedConstruct(f"the source of {function.__name__} cannot be read: {advice}")


@dataclass(frozen=True)
class Array:
    """The annotation of a `State` field that holds a vector or a board in each environment.

    `board: Array(tl.int8, (10, 10))` is a column of shape (num_envs, 10, 10), and `Array(tl.int8, ("size", "size"))`
    one whose sizes are the parameter `size`.

    Attributes:
        dtype: Of its numbers, such as `tl.int8`.
        shape: Sizes of its axes, or names of integer parameters.
    """

    dtype: Any
    shape: tuple[int | str, ...]

    def __call__(self) -> None:
        """Refuse: `typing.NamedTuple` on Python 3.10 accepts callables alone as annotations."""
        raise TypeError(f"{self!r} is a type of columns, not a function")


@dataclass(frozen=True)
class Table:
    """The annotation of a `Tables` field: numbers that all environments share, which `arrays.lookup` reads.

    `prices: Table(tl.float32, (None, 5))` is as long as what is given, and has 5 columns.

    Attributes:
        dtype: Of its numbers, such as `tl.float32`.
        shape: Sizes of its 1 to 3 axes, names of integer parameters, or None where any size will do.
    """

    dtype: Any
    shape: tuple[int | str | None, ...]

    def __call__(self) -> None:
        """Refuse, as `Array` does."""
        raise TypeError(f"{self!r} is a type of tables, not a function")


def is_jit_function(value: object) -> bool:
    """Tell whether `value` was decorated with `jit` (compiled, interpreted or stand-in)."""
    return callable(getattr(value, "fn", None))


def constexpr_value(value: object) -> Any:
    """Return the number inside a `tl.constexpr`, and anything else as it is."""
    return value.value if isinstance(value, tl.constexpr) else value


def numpy_dtype(dtype: object) -> np.dtype[Any] | None:
    """Return the NumPy dtype of a `tl` dtype, or None if `dtype` is not one that columns can have."""
    return _NUMPY_DTYPES.get(getattr(dtype, "name", ""))
