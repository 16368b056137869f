"""Programs as source code: a loop over the rows of a block of memory, of scalar operations that numba compiles.

The block is two stretches of memory, of 4-byte and of 8-byte columns of `BLOCK` rows: numba's vectorizer can tell
columns at fixed distances from one start apart, but not the memory of a dozen arrays. Narrower integers and conditions
are int32 there. `Slots` says which column is where.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from operant_gpu.backends.lowering.tracing import Call, Program, Traced, converted, reinterpreted, select
from operant_gpu.errors import UnsupportedConstruct
from operant_gpu.kernels.numba.block import ELAPSED, ENV_ID, EPISODE, FREE, REWARD, TERMINATED
from operant_gpu.kernels.numba.memory import FREE_WIDE, PITCH, SEED


class Slots:
    """Places of columns in the block, given out one after the other.

    Attributes:
        narrow: Number of 4-byte columns so far.
        wide: Number of 8-byte columns so far.
    """

    def __init__(self) -> None:
        self.narrow, self.wide = FREE, FREE_WIDE
        self._places: dict[str, tuple[np.dtype[Any], int]] = {}
        self._tables: dict[str, tuple[int, np.dtype[Any], int]] = {}
        for name, dtype, slot in (
            ("rng.seed", np.int64, SEED),
            ("rng.env_id", np.int32, ENV_ID),
            ("rng.episode", np.int32, EPISODE),
            ("rng.step", np.int32, ELAPSED),
            ("reward", np.float32, REWARD),
            ("terminated", np.bool_, TERMINATED),
        ):
            self._places[name] = np.dtype(dtype), slot

    def add(self, name: str, dtype: Any) -> str:
        """Give a column the next place; return its name."""
        dtype = np.dtype(dtype)
        if dtype.itemsize == 8:
            self._places[name], self.wide = (dtype, self.wide), self.wide + 1
        else:
            self._places[name], self.narrow = (dtype, self.narrow), self.narrow + 1
        return name

    def add_table(self, name: str, dtype: Any, size: int) -> None:
        """Give a table the next place among their addresses."""
        self._tables[name] = len(self._tables), np.dtype(dtype), size

    def tables(self, program: Program) -> tuple[list[str], list[str]]:
        """Return the lines that find a program's tables in memory, and what they need outside the function."""
        pointers, lines = [], []
        for name, found in program.inputs.items():
            if found in self._tables:
                place, dtype, size = self._tables[found]
                pointers.append(f"{name}_pointer = pointer_to({'int8' if dtype.kind == 'b' else dtype.name})")
                lines.append(f"{name} = carray({name}_pointer(addresses[{place}]), {size})")
        return pointers, [f"addresses = carray(int64_pointer(tables), {len(self._tables)})", *lines] if lines else []

    def slot(self, name: str) -> int:
        """Return the number of a column among those of its width."""
        return self._places[name][1]

    def has(self, name: str) -> bool:
        """Tell whether this is a column."""
        return name in self._places

    def load(self, name: str) -> str:
        """Return the expression that reads row `k` of a column."""
        dtype, place = self._places[name][0], self._place(name)
        if dtype.kind == "b":
            return f"{place} != 0"
        return place if dtype.itemsize >= 4 else f"{dtype.name}({place})"

    def store(self, name: str, value: Any) -> str:
        """Return the statement that writes a value, a block or a number, to row `k` of a column."""
        dtype = self._places[name][0]
        text = _operand(value, dtype)
        return f"{self._place(name)} = {text if dtype.itemsize >= 4 else f'int32({text})'}"

    def _place(self, name: str) -> str:
        dtype, slot = self._places[name]
        kind = dtype.name if dtype.itemsize >= 4 else "int32"
        return f"{kind}s[{slot * PITCH} + k]"


def source_of(program: Program, slots: Slots, results: Sequence[str], stream: int) -> str:
    """Return the source of a module that has a program as `program(narrow, wide, n, tables)`.

    It works on the first n rows of a block, with the tables whose addresses are at `tables`.

    Args:
        program: What to compute.
        slots: Where its inputs and results are.
        results: Names of the columns that the results go to.
        stream: The stream that its words come from.
    """
    body = [
        *_words(program, slots, stream),
        *(f"{name} = {slots.load(found)}" for name, found in program.inputs.items() if slots.has(found)),
        *(f"{call.target} = {_expression(call)}" for call in program.calls),
        *(slots.store(name, value) for name, value in zip(results, program.results, strict=True)),
    ]
    lines = "".join(f"        {line}\n" for line in body)
    pointers, finding = slots.tables(program)
    return _TEMPLATE.format(
        pointers="".join(f"{line}\n" for line in pointers),
        narrow=slots.narrow * PITCH,
        wide=slots.wide * PITCH,
        tables="".join(f"    {line}\n" for line in finding),
        lines=lines,
    )


