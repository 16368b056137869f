"""An environment's functions, and the random policy, as straight-line programs that CPU backends compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from operant_gpu import arrays, sampling
from operant_gpu.backends.lowering import arrays as lowered_arrays
from operant_gpu.backends.lowering import operations
from operant_gpu.backends.lowering.operations import NumpyRng, TableSeen, cast
from operant_gpu.backends.lowering.rewriting import Also, lower
from operant_gpu.backends.lowering.tracing import Program, Tape
from operant_gpu.environment import Environment
from operant_gpu.lang import constexpr_value
from operant_gpu.metrics import STEPS, measured
from operant_gpu.parameters import NUMPY_DTYPES, draws_of, is_number, types
from operant_gpu.random import philox_word, philox_words
from operant_gpu.spaces import ActionLayout
from operant_gpu.tables import code

_STEPS, _FLOAT32, _FLOAT64 = constexpr_value(STEPS), np.dtype(np.float32), np.dtype(np.float64)
# What NumPy does in its own way: it computes a block of words once, however many of them are drawn.
_INTRINSICS: dict[Any, Callable[..., Any]] = {
    philox_words: NumpyRng.words,
    philox_word: operations.word,
    arrays.beside: lowered_arrays.beside,
    arrays.cells: lowered_arrays.cells,
    arrays.cells_of: lowered_arrays.cells_of,
    arrays.widened: lowered_arrays.widened,
    arrays.lookup: lowered_arrays.lookup,
    arrays.length: lowered_arrays.length,
}


def lower_to_numpy(function: Any, done: dict[Any, Any] | None = None, also: Also | None = None) -> Any:
    """Return the NumPy form of a jit function; `done` and `also` as for `lower`."""
    return lower(function, operations, _INTRINSICS, done, also)


class Programs(NamedTuple):
    """Programs over columns, whose results are flat tuples.

    Columns are "state.<field>", "action" or "action[<i>]", "rng", "params.<name>" of parameters in memory, and
    "metrics[<i>]" of what has been summed up. "tables.<name>" is all numbers of a table. Where indices beyond tables
    are to be noted, all programs but the first take the column "outside", and return it last.

    Attributes:
        draw_params: rng -> the parameters that are drawn for each episode.
        reset: rng -> state.
        step: state, action, rng -> state, reward, terminated, what the metrics have come to.
        observe: state -> components.
        action_mask: state -> conditions; none if the environment has no mask.
    """

    draw_params: Program
    reset: Program
    step: Program
    observe: Program
    action_mask: Program


def trace_random_policy(
    environment: Environment, params: Any, tables: Any, layout: ActionLayout, notes: bool
) -> Program:
    """Return the program state, rng -> components of a random action, among those that are legal.

    Args:
        environment: The definition.
        params: Its parameters, as they were given.
        tables: Its tables.
        layout: Of its actions.
        notes: Whether indices beyond tables are noted.
    """
    tape = Tape(notes)
    with np.errstate(all="ignore"):
        if layout.is_discrete:
            conditions = ()
            if environment.action_mask is not None:
                state, given = state_of(environment, params, tape), (params_of(params, tape), *tables_of(tables, tape))
                conditions = lower_to_numpy(environment.action_mask)(state, *given)
            draw = lower_to_numpy(sampling.random_integers)
            return tape.program(draw(tape.rng(), conditions, layout.low, layout.high, layout.first_choices))
        return tape.program(lower_to_numpy(sampling.random_floats)(tape.rng(), layout.box_low, layout.box_high))


def trace_draws(params: Any) -> Program:
    """Return the program rng -> the parameters that are drawn, in the order of `draws_of`."""
    tape, draw = Tape(), lower_to_numpy(sampling.parameter)
    rng = tape.rng()
    with np.errstate(all="ignore"):
        return tape.program([draw(rng, place, *one) for place, one in draws_of(params).values()])


def params_of(params: Any, tape: Tape) -> Any:
    """Return parameters as functions see them: numbers, and the blocks of those in memory."""
    return params._make(
        value if is_number(value) else tape.block(f"params.{name}", NUMPY_DTYPES[kind])
        for (name, kind), value in zip(types(params).items(), params, strict=True)
    )


def tables_of(tables: Any, tape: Tape) -> tuple[Any, ...]:
    """Return tables as functions see them; nothing if there are none."""
    seen = []
    for place, (name, table) in enumerate(tables._asdict().items()):
        numbers = tape.table(f"tables.{name}", table.new_empty(0, device="cpu").numpy().dtype, table.numel())
        seen.append(TableSeen(numbers, tuple(table.shape), code(place), tape))
    return (tables._make(seen),) if seen else ()


def metrics_of(environment: Environment, given: Any, tape: Tape) -> list[Any]:
    """Return what the metrics have come to, with those that a step has given."""
    rows = environment.metric_rows
    before = [tape.block(f"metrics[{i}]", np.float64) for i in range(len(rows))]
    values, steps, after = iter(given), 1.0, []
    for row, total in zip(rows, before, strict=True):
        # As rewards are: numbers of 32 bits.
        value = 1.0 if row.kind == _STEPS else cast(cast(next(values), _FLOAT32), _FLOAT64)
        after.append(lower_to_numpy(measured)(row.kind, total, value, steps))
        steps = after[0]
    return after


def state_of(environment: Environment, params: Any, tape: Tape) -> Any:
    """Return the blocks of a state."""
    columns = environment.column_types(params).items()
    return environment.state(*(tape.block(f"state.{name}", column.dtype, column.cells) for name, column in columns))


def action_of(layout: ActionLayout, tape: Tape) -> Any:
    """Return the block of an action, or a tuple of those of its components."""
    dtype = np.int32 if layout.is_discrete else np.float32
    if not layout.shape:
        return tape.block("action", dtype)
    return tuple(tape.block(f"action[{i}]", dtype) for i in range(layout.size))
