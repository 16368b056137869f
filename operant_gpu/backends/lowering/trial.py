"""A trial of an environment's functions on three rows, before anything is allocated: one run, checked and recorded."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from operant_gpu.backends.lowering.programs import (
    Programs,
    action_of,
    lower_to_numpy,
    metrics_of,
    params_of,
    state_of,
    tables_of,
    trace_draws,
)
from operant_gpu.backends.lowering.tracing import ROWS, Program, Tape
from operant_gpu.environment import Definition, Environment
from operant_gpu.errors import InvalidConfig, UnsupportedConstruct
from operant_gpu.lang import next_power_of_2
from operant_gpu.parameters import extremes, in_memory
from operant_gpu.spaces import action_layout, observation_layout
from operant_gpu.tables import NoTables


class Trial(NamedTuple):
    """What came of an environment's functions.

    Attributes:
        programs: They, for the CPU; None for those in CUDA C++, or where the lowering does not know what they use.
        width: How many cells the widest block of state and functions has, 1 if there are no arrays.
        refusal: What the lowering does not know, where Triton may.
    """

    programs: Programs | None = None
    width: int = 1
    refusal: UnsupportedConstruct | None = None


def try_out(environment: Definition, params: Any, tables: Any = (), notes: bool = False) -> Trial:
    """Run each of the environment's functions once, check what it returns, and make programs of what it did.

    Args:
        environment: The definition.
        params: Its parameters, as they were given.
        tables: Its tables.
        notes: Whether the programs are to note indices beyond tables.

    Raises:
        InvalidConfig: If a function fails or returns something else than its contract says.
    """
    if not isinstance(environment, Environment):
        return Trial()
    tables = tables or NoTables()
    shapes = [(1, *column.cells) for column in environment.column_types(params).values()]
    try:
        programs, refusal = _programs(environment, params, tables, notes), None
    except UnsupportedConstruct as error:
        if error.is_everywhere:
            raise
        programs, refusal = None, error
        if (names := in_memory(params)) and _has_arrays(environment, params):
            # Where the sizes are equal, Triton would broadcast one that meets an Array wrong, without a word.
            raise InvalidConfig(names[0], f"cannot be in memory beside arrays, for {error}: give a number") from error
    for program in programs or ():
        shapes += [call.shape for call in program.calls]
        shapes += [result.shape for result in program.results if isinstance(result, np.ndarray)]
    return Trial(programs, max([1, *(shape[1] for shape in shapes if len(shape) == 2)]), refusal)


def _programs(environment: Environment, params: Any, tables: Any, notes: bool) -> Programs:
    """Return the programs; name a parameter that is in memory and must be a number."""
    try:
        return _Trial(environment, params, tables, notes).programs()
    except (InvalidConfig, UnsupportedConstruct) as error:
        names, numbers = in_memory(params), extremes(params)[0]
        # Of what fails with numbers too, they are not the cause.
        if names and _fails(environment, numbers, tables) is None:
            own = ((name, numbers._replace(**{name: getattr(params, name)})) for name in names)
            alone = ((name, _fails(environment, one, tables)) for name, one in own)
            name, cause = next((one for one in alone if one[1]), (names[0], error))
            meets_arrays = _has_arrays(environment, params)
            other = f", or write beside(params.{name}) where it meets an Array" if meets_arrays else ""
            raise InvalidConfig(name, f"cannot be in memory, for {cause}: give a number{other}") from error
        raise


def _has_arrays(environment: Environment, params: Any) -> bool:
    return any(column.shape for column in environment.column_types(params).values())


def _fails(environment: Environment, params: Any, tables: Any) -> Exception | None:
    try:
        _Trial(environment, params, tables, notes=False).programs()
    except (InvalidConfig, UnsupportedConstruct) as error:
        return error
    return None


class _Trial:
    """Runs the functions of one environment."""

    def __init__(self, environment: Environment, params: Any, tables: Any, notes: bool) -> None:
        self._environment, self._params, self._tables, self._notes = environment, params, tables, notes
        self._done: dict[Any, Any] = {}
        self._observations, actions = environment.spaces(params, tables)
        self._actions, self._layout = actions, action_layout(actions)

    def programs(self) -> Programs:
        return Programs(trace_draws(self._params), self._reset(), self._step(), self._observe(), self._action_mask())

    def _run(self, name: str, tape: Tape, *arguments: Any) -> Any:
        function = lower_to_numpy(getattr(self._environment, name), self._done)
        try:
            with np.errstate(all="ignore"):
                return function(*arguments, params_of(self._params, tape), *tables_of(self._tables, tape))
        except UnsupportedConstruct as error:
            raise UnsupportedConstruct(f"{_place(error, function)}: {error}", error.is_everywhere) from error
        except Exception as error:
            raise InvalidConfig(name, f"{_place(error, function)}: {type(error).__name__}: {error}") from error

    def _reset(self) -> Program:
        tape = self._tape()
        state = self._run("reset", tape, tape.rng())
        self._check_state("reset", state)
        return tape.program(state)

    def _step(self) -> Program:
        tape = self._tape()
        metrics = self._environment.metrics
        result = self._run("step", tape, self._state(tape), action_of(self._layout, tape), tape.rng())
        parts = ("State", "reward", "terminated", *([metrics.__name__] if metrics._fields else []))
        if not isinstance(result, tuple) or len(result) != len(parts):
            is_fourth = isinstance(result, tuple) and len(result) == 4
            hint = "; a fourth needs metrics= of the environment" if is_fourth else ""
            raise InvalidConfig("step", f"must return ({', '.join(parts)}), got {_describe(result)}{hint}")
        state, reward, terminated, *rest = result
        self._check_state("step", state)
        for name, value in (("reward", reward), ("terminated", terminated)):
            _check_block("step", name, value)
        _check_condition("step", "terminated", terminated)
        for given in rest:
            _check_named_tuple("step", given, metrics)
            for name, value in given._asdict().items():
                _check_block("step", f"metric {name!r}", value)
        return tape.program([*state, reward, terminated, *metrics_of(self._environment, rest[0] if rest else (), tape)])

    def _observe(self) -> Program:
        tape = self._tape()
        components = self._run("observe", tape, self._state(tape))
        size = observation_layout(self._observations).size
        share = _share(components, size)
        _check_tuple("observe", components, "components", size // share, self._observations)
        cells = () if share == 1 else (int(next_power_of_2(share)),)
        for position, value in enumerate(components):
            _check_block("observe", f"component {position}", value, cells)
        return tape.program(components)

    def _action_mask(self) -> Program:
        tape = self._tape()
        if self._environment.action_mask is None:
            return tape.program(())
        conditions = self._run("action_mask", tape, self._state(tape))
        _check_tuple("action_mask", conditions, "conditions", self._layout.num_actions, self._actions)
        for position, value in enumerate(conditions):
            _check_block("action_mask", f"condition {position}", value)
            _check_condition("action_mask", f"condition {position}", value)
        return tape.program(conditions)

    def _tape(self) -> Tape:
        return Tape(self._notes)

    def _state(self, tape: Tape) -> Any:
        return state_of(self._environment, self._params, tape)

    def _check_state(self, function: str, state: Any) -> None:
        _check_named_tuple(function, state, self._environment.state)
        columns = self._environment.column_types(self._params)
        for value, (field, column) in zip(state, columns.items(), strict=True):
            _check_block(function, f"field {field!r}", value, column.cells)


def _place(error: Exception, function: Callable[..., Any]) -> str:
    """Return file, line and text of the innermost line of the author's file that the error passed through."""
    file = function.__code__.co_filename
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if not frames:
        return f"{file}:{function.__code__.co_firstlineno}, in {function.__name__}"
    return f"{file}:{frames[-1].lineno}, in {frames[-1].name}: `{frames[-1].line}`"


