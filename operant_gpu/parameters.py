"""Parameters of environments: numbers, which are compiled in, and what lies in memory instead.

In memory are tensors, for all environments or one number for each, and what is drawn for each episode. Both have one
NamedTuple, the definition's `params`: as they were given (numbers, tensors and distributions), or as they are (numbers
and live tensors).
"""

from __future__ import annotations

import inspect
import linecache
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from operant_gpu.errors import InvalidConfig, as_integer
from operant_gpu.randomization import RANGES, Distribution, Draw, parse
from operant_gpu.tensors import as_tensor

# How they lie in memory.
DTYPES = {bool: torch.bool, int: torch.int32, float: torch.float32}
NUMPY_DTYPES: dict[type, Any] = {bool: np.bool_, int: np.int32, float: np.float32}
_EXPECTED = {bool: "True or False", int: "an integer", float: "a finite number"}
_INT32 = range(-(2**31), 2**31)


def is_number(value: object) -> bool:
    """Tell whether a parameter is compiled in."""
    return not isinstance(value, Tensor | Distribution)


def in_memory(params: Any) -> tuple[str, ...]:
    """Return the names of the parameters that are not compiled in."""
    return tuple(name for name, value in params._asdict().items() if not is_number(value))


def types(params: Any) -> dict[str, type]:
    """Return the type of each parameter: bool, int or float."""
    return {name: type(default) for name, default in params._field_defaults.items()}


def draws_of(params: Any) -> dict[str, tuple[int, Draw]]:
    """Return which number of their stream the parameters that are drawn have, and how, by name."""
    kinds = types(params)
    return {
        name: (place, value.compiled(kinds[name]))
        for place, (name, value) in enumerate(params._asdict().items())
        if isinstance(value, Distribution)
    }


def notes(params: type[Any]) -> dict[str, str]:
    """Return what the comments behind a class's parameters say of them, such as a unit; "" where there is none."""
    try:
        source = inspect.getsource(params)
    except (OSError, TypeError):
        source = ""
    found = {match[1]: match[2] for match in re.finditer(r"^\s+(\w+)\s*:[^#\n]*#\s*(.*?)\s*$", source, re.MULTILINE)}
    return {name: found.get(name, "") for name in getattr(params, "_fields", ())}


def checked(name: str, value: Any, default: Any) -> bool | int | float | Tensor | Distribution:
    """Return a parameter as it was given: a number, a distribution (both may be text), or a tensor or array.

    Raises:
        InvalidConfig: If it is of another type than the default, or not finite.
    """
    kind = type(default)
    if kind not in DTYPES:
        raise InvalidConfig(name, f"a default must be a bool, int or float, got {default!r}")
    try:
        value = parse(value) if isinstance(value, str) else value
        if isinstance(value, Distribution):
            value.compiled(kind)
            return value
    except InvalidConfig as error:
        message = _unexpected(value, default) if error.param == "text" else error.args[1]
        raise InvalidConfig(name, message) from error
    is_array = hasattr(value, "__dlpack__") or hasattr(value, "__cuda_array_interface__")
    if is_array and not isinstance(value, np.generic):
        return _checked_tensor(name, value, kind)
    return _checked_number(name, value, default)


def _checked_number(name: str, value: Any, default: Any) -> bool | int | float:
    kind = type(default)
    if kind is bool and isinstance(value, bool | np.bool_):
        return bool(value)
    integer = as_integer(value)
    if kind is int and integer is not None:
        return integer
    number = float(value) if isinstance(value, float | np.floating) else integer
    if kind is float and number is not None and abs(number) <= sys.float_info.max:
        return float(number)
    raise InvalidConfig(name, _unexpected(value, default))


def _unexpected(value: Any, default: Any) -> str:
    expected = f"expected {_EXPECTED[type(default)]} (default {default!r}), a tensor or array of them, or {RANGES}"
    return f"{expected}, got {value!r}"


def _checked_tensor(name: str, value: Any, kind: type) -> Tensor:
    """Return a parameter's tensor in its dtype, a copy: nothing else that is written moves an environment."""
    try:
        given = as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidConfig(name, f"cannot be read as a tensor: {error}") from error
    dtype = given.dtype
    is_whole = not (dtype.is_floating_point or dtype.is_complex or dtype is torch.bool)
    if not {bool: dtype is torch.bool, int: is_whole, float: is_whole or dtype.is_floating_point}[kind]:
        raise InvalidConfig(name, f"expected a tensor of {DTYPES[kind]} for {_EXPECTED[kind]} each, got {dtype}")
    is_plain = given.layout is torch.strided and not given.is_nested and not given.is_meta
    if not is_plain or given.ndim > 1 or not given.numel():
        shape = f"{tuple(given.shape)} on {given.device}" if is_plain or given.is_meta else f"one of {given.layout}"
        raise InvalidConfig(name, f"expected a tensor () for all environments or (num_envs,) for each, got {shape}")
    if kind is int:
        # What torch knows extremes of; those of 64 bits without a sign come out negative.
        wide = given.to(torch.int64)
        least, most = int(wide.min()), int(wide.max())
        if not (least in _INT32 and most in _INT32) or (dtype is torch.uint64 and least < 0):
            raise InvalidConfig(name, f"expected integers of 32 bits, got {least} to {most}")
    tensor = given.to(DTYPES[kind], copy=True)
    if kind is float and not (fine := tensor.isfinite()).all():
        place = int((~fine).flatten().nonzero()[0])
        raise InvalidConfig(name, f"expected finite numbers, got {given.flatten()[place].item()} at {place}")
    return tensor


