"""What Triton's operators and functions mean, in NumPy.

The lowering turns `a * b` into `mul(a, b)` and `tl.sin(x)` into `sin(x)` of this module. A value is an array (a block),
a NumPy scalar (a scalar tensor in Triton) or a Python number (a compile-time constant, which does
not take part in promotion). Where NumPy and Triton differ, this module follows Triton: an int32 and a float32
give a float32, `//` rounds toward zero, `%` has the sign of the dividend.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from operant_gpu.errors import UnsupportedConstruct
from operant_gpu.philox import Words
from operant_gpu.philox import philox as _philox
from operant_gpu.random import Rng

# The names of triton.language that environment functions may call.
TL_FUNCTIONS = {
    *("abs", "ceil", "clamp", "cast", "cos", "cumsum", "div_rn", "exp", "exp2", "floor", "log", "log2", "max"),
    *("maximum", "min", "minimum", "rsqrt", "sigmoid", "sin", "sqrt", "sqrt_rn", "static_assert", "static_range"),
    *("sum", "umulhi", "where", "zeros_like"),
}

# Blocks, and the scalars that stand for scalar tensors.
_BLOCKS = (np.ndarray, np.generic)
_BOOL, _INT32 = np.dtype(np.bool_), np.dtype(np.int32)
_INTEGERS = (_INT32, np.dtype(np.uint32), np.dtype(np.int64), np.dtype(np.uint64))
_TINY, _HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_UINT64 = np.dtype(np.uint64)
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


class NumpyRng:
    """An `Rng` that computes each block of words once."""

    __slots__ = (*Rng._fields, "_blocks")
    _fields = Rng._fields

    def __init__(self, seed: Any, env_id: Any, episode: Any, step: Any, stream: int) -> None:
        self.seed, self.env_id, self.episode, self.step, self.stream = seed, env_id, episode, step, stream
        self._blocks: dict[int, tuple[Words, Words, Words, Words]] = {}

    def words(self, block: int) -> tuple[Words, Words, Words, Words]:
        """Return the four words of one counter block."""
        if type(block) is not int:
            raise UnsupportedConstruct(
                "a draw number must be a compile-time constant: a literal or a tl.static_range index"
            )
        if block not in self._blocks:
            self._blocks[block] = self.compute(block)
        return self._blocks[block]

    def compute(self, block: int) -> tuple[Words, Words, Words, Words]:
        """Return the four words of one counter block, computed anew."""
        return _philox(self.seed, self.env_id, self.episode, self.step, self.stream + block)


@dataclass(frozen=True, repr=False)
class TableSeen:
    """A table as a program finds it.

    Attributes:
        numbers: All of them, in one axis: a traced block.
        shape: Of the table.
        code: What tells its axes from those of others, as `tables.report` takes it.
        tape: Where bad indices are noted.
    """

    numbers: Any
    shape: tuple[int, ...]
    code: int
    tape: Any

    def __repr__(self) -> str:
        """Return what errors say of it."""
        return f"a table {self.shape}"


def refused_everywhere(message: str) -> UnsupportedConstruct:
    """Return the error for what no backend runs, or not as its author means."""
    return UnsupportedConstruct(message, is_everywhere=True)


def static(value: Any) -> Any:
    """Refuse a block where Python needs one truth value."""
    if isinstance(value, np.ndarray):
        raise UnsupportedConstruct(
            "`if`, `and`, `or` and `not` need one truth value, this is a block of one per environment: "
            "use tl.where(condition, a, b), and & | ~ between conditions"
        )
    return value


def value(assigned: Any) -> Any:
    """Turn a number that gets a name into a scalar of the smallest type that holds it, as Triton does."""
    kind = type(assigned)
    if kind is TableSeen:
        # Triton would make blocks of what it knows of the table.
        raise refused_everywhere("a table cannot get another name: write tables.name where it is read")
    if kind is float:
        normal = _TINY <= builtins.abs(assigned) <= _HUGE or assigned == 0.0 or not math.isfinite(assigned)
        return np.float32(assigned) if normal else np.float64(assigned)
    if kind is bool:
        return np.bool_(assigned)
    if kind is int:
        return next(dtype.type(assigned) for dtype in _INTEGERS if assigned in _range_of(dtype))
    if kind is tuple:
        return values(assigned)
    return kind(*values(assigned)) if hasattr(kind, "_fields") and issubclass(kind, tuple) else assigned


def values(assigned: Any) -> Any:
    """Do as `value` for each of several names."""
    return tuple(value(each) for each in assigned)


def _range_of(dtype: np.dtype[Any]) -> range:
    limits = np.iinfo(dtype)
    return range(limits.min, limits.max + 1)


def length(container: Any) -> int:
    """`len` of a tuple."""
    if not isinstance(container, tuple):
        message = (
            "only tuples have a length: a block has one number per environment, of a table use length(tables.name)"
        )
        raise refused_everywhere(message)
    return len(container)


def item(container: Any, index: Any) -> Any:
    """Return one component of a tuple."""
    if type(container) is TableSeen:
        raise refused_everywhere("a table is read with lookup(tables.name, index), an index for each axis")
    if not isinstance(container, tuple):
        raise UnsupportedConstruct(
            "only tuples can be indexed: use get and put of operant_gpu.arrays for the cells of an Array"
        )
    if isinstance(index, np.ndarray):
        advice = "declare a Table (operant_gpu.lang) and read it with lookup(tables.name, index)"
        message = f"only a constant can index a tuple, this is a block of one per environment: {advice}"
        raise refused_everywhere(message)
    if type(index) is not int:
        raise UnsupportedConstruct("an index must be a compile-time constant: a literal or a tl.static_range index")
    return container[index]


def field(container: Any, name: str) -> Any:
    """Return a field of a State, of params or of rng."""
    if type(container) is TableSeen:
        message = f".{name} is not available: of a table there are length(tables.name, axis) and lookup"
        raise refused_everywhere(message)
    fields = getattr(container, "_fields", None)
    if fields is None:
        raise UnsupportedConstruct(f".{name} is not available: only State, params, tables and rng have fields")
    if name not in fields:
        raise AttributeError(f"{type(container).__name__} has no field {name!r}, only {', '.join(fields)}")
    return getattr(container, name)


def column(block: Any) -> Any:
    """`block[:, None]`: one number per environment, as what meets an Array has it."""
    if rank(block) != 1:
        raise UnsupportedConstruct(f"[:, None] is for a block of one number per environment, got {_kind(block)}")
    return np.expand_dims(block, 1)


def rank(value: Any) -> int:
    """Return how many axes a block has; numbers have none."""
    # Not np.ndim: a trace would record it.
    axes: int = getattr(value, "ndim", 0)
    return axes


def _kind(value: Any) -> str:
    return ("a number", "a block of one number per environment", "an Array's block")[rank(value)]


def _check_ranks(*values: Any) -> None:
    """Refuse what NumPy would take for one row of numbers, and Triton for another."""
    ranks = {rank(value) for value in values}
    if {1, 2} <= ranks:
        message = "an Array's block and a block of one number per environment: write x[:, None] for the latter"
        raise refused_everywhere(message)


def _promoted(a_dtype: np.dtype[Any], b_dtype: np.dtype[Any]) -> np.dtype[Any]:
    if a_dtype.kind == "f" or b_dtype.kind == "f":
        return _FLOAT64 if _FLOAT64 in (a_dtype, b_dtype) else _FLOAT32
    # C's rules: the wider wins, of two alike the unsigned one.
    return builtins.max(a_dtype, b_dtype, key=lambda dtype: (dtype.itemsize, dtype.kind == "u", dtype.kind == "i"))


def _against_number(block: Any, number: Any) -> Any:
    """Widen a block's dtype to the kind of a Python number beside it."""
    kind = block.dtype.kind
    if kind == "f":
        return block
    if type(number) is float:
        return block.astype(_FLOAT32)
    return block.astype(_INT32) if kind == "b" and type(number) is int else block