def _share(components: Any, size: int) -> int:
    """Return how many numbers of an observation each component has: more than 1 if some are arrays."""
    arrays = isinstance(components, tuple) and any(
        isinstance(value, np.ndarray) and value.ndim == 2 for value in components
    )
    return size // len(components) if arrays and size % len(components) == 0 else 1


def _check_named_tuple(function: str, value: Any, expected: type[Any]) -> None:
    if not isinstance(value, expected):
        name = expected.__name__
        other = f", another class of that name, of {type(value).__module__}" if type(value).__name__ == name else ""
        signature = f"{name}({', '.join(expected._fields)})"
        raise InvalidConfig(function, f"must return {signature}, got {_describe(value)}{other}")


def _check_block(function: str, what: str, value: Any, cells: tuple[int, ...] = ()) -> None:
    # Of a row of a table there is one number for all.
    shapes: tuple[tuple[int, ...], ...] = ((), (ROWS,), (1,))
    expected = "a number, or a block of one number per environment"
    if cells:
        shapes = ((), (ROWS, *cells), (1, *cells), (ROWS, 1))
        expected = f"a number, or an Array's block with {cells[0]} cells, or one number per environment as x[:, None]"
    # No NumPy function takes it: a block would record the call.
    if isinstance(value, tuple) or (found := np.asarray(value)).shape not in shapes or found.dtype.kind not in "biuf":
        raise InvalidConfig(function, f"{what} must be {expected}, got {_describe(value)}")


def _check_condition(function: str, what: str, value: Any) -> None:
    if np.asarray(value).dtype.kind != "b":
        raise InvalidConfig(function, f"{what} must be a condition, such as x > limit, got {_describe(value)}")


def _check_tuple(function: str, values: Any, what: str, size: int, space: Any) -> None:
    if not isinstance(values, tuple) or len(values) != size:
        raise InvalidConfig(function, f"must return a tuple of {size} {what}, for {space}, got {_describe(values)}")


def _describe(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, np.ndarray) and value.shape == (1, ROWS):
        return (
            f"a block of {value.dtype} with an axis too many: of a tuple, such as the action of a Box, take action[0]"
        )
    if isinstance(value, np.ndarray) and value.ndim == 2:
        hint = ", whose number is cell(x, 0)" if value.shape[1] == 1 else ""
        return f"a block of {value.dtype} with {value.shape[1]} cells{hint}"
    if isinstance(value, np.ndarray):
        return f"a block of {value.dtype}"
    return repr(value)
