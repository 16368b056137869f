"""Checks of what `VecEnv` is given: each returns the argument as it is meant, or raises `InvalidConfig`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from operant_gpu.backends.base import NO_LIMIT
from operant_gpu.environment import Definition
from operant_gpu.errors import InvalidConfig, as_integer, flag, mapping, one_of, whole
from operant_gpu.tensors import as_tensor

# Of state dictionaries. In those of format 1, some columns are narrower; before 3 nobody had branches. What has stopped
# is in those of environments that keep faults.
STATE_FORMAT, _OLDER_FORMATS = 3, (1, 2)
_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)


def definition(given: Any) -> Definition:
    """Return the definition of an environment."""
    if not isinstance(given, Definition):
        expected = "expected an Environment or a CudaEnvironment"
        raise InvalidConfig("environment", f"{expected}, got {given!r}: operant_gpu.make(id) takes a name")
    return given


def autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """Return the mode, given itself or by its name, such as "same_step"."""
    if isinstance(mode, AutoresetMode):
        return mode
    return AutoresetMode[one_of("autoreset_mode", mode, list(AutoresetMode.__members__))]


def debug(given: Any) -> tuple[bool, bool]:
    """Return whether each step is looked at, and whether steps that go wrong are kept."""
    if isinstance(given, str):
        one_of("debug", given, ("faults",), ", or True or False")
        return False, True
    return flag("debug", given), False


def render_mode(mode: str | None, environment: Definition) -> str | None:
    """Return the mode if the environment can be drawn that way."""
    if mode is None:
        return None
    mode = one_of("render_mode", mode, ("rgb_array",), ", or None for no pictures")
    if environment.draw is None:
        raise InvalidConfig("render_mode", f"{environment.id} has no draw function: give its Environment one")
    return mode


def step_limit(max_episode_steps: int | None, environment: Definition) -> int:
    """Return the time limit: the environment's own for None, none for -1."""
    limit = environment.max_episode_steps if max_episode_steps is None else max_episode_steps
    if limit is None or as_integer(limit) == -1:
        return NO_LIMIT
    return whole("max_episode_steps", limit, 1, NO_LIMIT, ", or -1 for no limit")


def num_steps(steps: Any) -> int:
    """Return the length of a rollout."""
    return whole("num_steps", steps, 1, NO_LIMIT)


def first_env_id(first: int, num_envs: int) -> int:
    """Return the id of the first environment; ids are int32."""
    return whole("first_env_id", first, 0, 2**31 - num_envs)


def seeds(given: Any, num_envs: int) -> int | list[int | None]:
    """Return the streams' seed, or that of each environment, None where its stream is to go on."""
    plain = _plain(given)
    if as_integer(plain) is not None:
        return whole("seed", plain, 0)
    if not isinstance(plain, Sequence) or len(plain) != num_envs:
        raise InvalidConfig("seed", f"expected an integer, or {num_envs} of them in a list, got {given!r}")
    return [None if seed is None else whole("seed", seed, 0) for seed in plain]


def picture(frame: Any, id: str) -> np.ndarray[Any, Any]:
    """Return what `draw` of the environment of this id gave, if it is a picture."""
    is_array = isinstance(frame, np.ndarray)
    if not is_array or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        what = f"{frame.dtype} {frame.shape}" if is_array else repr(frame)
        raise InvalidConfig("draw", f"expected a uint8 array (height, width, 3) of `draw` of {id}, got {what}")
    found: np.ndarray[Any, Any] = frame
    return found


def indices(given: Any, num_envs: int) -> list[int]:
    """Return the numbers of some environments."""
    plain = _plain(given)
    if as_integer(plain) is not None:
        plain = [plain]
    numbers = [as_integer(one) for one in plain] if isinstance(plain, Iterable) else [None]
    for number in numbers:
        if number is None:
            raise InvalidConfig("indices", f"expected numbers of environments, got {given!r}")
        if not 0 <= number < num_envs:
            raise InvalidConfig("indices", f"environment {number} is out of range: there are {num_envs}")
    return [number for number in numbers if number is not None]


