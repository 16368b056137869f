"""Tables: numbers that all environments of a batch share, such as maps and series of prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from operant_gpu.errors import InvalidConfig
from operant_gpu.fields import TableType
from operant_gpu.tensors import as_tensor, torch_dtype


class NoTables(NamedTuple):
    """Tables of an environment that has none."""


def checked(name: str, value: Any, kind: TableType) -> Tensor:
    """Return a table as it is in memory, from an array, a tensor, a list, or of bytes from rows of text.

    Raises:
        InvalidConfig: If it is of another dtype or shape, or has a number that is none.
    """
    dtype, wanted = torch_dtype(kind.dtype), expected(kind)
    if isinstance(value, str):
        advice = "give an array or a list (a command takes neither: give the environment a default, tables=Tables(...))"
        raise InvalidConfig(name, f"{wanted}, got the text {value!r}: {advice}")
    try:
        given = as_tensor(_bytes(value) if kind.dtype == np.uint8 else value).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidConfig(name, f"{wanted}, got what cannot be read as a tensor: {error}") from error
    if given.layout is not torch.strided or given.is_nested or given.is_meta or given.is_quantized:
        raise InvalidConfig(name, f"{wanted}, got one of {given.dtype}, {given.layout}, on {given.device}")
    fits = len(given.shape) == len(kind.shape) and all(
        size in (None, found) for size, found in zip(kind.shape, given.shape, strict=True)
    )
    if not fits or not given.numel():
        raise InvalidConfig(name, f"{wanted}, got {tuple(given.shape)}{', which has no numbers' if fits else ''}")
    if not _is_like(given.dtype, kind.dtype.kind):
        raise InvalidConfig(name, f"{wanted}, got {given.dtype}")
    table = given.to(dtype).contiguous()
    # Infinities are numbers; a number that has become one is not.
    if dtype.is_floating_point:
        wrong = table.isnan() | (table.isinf() & ~given.double().isinf())
    else:
        wide = given.to(torch.int64)
        # As large as no integer with a sign is.
        wrong = (table.to(torch.int64) != wide) | ((wide < 0) if given.dtype is torch.uint64 else False)
    if wrong.any():
        place = tuple(wrong.nonzero()[0].tolist())
        raise InvalidConfig(name, f"{wanted}, got {given[place].item()} at {place}")
    return table


def expected(kind: TableType) -> str:
    """Return what a table is to be, as errors say it."""
    return f"expected a table of {kind.dtype} and shape ({', '.join(kind.axes)}{',' if len(kind.axes) == 1 else ''})"


def are_texts(value: Any) -> bool:
    """Tell whether something is a sequence of texts, such as the rows of a map."""
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(row, str) for row in value)


def _bytes(value: Any) -> Any:
    """Return rows of text as rows of bytes, and all else as it is."""
    return np.array([list(row.encode()) for row in value], np.uint8) if are_texts(value) and value else value


def _is_like(dtype: torch.dtype, kind: str) -> bool:
    """Tell whether numbers of a dtype can be those of a table: conditions, integers or floats."""
    if dtype is torch.bool or kind == "b":
        return dtype is torch.bool and kind == "b"
    if dtype.is_complex or dtype.is_floating_point:
        return kind == "f" and not dtype.is_complex
    return True


def allocated(tables: Any, device: torch.device) -> dict[str, Tensor]:
    """Return the live tensors of tables, by name, on a device.

    Raises:
        InvalidConfig: If one is on another device.
    """
    for name, table in tables._asdict().items():
        if table.device.type != "cpu" and table.device != device:
            raise InvalidConfig(name, f"expected a table on {device} or the CPU, got one on {table.device}")
    return {name: table.to(device, copy=True) for name, table in tables._asdict().items()}


def kept(tables: Any) -> dict[str, Tensor]:
    """Return copies of tables on the CPU, by name."""
    return {name: table.to("cpu", copy=True) for name, table in tables._asdict().items()}


def arrays(tables: Any) -> Any:
    """Return tables as arrays for functions that Python runs, which cannot write to them."""
    return tables._make(_read_only(table) for table in tables)


def _read_only(table: Tensor) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = table.detach().cpu().numpy().view()
    array.flags.writeable = False
    return array


def code(place: int) -> int:
    """Return what tells the first axis of the table in this place from those of others; the next axes follow."""
    return 1 + 3 * place


def report(tables: Mapping[str, Tensor], packed: int) -> str:
    """Return what is wrong with an index that `arrays.lookup` has noted.

    Args:
        tables: By name.
        packed: The index, times 64, and the code of the table's axis.
    """
    index, own = divmod(packed, 64)
    place, axis = divmod(own - 1, 3)
    name, table = list(tables.items())[place]
    return f"index {index} of axis {axis} of the table {name!r}, which has 0 to {table.shape[axis] - 1} there"