_WORD = re.compile(r"rng\.words\((\d+)\)\[(\d)\]")
_TEMPLATE = '''"""Made by operant_gpu.backends.numba.source."""

from math import cos as cos64, inf, nan, sin as sin64

from numba import carray, float32, float64, int8, int16, int32, int64, uint8, uint32, uint64

from operant_gpu.kernels.numba.mathematics import (
    ceil, cos32, exp, exp2, float_remainder, floor, floor_divide, log, log2, maximum, minimum, philox, pointer_to,
    reinterpret, remainder, shift_left, shift_right, sin32, sqrt,
)

float32_pointer, int32_pointer = pointer_to(float32), pointer_to(int32)
float64_pointer, int64_pointer = pointer_to(float64), pointer_to(int64)
{pointers}

def program(narrow, wide, n, tables):
    float32s, int32s = carray(float32_pointer(narrow), {narrow}), carray(int32_pointer(narrow), {narrow})
    float64s, int64s = carray(float64_pointer(wide), {wide}), carray(int64_pointer(wide), {wide})
{tables}    for k in range(n):
{lines}'''

_INFIX = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "bitwise_and": "&", "bitwise_or": "|",
    "bitwise_xor": "^", "logical_and": "&", "logical_or": "|", "logical_xor": "!=", "less": "<", "less_equal": "<=",
    "greater": ">", "greater_equal": ">=", "equal": "==", "not_equal": "!=",
}  # fmt: skip
_FUNCTIONS = {
    "fmin": "minimum", "fmax": "maximum", "absolute": "abs", "negative": "-", "positive": "+", "floor": "floor",
    "ceil": "ceil", "sqrt": "sqrt", "exp": "exp", "exp2": "exp2", "log": "log", "log2": "log2",
    "floor_divide": "floor_divide",
}  # fmt: skip
_SHIFTS = {"left_shift": "shift_left", "right_shift": "shift_right"}


def _words(program: Program, slots: Slots, stream: int) -> list[str]:
    """Return a line for each block of words that the program draws, and one for each word."""
    found = {name: match for name, where in program.inputs.items() if (match := _WORD.fullmatch(where))}
    counter = ", ".join(slots.load(f"rng.{name}") for name in ("seed", "env_id", "episode", "step"))
    blocks = sorted({int(match[1]) for match in found.values()})
    draws = [f"words{block} = philox({counter}, uint32({stream + block}))" for block in blocks]
    return draws + [f"{name} = words{match[1]}[{match[2]}]" for name, match in found.items()]


def _expression(call: Call) -> str:
    """Return what one call computes of one row, in the dtype of its result."""
    function, arguments = call.function, call.arguments
    if len(call.shape) > 1:
        raise UnsupportedConstruct("arrays are not known to the numba backend: use backend='numpy'")
    if isinstance(function, np.ufunc):
        *dtypes, result = function.resolve_dtypes((*map(_weak_dtype, arguments), None))
        text = _ufunc(function.__name__, [_operand(a, d) for a, d in zip(arguments, dtypes, strict=True)], dtypes[0])
        return f"bool({text})" if result.kind == "b" else f"{result.name}({text})"
    if function in (np.where, select):
        condition, x, y = arguments
        condition = _operand(condition, np.dtype(np.bool_))
        return f"{_operand(x, call.dtype)} if {condition} else {_operand(y, call.dtype)}"
    if function is np.take:
        table, place = arguments
        number = f"{table.name}[{_operand(place, np.dtype(np.int64))}]"
        return f"{number} != 0" if call.dtype.kind == "b" else f"{call.dtype.name}({number})"
    if function in (np.ndarray.astype, converted):
        return _operand(arguments[0], call.dtype)
    if function is reinterpreted:
        return f"reinterpret({arguments[0].name}, {call.dtype.name})"
    if function is np.zeros_like:
        return _literal(0, call.dtype)
    raise UnsupportedConstruct(f"{function.__name__} is not known to the numba backend: use backend='numpy'")


def _ufunc(name: str, operands: list[str], dtype: np.dtype[Any]) -> str:
    if name in _INFIX:
        return f" {_INFIX[name]} ".join(operands)
    if name in _SHIFTS:
        return f"{_SHIFTS[name]}({', '.join(operands)}, {8 * dtype.itemsize})"
    if name in ("sin", "cos"):
        return f"{name}{8 * dtype.itemsize}({operands[0]})"
    if name == "fmod":
        return f"{'float_' if dtype.kind == 'f' else ''}remainder({', '.join(operands)})"
    if name in ("invert", "logical_not"):
        return f"{'not ' if dtype.kind == 'b' else '~'}{operands[0]}"
    if name in _FUNCTIONS:
        return f"{_FUNCTIONS[name]}({', '.join(operands)})"
    raise UnsupportedConstruct(f"{name} is not known to the numba backend: use backend='numpy'")


def _weak_dtype(value: Any) -> Any:
    """Return a block's dtype, or for a Python number its type, which does not widen the block beside it."""
    if hasattr(value, "dtype"):
        return value.dtype
    return np.dtype(np.bool_) if type(value) is bool else type(value)


def _operand(value: Any, dtype: np.dtype[Any]) -> str:
    """Return a block's name or a number, in this dtype."""
    if not isinstance(value, Traced):
        return _literal(value, dtype)
    if value.dtype == dtype:
        return value.name
    return f"({value.name} != 0)" if dtype.kind == "b" else f"{dtype.name}({value.name})"


def _literal(value: Any, dtype: np.dtype[Any]) -> str:
    # As C converts: to the dtype of NumPy scalars first.
    number = np.asarray(value).astype(dtype).item()
    return repr(number) if dtype.kind == "b" else f"{dtype.name}({number!r})"
