"""An environment's functions, and the random policy, as straight-line programs that CPU backends compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from operant_gpu import arrays, sampling
from operant_gpu.backends.lowering import arrays as lowered_arrays
from operant_gpu.backends.lowering import operations
from operant_gpu.backends.lowering.operations import NumpyRng
from operant_gpu.backends.lowering.rewriting import lower
from operant_gpu.backends.lowering.tracing import Program, Tape
from operant_gpu.environment import Environment
from operant_gpu.random import philox_word, philox_words
from operant_gpu.spaces import ActionLayout, action_layout

# What NumPy does in its own way: it computes a block of words once, however many of them are drawn.
_INTRINSICS: dict[Any, Callable[..., Any]] = {
    philox_words: NumpyRng.words,
    philox_word: operations.word,
    arrays.cells: lowered_arrays.cells,
    arrays.cells_of: lowered_arrays.cells_of,
    arrays.widened: lowered_arrays.widened,
}


def lower_to_numpy(function: Any) -> Any:
    """Return the NumPy form of a jit function."""
    return lower(function, operations, _INTRINSICS)


class Programs(NamedTuple):
    """Programs over "state.<field>", "action" or "action[<i>]", and "rng"; their results are flat tuples.

    Attributes:
        reset: rng -> state.
        step: state, action, rng -> state, reward, terminated.
        observe: state -> components.
        action_mask: state -> conditions; none if the environment has no mask.
    """

    reset: Program
    step: Program
    observe: Program
    action_mask: Program


def trace(environment: Environment, params: Any, layout: ActionLayout) -> Programs:
    """Return the programs of an environment's functions."""
    resetting, stepping, observing, masking = Tape(), Tape(), Tape(), Tape()
    with np.errstate(all="ignore"):
        first = lower_to_numpy(environment.reset)(resetting.rng(), params)
        step = lower_to_numpy(environment.step)
        state = _state_of(environment, stepping)
        stepped, *outcome = step(state, _action_of(layout, stepping), stepping.rng(), params)
        components = lower_to_numpy(environment.observe)(_state_of(environment, observing), params)
        conditions = _conditions(environment, params, masking)
    return Programs(
        resetting.program(first),
        stepping.program([*stepped, *outcome]),
        observing.program(components),
        masking.program(conditions),
    )


def widest(environment: Environment, params: Any) -> int:
    """Return how many cells the widest block of an environment's state and functions has, 1 if there are no arrays."""
    shapes = [(1, *column.cells) for column in environment.column_types().values()]
    try:
        programs = tuple(trace(environment, params, action_layout(environment.spaces(params)[1])))
    except Exception:
        # The trial, or Triton, tells what is wrong with the functions. Their columns are known.
        programs = ()
    for program in programs:
        shapes += [call.shape for call in program.calls]
        shapes += [result.shape for result in program.results if isinstance(result, np.ndarray)]
    return max([1, *(shape[1] for shape in shapes if len(shape) == 2)])


def trace_random_policy(environment: Environment, params: Any, layout: ActionLayout) -> Program:
    """Return the program state, rng -> components of a random action, among those that are legal."""
    tape = Tape()
    with np.errstate(all="ignore"):
        if layout.is_discrete:
            conditions = _conditions(environment, params, tape)
            draw = lower_to_numpy(sampling.random_integers)
            return tape.program(draw(tape.rng(), conditions, layout.low, layout.high, layout.first_choices))
        return tape.program(lower_to_numpy(sampling.random_floats)(tape.rng(), layout.box_low, layout.box_high))


def _state_of(environment: Environment, tape: Tape) -> Any:
    columns = environment.column_types().items()
    return environment.state(*(tape.block(f"state.{name}", column.dtype, column.cells) for name, column in columns))


def _action_of(layout: ActionLayout, tape: Tape) -> Any:
    dtype = np.int32 if layout.is_discrete else np.float32
    if not layout.shape:
        return tape.block("action", dtype)
    return tuple(tape.block(f"action[{i}]", dtype) for i in range(layout.size))


def _conditions(environment: Environment, params: Any, tape: Tape) -> tuple[Any, ...]:
    if environment.action_mask is None:
        return ()
    conditions: tuple[Any, ...] = lower_to_numpy(environment.action_mask)(_state_of(environment, tape), params)
    return conditions