def check(params: Any, validate: Callable[..., None] | None, *tables: Any) -> None:
    """Let a definition's `validate` see the parameters as they were given: at their least, and at their greatest.

    Args:
        params: The parameters.
        validate: The definition's, or None.
        tables: What else it takes.

    Raises:
        InvalidConfig: As `validate`.
    """
    if validate is None:
        return
    least, greatest = extremes(params)
    validate(least, *tables)
    if in_memory(params):
        validate(greatest, *tables)


def extremes(params: Any) -> tuple[Any, Any]:
    """Return the parameters as numbers: those that are none by their least, and by their greatest, as in memory."""
    ends = []
    for value, kind in zip(params, types(params).values(), strict=True):
        if isinstance(value, Distribution):
            ends.append(tuple(_stored(end, kind) for end in value.ends))
        else:
            ends.append((value.min().item(), value.max().item()) if isinstance(value, Tensor) else (value, value))
    least, greatest = zip(*ends, strict=True) if ends else ((), ())
    return params._make(least), params._make(greatest)


def _stored(number: float, kind: type) -> Any:
    """Return a number as memory holds it."""
    return NUMPY_DTYPES[kind](number).item()


def allocated(params: Any, num_envs: int, device: torch.device) -> dict[str, Tensor]:
    """Return the live tensors of the parameters that are in memory, by name, on a device.

    Raises:
        InvalidConfig: If a tensor is not for as many environments, or on another device.
    """
    tensors = {}
    for name, kind in types(params).items():
        value = getattr(params, name)
        if isinstance(value, Distribution):
            # Until the first reset, which draws.
            tensors[name] = torch.full((num_envs,), _stored(value.ends[0], kind), dtype=DTYPES[kind], device=device)
        elif isinstance(value, Tensor):
            if value.ndim and len(value) != num_envs:
                expected = f"() for all environments, or ({num_envs},) for each"
                raise InvalidConfig(name, f"expected a tensor {expected}, got {tuple(value.shape)}")
            if value.device.type != "cpu" and value.device != device:
                raise InvalidConfig(name, f"expected a tensor on {device} or the CPU, got one on {value.device}")
            tensors[name] = value.to(device, copy=True).contiguous()
    return tensors


def numbers_of(params: Any, reader: Callable[[Any], Any] | str) -> Any:
    """Return the parameters for one who reads numbers alone: of others it is refused, with its line.

    Args:
        params: As they were given, or are.
        reader: What it is, such as "observation_space".
    """
    names = in_memory(params)
    if not names:
        return params

    def refusing(name: str) -> property:
        def read(_: Any) -> Any:
            frame = sys._getframe(1)
            while frame.f_code.co_filename == __file__ and frame.f_back is not None:
                frame = frame.f_back
            file, line = frame.f_code.co_filename, frame.f_lineno
            place = f"{file}:{line}: `{linecache.getline(file, line).strip()}`"
            raise InvalidConfig(name, f"{reader} reads it, {place}, so it must be a number: {_form(params, name)}")

        return property(read)

    own = type(params)
    members: dict[str, Any] = {name: refusing(name) for name in names}
    # What would tell of all of them, or compare them.
    whole = ("__eq__", "__ne__", "__hash__", "__contains__", "__repr__", "_asdict", "_replace")
    members |= dict.fromkeys(whole, lambda self, *_, **__: tuple(self))
    members["__iter__"] = lambda self: (getattr(self, name) for name in own._fields)
    members["__getitem__"] = lambda self, i: tuple(self)[i] if isinstance(i, slice) else getattr(self, own._fields[i])
    guarded: Any = type(own.__name__, (own,), {"__slots__": (), **members})
    return guarded._make(params)


def _form(params: Any, name: str) -> str:
    value = getattr(params, name)
    return f"got {value!r}" if isinstance(value, Distribution) else "got a tensor"


def saveable(params: Mapping[str, Any]) -> dict[str, bool | int | float | str | Tensor]:
    """Return parameters as checkpoints have them, with the texts of distributions."""
    return {name: str(value) if isinstance(value, Distribution) else value for name, value in params.items()}


def described(params: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Return parameters as files and errors have them: numbers, texts of distributions, and what tensors are."""
    saved = saveable(params)
    return {name: f"tensor {tuple(one.shape)}" if isinstance(one, Tensor) else one for name, one in saved.items()}
