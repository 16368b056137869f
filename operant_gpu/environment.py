"""Definitions of environments as frozen values: `Environment`, and what it shares with those of other languages."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium import Space

from operant_gpu import fields, parameters, tables
from operant_gpu.errors import InvalidConfig, mapping, meant, whole
from operant_gpu.fields import ColumnType
from operant_gpu.lang import is_jit_function
from operant_gpu.metrics import NoMetrics, Row, rows_of
from operant_gpu.spaces import action_layout, observation_layout
from operant_gpu.tables import NoTables

if TYPE_CHECKING:
    from operant_gpu.vector import VecEnv

# What VecEnv itself takes: an environment's own parameters must have other names.
_RESERVED = {
    *("num_envs", "params", "device", "backend", "autoreset_mode", "max_episode_steps", "output", "copy", "debug"),
    *("render_mode", "first_env_id"),
}
# Those, and what the calls take that make them.
_TAKEN = _RESERVED | {"self", "id"}
KEYS = ("up", "down", "left", "right", "space", "none")
_ARGUMENTS = {
    "reset": ("rng", "params"),
    "step": ("state", "action", "rng", "params"),
    "observe": ("state", "params"),
    "action_mask": ("state", "params"),
}
# What may be functions of a definition, what may be there instead, and what they take.
_FUNCTIONS = (
    ("observation_space", Space, "a Box or another of gymnasium.spaces", ("params",)),
    ("action_space", Space, "a Box or another of gymnasium.spaces", ("params",)),
    ("validate", type(None), "None", ("params",)),
    ("draw", type(None), "None", ("state", "params")),
)


# What `VecEnv.get_logs` has beside metrics.
_LOGS = {"episode_count", "mean_reward", "mean_length"}
# So many can be told apart by where a bad index was noted.
_MOST_TABLES = 20


class NoParams(NamedTuple):
    """Parameters of an environment that has none."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Definition:
    """What every environment has, however its functions are written: its columns, constants and spaces.

    Attributes:
        id: Name with version, such as "GridWalk-v0".
        state: NamedTuple class with one field per column, annotated with its dtype (`tl.float32`, ...), or with
            `Array(dtype, shape)` for a vector or a board in each environment.
        observation_space: Box, Discrete or MultiBinary of gymnasium.spaces, or a function from params to one.
        action_space: Discrete, MultiDiscrete or float32 Box (k,), or a function from params to one.
        params: NamedTuple class of ints, floats and bools with defaults. Users give numbers, which are compiled into
            the kernels, or tensors and distributions, which are blocks in memory.
        tables: NamedTuple class of `Table(dtype, shape)`, or an instance of one, whose arrays are the defaults. Every
            function of an environment that has tables takes them as its last argument, in CUDA C++ after `params`.
        metrics: NamedTuple class with one field per metric, annotated with `Last`, `Sum`, `Mean`, `Max` or `Min` of
            `operant_gpu.metrics`. `step` of an environment that has metrics returns one as its fourth value.
        max_episode_steps: Steps after which an episode is truncated, or None.
        reward_threshold: Mean return at which the task counts as solved. `operant-gpu train` ends there. None if there
            is no such return.
        validate: Function of the params that raises `InvalidConfig` where they make no sense. If the environment has
            tables, their arrays are its second argument. None if all params make sense.
        draw: Function (state, params) of one environment, in plain numbers and arrays, that returns a picture: a uint8
            array (height, width, 3). With tables, their arrays are its third argument. None if there is no picture.
        keys: The actions of a person who plays, by key: "up", "down", "left", "right", "space" and "none". The action
            of "none" is taken while no key is pressed; without it the environment waits for a key. None if the
            environment cannot be played.

    Raises:
        InvalidConfig: If a part is missing or of the wrong kind.
    """

    id: str
    state: type[Any]
    observation_space: Space[Any] | Callable[..., Space[Any]]
    action_space: Space[Any] | Callable[..., Space[Any]]
    params: type[Any] = NoParams
    tables: Any = NoTables
    metrics: type[Any] = NoMetrics
    max_episode_steps: int | None = None
    reward_threshold: float | None = None
    validate: Callable[..., None] | None = None
    draw: Callable[..., np.ndarray[Any, Any]] | None = None
    keys: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not re.fullmatch(r"[\w.-]+-v\d+", self.id):
            raise InvalidConfig("id", f"expected a name with a version, such as 'GridWalk-v0', got {self.id!r}")
        for name, cls in (("state", self.state), ("params", self.params), ("tables", self.table_class)):
            _check_named_tuple(name, cls)
        _check_named_tuple("metrics", self.metrics)
        for cls in (self.state, self.table_class, self.metrics):
            fields.resolve(cls, self._names())
        if not self.state._fields:
            raise InvalidConfig(
                "state", f"{self.state.__name__} has no field: an environment needs at least one column"
            )
        missing = [field for field in self.params._fields if field not in self.params._field_defaults]
        if missing:
            raise InvalidConfig("params", f"every field needs a default value, missing for {', '.join(missing)}")
        for what, names in (("params", self.params._fields), ("tables", self.table_class._fields)):
            if taken := sorted(_TAKEN.intersection(names)):
                raise InvalidConfig(what, f"{', '.join(taken)} is an argument of VecEnv: choose another name")
        defaults = self.params(**self.params._field_defaults)
        self.column_types(defaults)
        self._check_tables(defaults)
        if taken := sorted(_LOGS.intersection(self.metrics._fields)):
            raise InvalidConfig("metrics", f"{', '.join(taken)} is in what get_logs returns: choose another name")
        rows_of(self.metrics)
        if self.max_episode_steps is not None:
            limit = whole("max_episode_steps", self.max_episode_steps, 1, note=", or None")
            object.__setattr__(self, "max_episode_steps", limit)
        for name, kind, other, takes in _FUNCTIONS:
            function = getattr(self, name)
            # Classes can be called too, and are none of them.
            if isinstance(function, type) or not (callable(function) or isinstance(function, kind)):
                raise InvalidConfig(name, f"expected {other}, or a function, got {function!r}")
            if callable(function):
                _check_arguments(name, function, (*takes, "tables") if self.has_tables else takes)
        if self.keys is not None and not isinstance(self.keys, Mapping):
            raise InvalidConfig("keys", f"expected a dictionary of keys and their actions, got {self.keys!r}")
        for key in self.keys or ():
            if key not in KEYS:
                raise InvalidConfig("keys", f"unknown key {key!r}: expected some of {', '.join(KEYS)}")

    @property
    def has_action_mask(self) -> bool:
        """Whether the environment tells which actions are legal."""
        raise NotImplementedError

    def __copy__(self) -> Definition:
        """Return this one: definitions do not change."""
        return self

    def __deepcopy__(self, memo: object) -> Definition:
        """Return this one."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the name that a module has for it, as functions are pickled.

        Raises:
            InvalidConfig: If no module has it.
        """
        # That of its state first; the program itself, which is another one in other processes, last.
        others = [name for name in (self.state.__module__, *sys.modules) if name not in ("__main__", "__mp_main__")]
        for module in (*others, "__main__"):
            for name, value in list(getattr(sys.modules.get(module), "__dict__", {}).items()):
                if value is self:
                    return _attribute, (module, name)
        message = f"{self.id} can be pickled by its name only, and no module has one for it"
        raise InvalidConfig("environment", f"{message}: assign it to a name at the top level of a file")

    def __call__(self, num_envs: int = 1, **settings: Any) -> VecEnv:
        """Make a `VecEnv` of `num_envs` environments.

        Args:
            num_envs: How many environments to step together.
            settings: Arguments of `VecEnv` (device, backend, ...) and fields of `params`.
        """
        from operant_gpu.vector import VecEnv

        own = {name: settings.pop(name) for name in _RESERVED & settings.keys()}
        given = own.pop("params", None)
        params = {} if given is None else mapping("params", given, "parameters")
        return VecEnv(self, num_envs, params={**params, **settings}, **own)

    @property
    def table_class(self) -> Any:
        """The NamedTuple class of the tables."""
        return self.tables if isinstance(self.tables, type) else type(self.tables)

    @property
    def has_tables(self) -> bool:
        """Whether functions take tables."""
        return bool(self.table_class._fields)

    @property
    def metric_rows(self) -> list[Row]:
        """What lies in memory of the metrics."""
        return rows_of(self.metrics)

    def _check_tables(self, params: Any) -> None:
        names = self.table_class._fields
        if both := sorted(set(names).intersection(self.params._fields)):
            raise InvalidConfig("tables", f"{', '.join(both)} is a parameter too: choose another name")
        if len(names) > _MOST_TABLES:
            raise InvalidConfig("tables", f"expected at most {_MOST_TABLES}, got {len(names)}")
        kinds = fields.table_types(self.table_class, params)
        for name, value in self.default_tables().items():
            tables.checked(name, value, kinds[name])

    def default_tables(self) -> dict[str, Any]:
        """Return the tables that need not be given, by name."""
        own = {} if isinstance(self.tables, type) else self.tables._asdict()
        return {**self.table_class._field_defaults, **own}

    def make_params(self, overrides: Mapping[str, Any]) -> Any:
        """Return the params alone of `make_given`."""
        return self.make_given(overrides)[0]

    def make_given(self, given: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return `params` and `tables` with defaults replaced by what is given, by name, checked.

        Returns:
            Of the parameters numbers, distributions and copies of tensors. Tables are tensors, which share the memory
                of what was given where they can.

        Raises:
            InvalidConfig: If a name is unknown, a table is missing, a value is of the wrong type or `validate` refuses
                it.
        """
        for name in mapping("params", given, "parameters"):
            if name not in (*self.params._fields, *self.table_class._fields):
                raise InvalidConfig(name, _unknown(name, self))
        defaults = self.params._field_defaults
        values = {
            name: parameters.checked(name, given.get(name, default), default) for name, default in defaults.items()
        }
        params, own = self.params(**values), {**self.default_tables(), **given}
        kinds = fields.table_types(self.table_class, params)
        for name in kinds:
            if name not in own:
                advice = f"give {name}=..., or the definition a default"
                raise InvalidConfig(name, f"{tables.expected(kinds[name])} to make {self.id}, got none: {advice}")
        made = self.table_class(**{name: tables.checked(name, own[name], kind) for name, kind in kinds.items()})
        parameters.check(params, self.validate, *self.table_arrays(made))
        # Raises if a size is not at least 1.
        self.column_types(params)
        return params, made

    def table_arrays(self, given: Any) -> tuple[Any, ...]:
        """Return what functions that Python runs get beside the parameters."""
        return (tables.arrays(given),) if self.has_tables else ()

    def spaces(self, params: Any, given: Any = ()) -> tuple[Space[Any], Space[Any]]:
        """Return the observation and action spaces of one environment with these params and tables.

        Raises:
            InvalidConfig: If a space has no layout in memory, or has no actions for `action_mask` to tell of.
        """
        shown = self.table_arrays(given)
        observation, action = (self._space(name, params, shown) for name in ("observation_space", "action_space"))
        observation_layout(observation)
        layout = action_layout(action)
        if self.has_action_mask and not layout.is_discrete:
            raise InvalidConfig("action_mask", f"needs a Discrete or MultiDiscrete action space, got {action!r}")
        return observation, action

    def _space(self, name: str, params: Any, shown: tuple[Any, ...]) -> Space[Any]:
        space: Space[Any] | Callable[..., Space[Any]] = getattr(self, name)
        return space(parameters.numbers_of(params, name), *shown) if callable(space) else space

    def column_types(self, params: Any) -> dict[str, ColumnType]:
        """Return what each column of the state holds of one environment.

        Raises:
            InvalidConfig: If a parameter is no size.
        """
        return fields.column_types(self.state, params)

    def _names(self) -> dict[str, Any] | None:
        """Return the names that annotations may refer to, where the state's module is not known."""
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class Environment(Definition):
    """An environment whose functions are written in Triton; they run on "triton", "numpy" and, without arrays, "numba".

    Calling it makes a `VecEnv`: `CartPole(num_envs=4096, gravity=1.6)`. Beside the attributes of `Definition`:

    Attributes:
        reset: Jit function (rng, params) -> State.
        step: Jit function (state, action, rng, params) -> (State, reward, terminated), or with metrics (State, reward,
            terminated, Metrics).
        observe: Jit function (state, params) -> tuple of observation components.
        action_mask: Jit function (state, params) -> tuple of conditions, one for each action: whether it is legal.
            MultiDiscrete has its components' one after the other. None where every action is always legal.

    Raises:
        InvalidConfig: If a part is missing or of the wrong kind.
    """

    reset: Any
    step: Any
    observe: Any
    action_mask: Any = None

    def __post_init__(self) -> None:
        _check_named_tuple("tables", self.table_class)
        for name, own in _ARGUMENTS.items():
            arguments = (*own, "tables") if self.has_tables else own
            if name != "action_mask" or self.action_mask is not None:
                _check_function(name, getattr(self, name), arguments)
        super().__post_init__()

    @property
    def has_action_mask(self) -> bool:
        """Whether the environment tells which actions are legal."""
        return self.action_mask is not None

    def _names(self) -> dict[str, Any] | None:
        names: dict[str, Any] = self.reset.fn.__globals__
        return names


def _attribute(module: str, name: str) -> Any:
    """Return what a module has by a name, imported if need be."""
    return getattr(importlib.import_module(module), name)


def _check_named_tuple(param: str, value: object) -> None:
    if not (isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_field_defaults")):
        raise InvalidConfig(param, f"expected a subclass of typing.NamedTuple, got {value!r}")


def _check_function(name: str, function: Any, arguments: tuple[str, ...]) -> None:
    signature = f"{name}({', '.join(arguments)})"
    if not is_jit_function(function):
        raise InvalidConfig(name, f"expected a function {signature} decorated with jit, got {function!r}")
    given = tuple(inspect.signature(function.fn).parameters)
    if len(given) != len(arguments):
        raise InvalidConfig(name, f"expected the arguments {signature}, got {name}({', '.join(given)})")


def _check_arguments(name: str, function: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    """Raise `InvalidConfig` if a function cannot be called with so many arguments."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        # Some that are not Python's own do not tell.
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise InvalidConfig(name, f"expected a function of ({', '.join(arguments)}), got one of {signature}") from error


def _unknown(name: str, environment: Definition) -> str:
    if name in _RESERVED:
        return "a setting of VecEnv and no parameter: give it beside params (--num-envs, not --env.num_envs)"
    params, own_tables = environment.params._fields, environment.table_class._fields
    hint = meant(name, [*params, *own_tables, *sorted(_RESERVED)])
    own = (", ".join(params) or "none") + (f"; tables: {', '.join(own_tables)}" if own_tables else "")
    return f"unknown setting; {hint}parameters of {environment.id}: {own}; settings: {', '.join(sorted(_RESERVED))}"