def _pair(a: Any, b: Any) -> tuple[Any, Any]:
    """Bring two operands to one dtype as Triton does; two Python numbers stay as they are."""
    a_is_block, b_is_block = isinstance(a, _BLOCKS), isinstance(b, _BLOCKS)
    if a_is_block and b_is_block:
        _check_ranks(a, b)
        if a.dtype is b.dtype:
            return a, b
        common = _promoted(a.dtype, b.dtype)
        return a.astype(common, copy=False), b.astype(common, copy=False)
    if a_is_block:
        return _against_number(a, b), b
    return a, _against_number(b, a) if b_is_block else b


def _binary(name: str, on_numbers: Callable[..., Any], on_blocks: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    def apply(a: Any, b: Any) -> Any:
        a, b = _pair(a, b)
        if isinstance(a, _BLOCKS) or isinstance(b, _BLOCKS):
            return on_blocks(a, b)
        return on_numbers(a, b)

    apply.__name__ = name
    return apply


def _arithmetic(name: str, on_numbers: Callable[..., Any], ufunc: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    def checked(a: Any, b: Any) -> Any:
        result = ufunc(a, b)
        if result.dtype is _BOOL:
            raise UnsupportedConstruct(f"{name} of two conditions: use & | ^, or cast with .to(tl.int32) first")
        return result

    return _binary(name, on_numbers, checked)


def _subtract(a: Any, b: Any) -> Any:
    # NumPy has no difference of bools; _arithmetic refuses theirs.
    return np.subtract(a, b) if _BOOL not in (value(a).dtype, value(b).dtype) else np.logical_xor(a, b)


def _true_divide(a: Any, b: Any) -> Any:
    if "f" not in (value(a).dtype.kind, value(b).dtype.kind):
        a, b = cast(a, _FLOAT32), cast(b, _FLOAT32)
    return np.divide(a, b)


def _truncating_divide(a: Any, b: Any) -> Any:
    quotient = np.floor_divide(a, b)
    if quotient.dtype.kind == "f":
        raise UnsupportedConstruct("// of floats: use tl.floor(a / b)")
    inexact = np.multiply(quotient, b) != a
    return quotient + (inexact & ((a < 0) != (b < 0)))


add = _arithmetic("+", operator.add, np.add)
mul = _arithmetic("*", operator.mul, np.multiply)
sub = _arithmetic("-", operator.sub, _subtract)
truediv = _binary("/", operator.truediv, _true_divide)
floordiv = _binary("//", operator.floordiv, _truncating_divide)
mod = _binary("%", operator.mod, np.fmod)
lshift = _binary("<<", operator.lshift, np.left_shift)
rshift = _binary(">>", operator.rshift, np.right_shift)
and_ = _binary("&", operator.and_, np.bitwise_and)
or_ = _binary("|", operator.or_, np.bitwise_or)
xor = _binary("^", operator.xor, np.bitwise_xor)
lt = _binary("<", operator.lt, np.less)
le = _binary("<=", operator.le, np.less_equal)
gt = _binary(">", operator.gt, np.greater)
ge = _binary(">=", operator.ge, np.greater_equal)
eq = _binary("==", operator.eq, np.equal)
ne = _binary("!=", operator.ne, np.not_equal)
# Triton's default is to return the operand that is not NaN.
minimum = _binary("minimum", builtins.min, np.fmin)
maximum = _binary("maximum", builtins.max, np.fmax)
neg, pos = operator.neg, operator.pos


def invert(a: Any) -> Any:
    """`~a`: of a condition its opposite."""
    return not a if type(a) is bool else ~a


def cast(a: Any, dtype: np.dtype[Any], bitcast: bool = False) -> Any:
    """`a.to(dtype)`: C's conversion, or with `bitcast` the same bits."""
    a = value(a)
    if bitcast:
        if a.dtype.itemsize != dtype.itemsize:
            raise UnsupportedConstruct(f"a bitcast of {a.dtype} to {dtype}: the sizes differ")
        return a.view(dtype)
    return a.astype(dtype, copy=False)


def _floating(name: str, ufunc: Callable[..., Any]) -> Callable[[Any], Any]:
    def apply(x: Any) -> Any:
        x = value(x)
        if x.dtype.kind != "f":
            raise UnsupportedConstruct(f"tl.{name} of {x.dtype}: cast with .to(tl.float32) first")
        return ufunc(x)

    apply.__name__ = name
    return apply


sin, cos = _floating("sin", np.sin), _floating("cos", np.cos)
exp, exp2 = _floating("exp", np.exp), _floating("exp2", np.exp2)
log, log2 = _floating("log", np.log), _floating("log2", np.log2)
sqrt, sqrt_rn = _floating("sqrt", np.sqrt), _floating("sqrt_rn", np.sqrt)
rsqrt = _floating("rsqrt", lambda x: 1.0 / np.sqrt(x))
sigmoid = _floating("sigmoid", lambda x: 1.0 / (1.0 + np.exp(-x)))
floor, ceil = _floating("floor", np.floor), _floating("ceil", np.ceil)
div_rn = truediv


def abs(x: Any) -> Any:
    """`tl.abs`."""
    return np.abs(value(x))


def clamp(x: Any, min: Any, max: Any) -> Any:
    """`tl.clamp`."""
    clamped = minimum(maximum(x, min), max)
    if np.asarray(clamped).dtype.kind != "f":
        message = "the oldest Triton clamps floats alone: write tl.minimum(tl.maximum(x, low), high)"
        raise refused_everywhere(message)
    return clamped


def where(condition: Any, x: Any, y: Any) -> Any:
    """`tl.where`: `x` where the condition holds, else `y`; both sides are computed."""
    x, y = _pair(x, y)
    if not isinstance(x, _BLOCKS) and not isinstance(y, _BLOCKS):
        x, y = _pair(value(x), value(y))
    _check_ranks(condition, x, y)
    return np.where(value(condition), x, y)


def _along_cells(name: str, method: Callable[..., Any], sums: bool) -> Callable[..., Any]:
    def apply(x: Any, axis: int | None = None) -> Any:
        if rank(x) != 2 or axis != 1:
            raise UnsupportedConstruct(f"tl.{name} goes along the cells of an Array, axis 1: this is {_kind(x)}")
        return method(x, axis=1, dtype=_sum_dtype(x.dtype)) if sums else method(x, axis=1).astype(_at_least_32(x))

    apply.__name__ = name
    return apply


def _sum_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return what Triton sums in; conditions count as unsigned."""
    if dtype.itemsize >= 4:
        return dtype
    return np.dtype(np.uint32) if dtype.kind in "bu" else _INT32


def _at_least_32(x: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = x.dtype
    return dtype if dtype.itemsize >= 4 else _INT32


sum, cumsum = _along_cells("sum", np.add.reduce, True), _along_cells("cumsum", np.add.accumulate, True)
max, min = _along_cells("max", np.fmax.reduce, False), _along_cells("min", np.fmin.reduce, False)


def word(rng: NumpyRng, i: int) -> Words:
    """Return word number `i` of a stream."""
    return rng.words(i // 4)[i % 4]


def umulhi(a: Any, b: Any) -> Any:
    """`tl.umulhi`: the upper 32 bits of a product of two uint32."""
    if value(a).dtype != np.uint32 or value(b).dtype != np.uint32:
        raise UnsupportedConstruct("tl.umulhi needs two uint32 blocks: cast with .to(tl.uint32)")
    _check_ranks(a, b)
    return ((cast(a, _UINT64) * b) >> np.uint64(32)).astype(np.uint32)


def zeros_like(x: Any) -> Any:
    """`tl.zeros_like`."""
    return np.zeros_like(x)


def static_assert(condition: Any, message: str = "") -> None:
    """`tl.static_assert`, checked when the function runs."""
    if not static(condition):
        raise UnsupportedConstruct(f"static assertion failed: {message}")


def runtime_range(*bounds: Any) -> Any:
    """`range`: its index is a run-time number in Triton, so here it is a NumPy scalar."""
    return map(np.int32, range(*(int(static(bound)) for bound in bounds)))


def static_range(*bounds: Any) -> Any:
    """`tl.static_range`: its index is a compile-time constant."""
    if any(isinstance(bound, np.ndarray) for bound in bounds):
        raise UnsupportedConstruct(
            "tl.static_range needs compile-time integers, this is a block of one per environment"
        )
    return range(*bounds)