def rows_chosen(param: str, given: Any, num_rows: int, device: torch.device, distinct: bool = False) -> Tensor:
    """Return the numbers of some rows, int64 (rows,) on a device.

    What is given on a GPU is not looked at, which would wait for it.

    Args:
        param: What they are given as.
        given: An integer, or some, as a list, an array or a tensor.
        num_rows: How many rows there are.
        device: Where they are wanted.
        distinct: Whether no row may be there twice.

    Raises:
        InvalidConfig: If they are no integers, out of range, or not distinct.
    """
    number = as_integer(given)
    try:
        rows = as_tensor([number] if number is not None else given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidConfig(param, f"expected numbers of rows, got {given!r}: {error}") from error
    dtype = rows.dtype
    # Of none, an empty list has no dtype.
    is_right = not (dtype.is_floating_point or dtype.is_complex or dtype is torch.bool) or not rows.numel()
    if rows.is_nested or rows.is_meta or rows.ndim > 1 or not is_right:
        hint = ": of a mask, give mask.nonzero()[:, 0]" if rows.dtype is torch.bool else ""
        found = f"{dtype} {'of several shapes' if rows.is_nested else tuple(rows.shape)}"
        raise InvalidConfig(param, f"expected integers of one axis, the numbers of rows, got {found}{hint}")
    rows = rows.reshape(-1)
    if "cpu" in (rows.device.type, device.type):
        _check_rows(param, rows.to("cpu", torch.int64), num_rows, distinct)
    return rows.to(device, torch.int64).contiguous()


def _check_rows(param: str, rows: Tensor, num_rows: int, distinct: bool) -> None:
    wrong = (rows < 0) | (rows >= num_rows)
    if wrong.any():
        first = int(wrong.int().argmax())
        raise InvalidConfig(param, f"row {int(rows[first])} is out of range: there are {num_rows}")
    if distinct:
        # NumPy sorts several times as fast.
        ordered = np.sort(rows.numpy())
        again = ordered[1:][ordered[1:] == ordered[:-1]]
        if again.size:
            raise InvalidConfig(param, f"row {again[0]} is there {(ordered == again[0]).sum()} times: name each once")


def _plain(given: Any) -> Any:
    """Return arrays, tensors and columns of tables as lists, and all else as it is."""
    try:
        return given.tolist() if hasattr(given, "tolist") and not isinstance(given, type) else given
    except RuntimeError:
        # Of a tensor without memory.
        return given


def saved(
    state_dict: Any, identity: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    """Return each of the environments' own tensors, by part and name, with what a state dictionary has for it."""
    mapping("state_dict", state_dict, "what `state_dict` returned")
    version = state_dict.get("format", "missing")
    if version not in (*_OLDER_FORMATS, STATE_FORMAT):
        raise InvalidConfig("state_dict", f"format is {version!r}, this version reads up to {STATE_FORMAT}")
    given = _entries(state_dict)
    for name, value in _entries(identity).items():
        found = given.get(name, "missing")
        if not isinstance(found, type(value)) or found != value:
            raise InvalidConfig("state_dict", f"{name} is {found!r}, expected {value!r}")
    pairs = []
    for part, columns in tensors.items():
        kept = mapping("state_dict", state_dict.get(part, {}), f"tensors as its {part}")
        for name, column in columns.items():
            one = kept.get(name)
            if version == 1 and part == "columns" and isinstance(one, Tensor):
                one = one.to(column.dtype)
            if one is None and (name == "stopped" or (name == "branches" and version < STATE_FORMAT)):
                one = torch.zeros_like(column)
            pairs.append((column, _saved_column(f"{part}[{name!r}]", one, column)))
    return pairs


def _entries(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a state dictionary has, its parameters as entries of their own."""
    params = mapping("state_dict", state_dict.get("params"), "parameters as its params")
    others = {name: value for name, value in state_dict.items() if name != "params"}
    return others | {f"params[{name!r}]": value for name, value in params.items()}


def _saved_column(name: str, given: Any, column: Tensor) -> Tensor:
    """Return what was saved of a column, as a tensor or an array."""
    kind = f"{column.dtype} {tuple(column.shape)}"
    try:
        tensor = as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidConfig("state_dict", f"{name} is missing or not {kind}") from error
    if tensor.shape != column.shape or tensor.dtype != column.dtype or tensor.is_meta:
        raise InvalidConfig("state_dict", f"{name} is missing or not {kind}")
    return tensor


def reset_options(
    options: Mapping[str, Any] | None, num_envs: int, device: torch.device, limit: int
) -> tuple[Tensor | None, Tensor | str | None]:
    """Return which environments are to be reset, None for all, and the steps that count as taken: "random", or None."""
    if options is None:
        return None, None
    known = ("reset_mask", "elapsed")
    unknown = [option for option in mapping("options", options, "options") if option not in known]
    if unknown:
        raise InvalidConfig("options", f"unknown option {unknown}: there are {', '.join(map(repr, known))}")
    given = options.get("reset_mask")
    mask = None if given is None else _per_env("reset_mask", given, num_envs, device, torch.bool)
    return mask, _elapsed(options.get("elapsed"), num_envs, device, limit)


def _per_env(option: str, given: Any, num_envs: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return one value for each environment."""
    try:
        tensor = as_tensor(given).to(device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidConfig("options", f"{option} must be a tensor or array, got {given!r}: {error}") from error
    # Integers of any width are taken.
    is_right = tensor.dtype == dtype or (dtype == torch.int32 and tensor.dtype in _INTEGERS)
    if not is_right or tensor.shape != (num_envs,):
        kind = "bool" if dtype == torch.bool else "integers"
        found = f"{tensor.dtype} {tuple(tensor.shape)}"
        raise InvalidConfig("options", f"{option} must be {kind} of shape ({num_envs},), got {found}")
    return tensor.contiguous()


def _elapsed(given: Any, num_envs: int, device: torch.device, limit: int) -> Tensor | str | None:
    if given is None:
        return None
    if isinstance(given, str):
        given = one_of("options", given, ("random",), " as elapsed, or steps")
    if limit == NO_LIMIT:
        raise InvalidConfig("options", "elapsed needs a time limit: give max_episode_steps")
    if isinstance(given, str):
        return given
    number = as_integer(_plain(given))
    if number is None:
        steps = _per_env("elapsed", given, num_envs, device, torch.int32)
        least, greatest = int(steps.min()), int(steps.max())
    else:
        least = greatest = number
    if least < 0 or greatest >= limit:
        raise InvalidConfig("options", f"elapsed must be from 0 to {limit - 1}, got {least} to {greatest}")
    if number is not None:
        # Not before it is known to be small: a tensor does not hold every integer.
        steps = torch.full((num_envs,), number, device=device)
    return steps.to(torch.int32)
