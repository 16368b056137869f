"""Definitions of environments as frozen values: `Environment`, and what it shares with those of other languages."""

from __future__ import annotations

import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium import Space

from operant_gpu import parameters
from operant_gpu.errors import InvalidConfig, as_integer, mapping, meant, whole
from operant_gpu.lang import Array, is_jit_function, next_power_of_2, numpy_dtype, tl
from operant_gpu.spaces import action_layout, observation_layout

if TYPE_CHECKING:
    from operant_gpu.vector import VecEnv

# What VecEnv itself takes: an environment's own parameters must have other names.
_RESERVED = {
    *("num_envs", "params", "device", "backend", "autoreset_mode", "max_episode_steps", "output", "copy", "debug"),
    *("render_mode", "first_env_id"),
}
KEYS = ("up", "down", "left", "right", "space", "none")
_ARGUMENTS = {
    "reset": ("rng", "params"),
    "step": ("state", "action", "rng", "params"),
    "observe": ("state", "params"),
    "action_mask": ("state", "params"),
}
# What may be functions of a definition, and what may be there instead.
_FUNCTIONS = (
    *((name, Space, "a Box or another of gymnasium.spaces") for name in ("observation_space", "action_space")),
    *((name, type(None), "None") for name in ("validate", "draw")),
)


class NoParams(NamedTuple):
    """Parameters of an environment that has none."""


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


@dataclass(frozen=True, eq=False, kw_only=True)
class Definition:
    """What every environment has, however its functions are written: its columns, constants and spaces.

    Attributes:
        id: Name with version, such as "GridWalk-v0".
        state: NamedTuple class with one field per column, annotated with its dtype (`tl.float32`, ...), or with
            `Array(dtype, shape)` for a vector or a board in each environment.
        observation_space: Box or MultiBinary of gymnasium.spaces, or a function from params to one.
        action_space: Discrete, MultiDiscrete or float32 Box (k,), or a function from params to one.
        params: NamedTuple class of ints, floats and bools with defaults. Users give numbers, which are compiled into
            the kernels, or tensors and distributions, which are blocks in memory.
        max_episode_steps: Steps after which an episode is truncated, or None.
        reward_threshold: Mean return at which the task counts as solved, or None.
        validate: Raises `InvalidConfig` on params that make no sense, or None.
        draw: Function (state of plain numbers and arrays, params) -> uint8 array (height, width, 3), or None.
        keys: Actions by the keys that a person plays with: "up", "down", "left", "right", "space", and "none" for no
            key, without which the environment waits for one. None if it is not to be played.

    Raises:
        InvalidConfig: If a part is missing or of the wrong kind.
    """

    id: str
    state: type[Any]
    observation_space: Space[Any] | Callable[[Any], Space[Any]]
    action_space: Space[Any] | Callable[[Any], Space[Any]]
    params: type[Any] = NoParams
    max_episode_steps: int | None = None
    reward_threshold: float | None = None
    validate: Callable[[Any], None] | None = None
    draw: Callable[[Any, Any], np.ndarray[Any, Any]] | None = None
    keys: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not re.fullmatch(r"[\w.-]+-v\d+", self.id):
            raise InvalidConfig("id", f"expected a name with a version, such as 'GridWalk-v0', got {self.id!r}")
        _check_named_tuple("state", self.state)
        _check_named_tuple("params", self.params)
        if not self.state._fields:
            raise InvalidConfig(
                "state", f"{self.state.__name__} has no field: an environment needs at least one column"
            )
        self.column_types()
        missing = [field for field in self.params._fields if field not in self.params._field_defaults]
        if missing:
            raise InvalidConfig("params", f"every field needs a default value, missing for {', '.join(missing)}")
        taken = sorted(_RESERVED & set(self.params._fields))
        if taken:
            raise InvalidConfig("params", f"{', '.join(taken)} is an argument of VecEnv: choose another name")
        if self.max_episode_steps is not None:
            limit = whole("max_episode_steps", self.max_episode_steps, 1, note=", or None")
            object.__setattr__(self, "max_episode_steps", limit)
        for name, kind, other in _FUNCTIONS:
            function = getattr(self, name)
            # Classes can be called too, and are none of them.
            if isinstance(function, type) or not (callable(function) or isinstance(function, kind)):
                raise InvalidConfig(name, f"expected {other}, or a function, got {function!r}")
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

    def make_params(self, overrides: Mapping[str, Any]) -> Any:
        """Return `params` with defaults replaced by `overrides`, checked: numbers, distributions, copies of tensors.

        Raises:
            InvalidConfig: If a name is unknown, a value is of the wrong type or `validate` refuses it.
        """
        for name in mapping("params", overrides, "parameters"):
            if name not in self.params._fields:
                raise InvalidConfig(name, _unknown(name, self))
        defaults = self.params._field_defaults
        values = {
            name: parameters.checked(name, overrides.get(name, default), default) for name, default in defaults.items()
        }
        params = self.params(**values)
        parameters.check(params, self.validate)
        return params

    def spaces(self, params: Any) -> tuple[Space[Any], Space[Any]]:
        """Return the observation and action spaces of one environment with these params.

        Raises:
            InvalidConfig: If a space has no layout in memory, or has no actions for `action_mask` to tell of.
        """
        observation, action = (self._space(name, params) for name in ("observation_space", "action_space"))
        observation_layout(observation)
        layout = action_layout(action)
        if self.has_action_mask and not layout.is_discrete:
            raise InvalidConfig("action_mask", f"needs a Discrete or MultiDiscrete action space, got {action!r}")
        return observation, action

    def _space(self, name: str, params: Any) -> Space[Any]:
        space: Space[Any] | Callable[[Any], Space[Any]] = getattr(self, name)
        return space(parameters.numbers_of(params, name)) if callable(space) else space

    def column_types(self) -> dict[str, ColumnType]:
        """Return what each column of the state holds of one environment.

        Raises:
            InvalidConfig: If an annotation is not one that a column can have.
        """
        module = sys.modules.get(self.state.__module__)
        # A file that was run or loaded in some other way has no module: its functions know its names.
        names = vars(module) if module else self._names()
        return {
            name: _column_type(f"field {name!r} of {self.state.__name__}", _evaluate(annotation, names))
            for name, annotation in self.state.__annotations__.items()
        }

    def _names(self) -> dict[str, Any]:
        """Return the names that annotations may refer to, where the state's module is not known."""
        return {"tl": tl, "Array": Array}


