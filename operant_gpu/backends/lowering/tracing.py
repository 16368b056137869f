"""Tracing: a lowered function becomes a straight line of NumPy calls.

Environment functions take no decision that depends on a block: what they do is the same whatever the numbers are.
So one run on three rows shows all of it. Every NumPy call on a block is recorded, all else is folded into constants.
The record is compiled into Python without branches or checks of types, in which a call writes into an operand's
buffer where nobody needs that operand any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from operant_gpu.arrays import FARTHEST
from operant_gpu.backends.lowering.operations import NumpyRng
from operant_gpu.errors import UnsupportedConstruct
from operant_gpu.lang import constexpr_value

_FARTHEST = constexpr_value(FARTHEST)
# No power of two: no Array has as many cells.
ROWS = 3
# Below this many rows a call costs more than the mispredicted branches.
_FEW = 256


class Call(NamedTuple):
    """One line of a record: `target = function(*arguments)`, blocks as `Traced`, all else as it is.

    `dtype` is the result's, `shape` that of its trial on three rows.
    """

    target: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Tape:
    """Records what a function does with its blocks; `compile` makes a program of it.

    Make the blocks with `block` and `rng`, call the function with them, make a program of what it returned.
    """

    def __init__(self, notes: bool = False) -> None:
        self._inputs: dict[str, str] = {}
        self._calls: list[Call] = []
        # What was noted last of an index beyond a table; None if nobody asks.
        self.outside: Any = self.block("outside", np.int64) if notes else None

    def block(self, expression: str, dtype: Any, cells: tuple[int, ...] = ()) -> Any:
        """Return a block that the program finds at `expression`, such as "state.x"; `cells` is (width,) of an Array."""
        name = f"input{len(self._inputs)}"
        self._inputs[name] = expression
        return Traced.of(np.zeros((ROWS, *cells), dtype), name, self)

    def table(self, expression: str, dtype: Any, size: int) -> Any:
        """Return a table of so many numbers, the same for all rows, that the program finds at `expression`."""
        name = f"input{len(self._inputs)}"
        self._inputs[name] = expression
        return Traced.of(np.broadcast_to(np.zeros((), dtype), (size,)), name, self)

    def rng(self) -> NumpyRng:
        """Return a stream that the program finds as "rng"."""
        return _TracedRng(self)

    def record(self, function: Callable[..., Any], arguments: tuple[Any, ...], sample: Any) -> Traced:
        """Add a call whose result on the three rows is `sample`."""
        target = f"t{len(self._calls)}"
        self._calls.append(Call(target, sample.dtype, sample.shape, function, arguments))
        return Traced.of(sample, target, self)

    def note(self, index: Any, place: Any, code: int) -> None:
        """Note where an index of a table is beyond it, as `tables.report` takes it."""
        if self.outside is not None:
            # What does not fit is noted as the farthest that does.
            far = np.fmin(np.fmax(index.astype(np.int64), -_FARTHEST), _FARTHEST)
            self.outside = np.where(index == place, self.outside, far * 64 + code)

    def program(self, results: Sequence[Any]) -> Program:
        """Return what was recorded, as far as `results`, blocks and numbers, depend on it; last what was noted."""
        results = (*results, *(() if self.outside is None else (self.outside,)))
        wanted = {result.name for result in results if isinstance(result, Traced)}
        calls = _needed(self._calls, wanted)
        used = wanted.union(*(_names(call) for call in calls))
        inputs = {name: expression for name, expression in self._inputs.items() if name in used}
        return Program(inputs, calls, tuple(results))


class Program(NamedTuple):
    """A straight line of calls.

    Attributes:
        inputs: Where each input is found, by its name in the calls.
        calls: In order; every one is needed.
        results: Blocks and numbers.
    """

    inputs: dict[str, str]
    calls: list[Call]
    results: tuple[Any, ...]

    def compile(self, name: str, parameters: str, known: Mapping[str, Any]) -> Callable[..., tuple[Any, ...]]:
        """Return a function of `parameters`, which knows other names too, from whole columns to the results."""
        namespace: dict[str, Any] = {**known}
        wanted = {result.name for result in self.results if isinstance(result, Traced)}
        inputs = [f"{input_name} = {found}" for input_name, found in self.inputs.items()]
        lines = [*inputs, *_lines(self.calls, wanted, namespace), f"return {_tuple_of(self.results, namespace)}"]
        source = f"def {name}({parameters}):\n" + "\n".join(f"    {line}" for line in lines)
        exec(compile(source, f"<traced {name}>", "exec"), namespace)  # noqa: S102
        program: Callable[..., tuple[Any, ...]] = namespace[name]
        return program


class Traced(np.ndarray[Any, Any]):
    """A block of three rows that records what is done with it."""

    name: str
    tape: Tape

    @classmethod
    def of(cls, sample: Any, name: str, tape: Tape) -> Traced:
        """Return a block with these values on the three rows."""
        traced = np.asarray(sample).view(cls)
        traced.name, traced.tape = name, tape
        return traced

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__":
            along = getattr(ufunc, method)
            arguments = (*inputs, kwargs["axis"], kwargs.get("dtype"))
            return _tape_of(inputs).record(along, arguments, along(_plain(inputs[0]), *arguments[1:]))
        if kwargs:
            raise UnsupportedConstruct(f"{ufunc.__name__} of a block with {', '.join(kwargs)}")
        return _tape_of(inputs).record(ufunc, inputs, ufunc(*map(_plain, inputs)))

    def __array_function__(self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        sample = function(*map(_plain, args), **kwargs)
        if function is np.expand_dims:
            function = _column
        if function is np.where and sample.dtype.itemsize == 4 and sample.ndim == 1 and _is_condition(args[0]):
            # Numbers have no width: they take the result's.
            sides = (side if isinstance(side, Traced) else sample.dtype.type(side) for side in args[1:])
            function, args = select, (args[0], *sides)
        return _tape_of(args).record(function, args, sample)

    def astype(self, dtype: Any, *_: Any, **__: Any) -> Any:
        """Record a conversion, unless it is none."""
        if dtype == self.dtype:
            return self
        # Of a number of a table NumPy makes one that is no array.
        function = np.ndarray.astype if self.ndim else converted
        return self.tape.record(function, (self, dtype), _plain(self).astype(dtype))

    def view(self, dtype: Any) -> Any:  # type: ignore[override]
        """Record another reading of the same bits."""
        return self.tape.record(reinterpreted, (self, dtype), _plain(self).view(dtype))


class _TracedRng(NumpyRng):
    """Stands for the stream that a program draws from."""

    __slots__ = ("_tape",)

    def __init__(self, tape: Tape) -> None:
        env_id, episode, step = (tape.block(f"rng.{name}", np.int32) for name in ("env_id", "episode", "step"))
        super().__init__(tape.block("rng.seed", np.int64), env_id, episode, step, stream=0)
        self._tape = tape

    def compute(self, block: int) -> Any:
        """Return blocks that the program finds in its own stream."""
        return tuple(self._tape.block(f"rng.words({block})[{i}]", np.uint32) for i in range(4))


def _is_condition(value: Any) -> bool:
    return isinstance(value, Traced) and value.dtype == np.bool_


def select(condition: Any, x: Any, y: Any) -> Any:
    """Choose among 32-bit values by their bits: np.where branches at each row, and random actions mispredict it."""
    if condition.size < _FEW:
        return np.where(condition, x, y)
    bits, dtype = condition.astype(np.uint32), x.dtype
    x, y = x.view(np.uint32), y.view(np.uint32)
    if x.ndim or y.ndim:
        np.negative(bits, out=bits)
        np.bitwise_and(bits, np.bitwise_xor(x, y), out=bits)
    else:
        np.multiply(bits, np.bitwise_xor(x, y), out=bits)
    np.bitwise_xor(bits, y, out=bits)
    return bits.view(dtype)


def _column(block: Any, axis: int) -> Any:
    # A copy: a buffer that is used again would change under a view.
    return np.expand_dims(block, axis).copy()


def converted(number: Any, dtype: Any) -> Any:
    """Return a single number as another dtype."""
    return number.astype(dtype)


def reinterpreted(block: Any, dtype: Any) -> Any:
    """Return the same bits as another dtype."""
    # A copy: a view of a column would change when the column is written.
    return block.view(dtype).copy()


def _plain(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, Traced) else value


def _tape_of(values: Sequence[Any]) -> Tape:
    return next(value.tape for value in values if isinstance(value, Traced))


def _names(call: Call) -> set[str]:
    return {argument.name for argument in call.arguments if isinstance(argument, Traced)}


def _needed(calls: Sequence[Call], wanted: set[str]) -> list[Call]:
    """Leave out the calls that no result depends on."""
    alive, kept = set(wanted), []
    for call in reversed(calls):
        if call.target in alive:
            alive |= _names(call)
            kept.append(call)
    return kept[::-1]


def _lines(calls: Sequence[Call], wanted: set[str], namespace: dict[str, Any]) -> list[str]:
    """Return a line of Python for each call; `namespace` collects functions and constants."""
    last_use = {name: position for position, call in enumerate(calls) for name in _names(call)}
    # Buffers of blocks that are neither inputs nor results.
    free = {call.target for call in calls} - wanted
    lines = []
    for position, call in enumerate(calls):
        dying = [a for a in call.arguments if isinstance(a, Traced) and last_use[a.name] == position and a.name in free]
        arguments = [_text(argument, namespace) for argument in call.arguments]
        if isinstance(call.function, np.ufunc):
            # A further argument of a ufunc is the buffer for its result.
            # Of a single number there is no array.
            arguments += [a.name for a in dying if a.dtype == call.dtype and a.shape == call.shape != ()][:1]
        lines.append(f"{call.target} = {_text(call.function, namespace)}({', '.join(arguments)})")
        # An array that goes out of use at once is the next call's buffer, still in the cache.
        lines += [f"del {', '.join(sorted({a.name for a in dying}))}"] if dying else []
    return lines


def _text(value: Any, namespace: dict[str, Any]) -> str:
    """Return the name of a block, or a name in `namespace` for anything else."""
    if isinstance(value, Traced):
        return value.name
    for name, known in namespace.items():
        if known is value:
            return name
    name = f"k{len(namespace)}"
    namespace[name] = value
    return name


def _tuple_of(results: Sequence[Any], namespace: dict[str, Any]) -> str:
    return f"({''.join(_text(result, namespace) + ', ' for result in results)})"
