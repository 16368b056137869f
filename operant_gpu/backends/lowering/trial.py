"""A trial of an environment's functions on three rows, before anything is allocated."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from operant_gpu.backends.lowering.operations import NumpyRng
from operant_gpu.backends.lowering.programs import lower_to_numpy
from operant_gpu.environment import Environment
from operant_gpu.errors import InvalidConfig, UnsupportedConstruct
from operant_gpu.lang import next_power_of_2
from operant_gpu.spaces import action_layout, observation_layout

# No power of two: no Array has as many cells.
_ROWS = 3


def check_contract(environment: Environment, params: Any) -> None:
    """Run each of the environment's functions once and check what it returns.

    Raises:
        UnsupportedConstruct: If a function uses what the lowering does not know.
        InvalidConfig: If a function fails or returns something else than its contract says.
    """
    observation_space, action_space = environment.spaces(params)
    clock = np.zeros(_ROWS, np.int32)
    rng = NumpyRng(np.zeros(_ROWS, np.int64), np.arange(_ROWS, dtype=np.int32), clock, clock, 0)
    state = _as_columns(environment, "reset", _trial(environment, "reset", rng, params))
    result = _trial(environment, "step", state, _trial_action(action_space), rng, params)
    if not isinstance(result, tuple) or len(result) != 3:
        raise InvalidConfig("step", f"must return (State, reward, terminated), got {_describe(result)}")
    _as_columns(environment, "step", result[0])
    for name, value in zip(("reward", "terminated"), result[1:], strict=True):
        _check_block("step", name, value)
    _check_condition("step", "terminated", result[2])
    components = _trial(environment, "observe", state, params)
    size = observation_layout(observation_space).size
    share = _share(components, size)
    _check_tuple("observe", components, "components", size // share, observation_space)
    cells = () if share == 1 else (int(next_power_of_2(share)),)
    for position, value in enumerate(components):
        _check_block("observe", f"component {position}", value, cells)
    if environment.action_mask is None:
        return
    conditions = _trial(environment, "action_mask", state, params)
    _check_tuple("action_mask", conditions, "conditions", action_layout(action_space).num_actions, action_space)
    for position, value in enumerate(conditions):
        _check_block("action_mask", f"condition {position}", value)
        _check_condition("action_mask", f"condition {position}", value)


def _trial(environment: Environment, name: str, *arguments: Any) -> Any:
    function = lower_to_numpy(getattr(environment, name))
    try:
        with np.errstate(all="ignore"):
            return function(*arguments)
    except UnsupportedConstruct as error:
        raise UnsupportedConstruct(f"{_place(error, function)}: {error}") from error
    except Exception as error:
        raise InvalidConfig(name, f"{_place(error, function)}: {type(error).__name__}: {error}") from error


def _place(error: Exception, function: Callable[..., Any]) -> str:
    """Return file, line and text of the innermost line of the author's file that the error passed through."""
    file = function.__code__.co_filename
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if not frames:
        return f"{file}:{function.__code__.co_firstlineno}, in {function.__name__}"
    return f"{file}:{frames[-1].lineno}, in {frames[-1].name}: `{frames[-1].line}`"


def _trial_action(space: Any) -> Any:
    layout = action_layout(space)
    lows = layout.low or (0.0,) * layout.size
    blocks = tuple(np.full(_ROWS, low, np.int32 if layout.is_discrete else np.float32) for low in lows)
    return blocks if layout.shape else blocks[0]


def _as_columns(environment: Environment, name: str, state: Any) -> Any:
    if not isinstance(state, environment.state):
        raise InvalidConfig(name, f"must return {_signature(environment.state)}, got {_describe(state)}")
    columns = environment.column_types().items()
    blocks = []
    for value, (field, column) in zip(state, columns, strict=True):
        _check_block(name, f"field {field!r}", value, column.cells)
        blocks.append(np.broadcast_to(np.asarray(value).astype(column.dtype), (_ROWS, *column.cells)))
    return environment.state(*blocks)


def _share(components: Any, size: int) -> int:
    """Return how many numbers of an observation each component has: more than 1 if some are arrays."""
    arrays = isinstance(components, tuple) and any(np.ndim(value) == 2 for value in components)
    return size // len(components) if arrays and size % len(components) == 0 else 1


def _check_block(function: str, what: str, value: Any, cells: tuple[int, ...] = ()) -> None:
    shapes: tuple[tuple[int, ...], ...] = ((), (_ROWS,))
    expected = "a number, or a block of one number per environment"
    if cells:
        shapes = ((), (_ROWS, *cells), (1, *cells), (_ROWS, 1))
        expected = f"a number, or an Array's block with {cells[0]} cells, or one number per environment as x[:, None]"
    if isinstance(value, tuple) or np.shape(value) not in shapes or np.asarray(value).dtype.kind not in "biuf":
        raise InvalidConfig(function, f"{what} must be {expected}, got {_describe(value)}")


def _check_condition(function: str, what: str, value: Any) -> None:
    if np.asarray(value).dtype.kind != "b":
        raise InvalidConfig(function, f"{what} must be a condition, such as x > limit, got {_describe(value)}")


def _check_tuple(function: str, values: Any, what: str, size: int, space: Any) -> None:
    if not isinstance(values, tuple) or len(values) != size:
        raise InvalidConfig(function, f"must return a tuple of {size} {what}, for {space}, got {_describe(values)}")


def _signature(state: Any) -> str:
    return f"{state.__name__}({', '.join(state._fields)})"


def _describe(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, np.ndarray) and value.ndim == 2:
        hint = ", whose number is cell(x, 0)" if value.shape[1] == 1 else ""
        return f"a block of {value.dtype} with {value.shape[1]} cells{hint}"
    if isinstance(value, np.ndarray):
        return f"a block of {value.dtype}"
    return repr(value)