@dataclass(frozen=True, eq=False, kw_only=True)
class Environment(Definition):
    """An environment whose functions are written in Triton; they run on "triton", "numpy" and, without arrays, "numba".

    Calling it makes a `VecEnv`: `CartPole(num_envs=4096, gravity=1.6)`. Beside the attributes of `Definition`:

    Attributes:
        reset: Jit function (rng, params) -> State.
        step: Jit function (state, action, rng, params) -> (State, reward, terminated).
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
        for name, arguments in _ARGUMENTS.items():
            if name != "action_mask" or self.action_mask is not None:
                _check_function(name, getattr(self, name), arguments)
        super().__post_init__()

    @property
    def has_action_mask(self) -> bool:
        """Whether the environment tells which actions are legal."""
        return self.action_mask is not None

    def _names(self) -> dict[str, Any]:
        names: dict[str, Any] = self.reset.fn.__globals__
        return names


def _column_type(name: str, annotation: object) -> ColumnType:
    dtype_of, shape = (annotation.dtype, annotation.shape) if isinstance(annotation, Array) else (annotation, ())
    dtype = numpy_dtype(dtype_of)
    if dtype is None or (dtype.kind == "u" and dtype.itemsize > 1):
        raise InvalidConfig(
            "state",
            f"{name} is annotated {annotation!r}: expected tl.float32, tl.float64, tl.int1, tl.int8, tl.int16, "
            "tl.int32, tl.int64 or tl.uint8, or Array(dtype, shape) of one of them",
        )
    sizes = [as_integer(size) or 0 for size in shape] if isinstance(shape, tuple) else [0]
    if min(sizes, default=1) < 1:
        raise InvalidConfig("state", f"{name} is annotated {annotation!r}: a shape is a tuple of sizes of at least 1")
    if isinstance(annotation, Array) and not shape:
        raise InvalidConfig("state", f"{name} is an Array without an axis: annotate it {dtype_of!r}")
    return ColumnType(dtype, tuple(sizes))


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


def _evaluate(annotation: object, names: dict[str, Any]) -> object:
    """Resolve an annotation that `from __future__ import annotations` left as text."""
    text = getattr(annotation, "__forward_arg__", annotation)
    if not isinstance(text, str):
        return annotation
    try:
        return eval(text, names)
    except (AttributeError, NameError, SyntaxError):
        return annotation


def _unknown(name: str, environment: Definition) -> str:
    if name in _RESERVED:
        return "a setting of VecEnv and no parameter: give it beside params (--num-envs, not --env.num_envs)"
    known = [*environment.params._fields, *sorted(_RESERVED)]
    hint = meant(name, known)
    own = ", ".join(environment.params._fields) or "none"
    return f"unknown setting; {hint}parameters of {environment.id}: {own}; settings: {', '.join(sorted(_RESERVED))}"
