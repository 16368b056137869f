"""What the annotations of `State` and `Tables` say: the dtype and the shape of each field."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

from operant_gpu.errors import InvalidConfig, as_integer
from operant_gpu.lang import Array, Table, next_power_of_2, numpy_dtype, tl

_DTYPES = "tl.float32, tl.float64, tl.int1, tl.int8, tl.int16, tl.int32, tl.int64 or tl.uint8"
# Those of `lookup`.
_MOST_AXES = 3
# Of a block of Triton's.
MOST_CELLS = 2**20


class ColumnType(NamedTuple):
    """What one environment has in a column of the state: a number, or an array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Count of its numbers."""
        return math.prod(self.shape)

    @property
    def cells(self) -> tuple[int, ...]:
        """Axes of a block beside that of the environments: () of a number, (width,) of an array, a power of two."""
        return (int(next_power_of_2(self.size)),) if self.shape else ()


class TableType(NamedTuple):
    """What a table is to be; None is an axis of any length.

    Attributes:
        dtype: Of its numbers.
        shape: Sizes of its axes.
        axes: What errors say of each: "any", "5", or "size=5" of a parameter's.
    """

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    axes: tuple[str, ...]


def resolve(cls: type[Any], names: Mapping[str, Any] | None) -> None:
    """Put values in place of annotations that `from __future__ import annotations` left as text.

    Names are those of the class's module, and those of the functions under way that it may have been defined in.

    Args:
        cls: A NamedTuple class.
        names: Those of the module, where the interpreter does not know it.
    """
    if bare := [name for name in cls._fields if name not in cls.__annotations__]:
        advice = f"write class {cls.__name__}(NamedTuple) with all its fields"
        raise InvalidConfig(cls.__name__, f"field {bare[0]!r} has no annotation in the class itself: {advice}")
    module = sys.modules.get(cls.__module__)
    known = dict(vars(module) if module else names or {"tl": tl, "Array": Array, "Table": Table})
    # Such as "make" of "make.<locals>.State".
    functions = {name.rpartition(".")[2] for name in cls.__qualname__.split(".<locals>.")[:-1]}
    frames = [one for one in _frames() if one.f_globals.get("__name__") == cls.__module__]
    for frame in reversed([one for one in frames if one.f_code.co_name in functions]):
        known |= frame.f_locals
    for name, annotation in cls.__annotations__.items():
        text = getattr(annotation, "__forward_arg__", annotation)
        if isinstance(text, str):
            try:
                cls.__annotations__[name] = eval(text, known)
            except Exception as error:
                advice = (
                    "as text, it may use names of its module and of the function that defines the class, which makes "
                    "the Environment too; without `from __future__ import annotations` any names"
                )
                message = f"is annotated {text}: {type(error).__name__}: {error}; {advice}"
                raise InvalidConfig(f"{cls.__name__}.{name}", message) from error


def _frames() -> Iterator[FrameType]:
    """Yield the functions under way, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def column_types(state: type[Any], params: Any) -> dict[str, ColumnType]:
    """Return what each column of a state holds of one environment.

    Raises:
        InvalidConfig: If an annotation is not one that a column can have.
    """
    types = {}
    for name, annotation in state.__annotations__.items():
        where = f"field {name!r} of {state.__name__}"
        if not isinstance(annotation, Array):
            types[name] = ColumnType(_dtype("state", where, annotation, annotation, "Array"), ())
            continue
        dtype = _dtype("state", where, annotation, annotation.dtype, "Array")
        if not annotation.shape:
            raise InvalidConfig("state", f"{where} is an Array without an axis: annotate it {annotation.dtype!r}")
        shape = _sizes("state", where, annotation, params)
        if math.prod(shape) > MOST_CELLS:
            raise InvalidConfig(
                "state", f"{where} is an Array of shape {shape}: expected at most {MOST_CELLS:,} numbers"
            )
        types[name] = ColumnType(dtype, shape)
    return types


def table_types(tables: type[Any], params: Any) -> dict[str, TableType]:
    """Return what each table is to be.

    Raises:
        InvalidConfig: If an annotation is not one that a table can have.
    """
    types = {}
    for name, annotation in tables.__annotations__.items():
        where = f"field {name!r} of {tables.__name__}"
        if not isinstance(annotation, Table):
            raise InvalidConfig("tables", f"{where} is annotated {annotation!r}: expected Table(dtype, shape)")
        dtype = _dtype("tables", where, annotation, annotation.dtype, "Table")
        shape = annotation.shape
        if not isinstance(shape, tuple) or not 1 <= len(shape) <= _MOST_AXES:
            raise InvalidConfig("tables", f"{where} is annotated {annotation!r}: expected 1 to {_MOST_AXES} axes")
        sizes = iter(_sizes("tables", where, annotation, params))
        found = tuple(None if size is None else next(sizes) for size in shape)
        types[name] = TableType(dtype, found, tuple(map(_said, shape, found)))
    return types


def _dtype(param: str, where: str, annotation: object, dtype_of: object, kind: str) -> np.dtype[Any]:
    dtype = numpy_dtype(dtype_of)
    if dtype is None or (dtype.kind == "u" and dtype.itemsize > 1):
        expected = f"{_DTYPES}, or {kind}(dtype, shape) of one of them"
        raise InvalidConfig(param, f"{where} is annotated {annotation!r}: expected {expected}")
    return dtype


def _sizes(param: str, where: str, annotation: Any, params: Any) -> tuple[int, ...]:
    """Return the sizes of an annotation's axes but for those of any length; names are those of parameters."""
    wrong = f"{where} is annotated {annotation!r}: a shape is a tuple of sizes of at least 1"
    if not isinstance(annotation.shape, tuple):
        raise InvalidConfig(param, wrong)
    sizes = []
    for size in annotation.shape:
        if size is None and isinstance(annotation, Table):
            continue
        if isinstance(size, str):
            sizes.append(_named_size(param, f"{where} is annotated {annotation!r}", size, params))
            continue
        number = as_integer(size) or 0
        if number < 1:
            raise InvalidConfig(param, f"{wrong}, or names of integer parameters")
        sizes.append(number)
    return tuple(sizes)


def _said(size: int | str | None, found: int | None) -> str:
    return "any" if found is None else f"{size}={found}" if isinstance(size, str) else str(found)


def _named_size(param: str, what: str, name: str, params: Any) -> int:
    integers = [name for name, default in params._field_defaults.items() if type(default) is int]
    if name not in integers:
        known = ", ".join(integers) or "none"
        raise InvalidConfig(param, f"{what}: {name!r} is no integer parameter, of which there are {known}")
    value = getattr(params, name)
    if type(value) is not int:
        raise InvalidConfig(name, f"{what}, so it must be a number: got one in memory")
    if value < 1:
        raise InvalidConfig(name, f"{what}, so it must be at least 1, got {value}")
    return value
