"""What is compiled into kernels: of an environment, its actions and a network, each one constant."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import triton

from operant_gpu.backends.base import Batch
from operant_gpu.backends.triton.launching import INTERPRETED
from operant_gpu.hyperparameters import Hyperparameters
from operant_gpu.lang import constexpr_value, enclosed, is_jit_function, tl
from operant_gpu.memory.records import MODES
from operant_gpu.mlp import MLP, MLPLayout
from operant_gpu.parameters import draws_of, is_number
from operant_gpu.random import Rng
from operant_gpu.spaces import ActionLayout
from operant_gpu.tables import code

# Into so many pieces are minibatches cut for the moments of their advantages.
PIECES = 32


@dataclass(frozen=True)
class Maker:
    """A NamedTuple class that a kernel calls.

    Triton's launcher takes the bare class, as a compile-time constant, for a tuple of values and iterates over it.
    """

    cls: type[Any]

    def __call__(self, *fields: Any) -> Any:
        """Make a NamedTuple of blocks."""
        return self.cls(*fields)

    def __repr__(self) -> str:
        """Return what tells classes of one name apart, as functions may make them."""
        return f"{self.cls!r}{self.cls._fields}"


@dataclass(frozen=True)
class Parameters:
    """Makes the parameters that an environment's functions see.

    Attributes:
        numbers: Those that are compiled in, None for those in memory.
    """

    numbers: Any

    def __call__(self, *blocks: Any) -> Any:
        """Return numbers and blocks in the order of the parameters."""
        own, left = self.numbers, iter(blocks)
        numbers = own if INTERPRETED else _wrapped(own)
        return own._make(next(left) if given is None else number for given, number in zip(own, numbers))


class TableSeen(NamedTuple):
    """A table as functions see it; `arrays.lookup` reads it.

    SHAPE: Of the table. IS_LARGE: Whether places in it need 64 bits. CODE: What tells its axes from those of others.
    """

    ptr: Any
    SHAPE: Any
    IS_LARGE: Any
    CODE: Any
    outside: Any  # where an index beyond it is noted, or None
    row: Any
    mask: Any  # the rows for which it is


@dataclass(frozen=True)
class Given:
    """Makes what an environment's functions take beside state, action and stream.

    Attributes:
        parameters: Makes the parameters.
        tables: Makes the tables; None if there are none.
        shapes: Of the tables.
    """

    parameters: Parameters
    tables: Maker | None
    shapes: tuple[tuple[int, ...], ...]

    def __call__(self, params: Any, tables: Any, row: Any, mask: Any) -> Any:
        """Return the parameters, of the blocks of those in memory, and the tables, of pointers, if there are any."""
        given = [self.parameters(*params)]
        if self.tables is not None:
            given.append(self.tables(*self._seen(tables, row, mask)))
        return tuple(given) if INTERPRETED else _tupled(given)

    def _seen(self, tables: Any, row: Any, mask: Any) -> Iterator[TableSeen]:
        *pointers, outside = tables
        constants = [(shape, math.prod(shape) >= 2**31, code(place)) for place, shape in enumerate(self.shapes)]
        if not INTERPRETED:
            constants = [tuple(map(_wrapped, each)) for each in constants]
        for ptr, each in zip(pointers, constants, strict=True):
            yield TableSeen(ptr, *each, outside, row, mask)


class Constants:
    """Compile-time constants that a kernel takes as one, and reads as attributes.

    Kernels with equal ones are the same to Triton, in memory and on disk.
    """

    def __init__(self, **members: Any) -> None:
        self._members = members
        for name, value in members.items():
            setattr(self, name, value if INTERPRETED else _wrapped(value))

    @functools.cached_property
    def cache_key(self) -> str:
        """What tells them from others: 1 from 1.0 too, and functions by their source."""
        return ", ".join(f"{name}={getattr(value, 'cache_key', value)!r}" for name, value in self._members.items())

    def __repr__(self) -> str:
        """Return the text that Triton makes its keys of."""
        return f"({self.cache_key})"

    def __eq__(self, other: object) -> bool:
        """Tell whether a kernel compiled with the others is one for these."""
        return self is other or (isinstance(other, Constants) and self.cache_key == other.cache_key)

    def __hash__(self) -> int:
        """Return the same for equal ones."""
        return hash(self.cache_key)


def _wrapped(value: Any) -> Any:
    """Return a value as Triton knows constants, with all that is in a tuple; functions need no class for it."""
    if isinstance(value, tuple):
        fields = map(_wrapped, value)
        value = value._make(fields) if hasattr(value, "_make") else tuple(fields)
    return triton.language.constexpr(value) if isinstance(value, int | float | str | tuple | Constants) else value


def _tupled(values: Any) -> Any:
    """Return a tuple as compiled functions have it, with those in it: the oldest Triton makes only NamedTuples so."""
    of = triton.language
    made = [
        _tupled(value) if isinstance(value, tuple) else value if hasattr(value, "type") else of.constexpr(value)
        for value in values
    ]
    return of.tuple(made, of.tuple_type([value.type for value in made], getattr(values, "_fields", None)))


def environment_constants(batch: Batch, scales_actions: bool = False) -> Constants:
    """Return what kernels that step know of an environment.

    STATE, RNG: Make the NamedTuples of their fields. GIVEN: Makes what functions take beside state, action and stream.
    SHARED: Which of these have one number for all environments. DRAWS: What each is drawn from, as `sampling.parameter`
    takes it, or None; empty if nothing is drawn.
    ARRAYS: Size of the array in each field of the state, 0 for a number. OBS_SIZE: Numbers in an observation.
    METRICS, STARTS: How each row of the metrics is summed up, and what it is before the first step. FIRST_METRIC: Which
    of them is the first that `step` gives.
    RESET, STEP, OBSERVE, ACTION_MASK: The environment's jit functions; the last may be None.
    CAPTURED: What tells the functions from others of the same source.
    LIMIT: Steps of an episode at most. MODE: When ended environments are reset. ACTIONS: See `action_constants`.
    """
    environment = batch.environment
    rows = environment.metric_rows
    draws = {name: (place, *draw) for name, (place, draw) in draws_of(batch.params).items()}
    return Constants(
        STATE=Maker(environment.state),
        ARRAYS=tuple(column.size if column.shape else 0 for column in environment.column_types(batch.params).values()),
        RNG=Maker(Rng),
        GIVEN=Given(
            Parameters(batch.params._make(value if is_number(value) else None for value in batch.params)),
            Maker(environment.table_class) if batch.tables else None,
            tuple(tuple(table.shape) for table in batch.tables),
        ),
        METRICS=tuple(row.kind for row in rows),
        STARTS=tuple(row.start for row in rows),
        FIRST_METRIC=sum(not row.name for row in rows),
        SHARED=tuple(tensor.ndim == 0 for tensor in batch.memory.values()),
        DRAWS=tuple(map(draws.get, batch.memory)) if draws else (),
        RESET=environment.reset,
        STEP=environment.step,
        OBSERVE=environment.observe,
        ACTION_MASK=environment.action_mask,
        CAPTURED=captured((environment.reset, environment.step, environment.observe, environment.action_mask)),
        OBS_SIZE=batch.observations.size,
        LIMIT=batch.max_episode_steps,
        MODE=MODES[batch.autoreset_mode],
        ACTIONS=action_constants(batch.actions, scales_actions),
    )


def captured(functions: Iterable[Any]) -> str:
    """Return what Triton's keys leave out of what functions refer to: classes, dtypes, and constants of other modules.

    The keys are of the sources of functions, of those that they call, and of constants beside them. In all else two
    definitions of one factory may differ, and so may a file that was edited.
    """
    found: dict[str, str] = {}
    waiting = [function.fn for function in functions if function is not None]
    seen = set()
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        names = {**function.__globals__, **enclosed(function)}
        used = function.__code__.co_names + function.__code__.co_freevars
        values = {name: names[name] for name in used if name in names}
        modules = {name: one for name, one in values.items() if isinstance(one, ModuleType) and one is not tl}
        for name, module in modules.items():
            values |= {f"{name}.{one}": getattr(module, one) for one in used if hasattr(module, one)}
        for name, value in values.items():
            if is_jit_function(value):
                waiting.append(value.fn)
            elif hasattr(value, "_field_defaults"):
                found[f"{function.__qualname__}.{name}"] = f"{value._fields}{value._field_defaults}"
            elif isinstance(value, tl.dtype | tl.constexpr):
                found[f"{function.__qualname__}.{name}"] = repr(constexpr_value(value))
    return str(sorted(found.items()))


@functools.cache
def learner_constants() -> Constants:
    """Return what kernels know of a learner.

    NAMES: Of its hyperparameters, as they stand in memory. MAKE: Makes their NamedTuple.
    PIECES: Into so many minibatches are cut for the moments of their advantages.
    """
    return Constants(NAMES=Hyperparameters._fields, MAKE=Maker(Hyperparameters), PIECES=PIECES)


def action_constants(layout: ActionLayout, scales: bool = False) -> Constants:
    """Return what kernels know of actions.

    LOW, HIGH: Of each component of discrete ones, the first value and the one after the last. FIRST: Where its choices
    begin among a network's outputs. BOX_LOW, BOX_HIGH: Bounds of each component of continuous ones. CENTER, RADIUS: By
    what a network's are scaled, which draws in its own units. Those of the other kind are empty. SIZE: Components.
    SCALAR: Whether functions take a block, and no tuple of them.
    """
    scaling = layout.scaling(scales)
    return Constants(
        LOW=layout.low,
        HIGH=layout.high,
        FIRST=layout.first_choices,
        BOX_LOW=scaling.low,
        BOX_HIGH=scaling.high,
        CENTER=scaling.center,
        RADIUS=scaling.radius,
        SIZE=layout.size,
        SCALAR=layout.shape == (),
    )


def network_constants(mlp: MLP) -> Constants:
    """Return what kernels know of a network.

    OFFSETS: Where each weight and bias begins in the flat tensor, in the order of `MLPLayout.shapes`, and its end.
    DEPTH: Hidden layers. SIZES, PADS: Widths from the inputs to the last one, and what they are padded to.
    OBS_SIZE: Components of an observation. OBS_START: The least value of a Discrete one; None for others.
    SHARED: Whether the critic has no trunk of its own. CRITIC, HEAD: Entries of OFFSETS for the first weight of the
    critic's trunk, and for that of the actor's last layer; the critic's follows, then a Gaussian's log_stds.
    OUTPUTS: Of the actor. OUT_PAD, HEAD_PAD: What they are padded to, alone and with the value beside them.
    ACTIVATION: Of hidden layers. PRECISION: Of products, as `tl.dot` takes it. CLIP: Of scaled observations.
    """
    return _network_constants(mlp.layout, mlp.precision, float(mlp.clip))


# Kept, since a policy acts and learns many times.
@functools.cache
def _network_constants(layout: MLPLayout, precision: str, clip: float) -> Constants:
    sizes = (layout.inputs, *layout.hidden_sizes)
    depth = len(layout.hidden_sizes)
    is_shared = layout.shared_trunk or not depth
    return Constants(
        OFFSETS=tuple(itertools.accumulate(map(math.prod, layout.shapes), initial=0)),
        DEPTH=depth,
        SIZES=sizes,
        OBS_SIZE=layout.inputs if layout.obs_start is None else 1,
        OBS_START=layout.obs_start,
        PADS=tuple(map(padded, sizes)),
        SHARED=is_shared,
        CRITIC=0 if is_shared else 2 * depth,
        HEAD=2 * depth if is_shared else 4 * depth,
        OUTPUTS=layout.outputs,
        OUT_PAD=padded(layout.outputs),
        HEAD_PAD=padded(layout.outputs + 1),
        ACTIVATION=layout.activation,
        PRECISION=precision,
        CLIP=clip,
    )


def padded(size: int) -> int:
    """Return the width of a block for so many columns."""
    # What a product of blocks takes at the least.
    return max(16, int(triton.next_power_of_2(size)))
