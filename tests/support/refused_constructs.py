"""Step functions that hold one construct each that the lowering refuses, on the line marked `# refused`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from cells import answer

from operant_gpu.lang import jit, tl

GRAVITY = 9.8
TABLE = [1.0, 2.0]


@jit
def if_on_a_block(state, action, rng, params):
    if state.x > 0.0:  # refused
        return state, 1.0, False
    return state, 0.0, False


@jit
def conditional_expression_on_a_block(state, action, rng, params):
    return state, (1.0 if action == 1 else 0.0), False  # refused


@jit
def and_of_blocks(state, action, rng, params):
    terminated = (state.x > 0.0) and (state.i > 0)  # refused
    return state, 0.0, terminated


@jit
def or_of_blocks(state, action, rng, params):
    return state, 0.0, (state.x > 0.0) or (state.i > 0)  # refused


@jit
def not_of_a_block(state, action, rng, params):
    x = state.x
    return state, 0.0, not (x > 0.0)  # refused


@jit
def while_loop(state, action, rng, params):
    n = 0
    while n < 3:  # refused
        n += 1
    return state, 0.0, False


@jit
def chained_comparison(state, action, rng, params):
    inside = -1.0 < state.x < 1.0  # refused
    return state, 0.0, inside


@jit
def plain_number_global(state, action, rng, params):
    fall = 2.0
    fall = fall * GRAVITY  # refused
    return state, fall, False


@jit
def list_global(state, action, rng, params):
    return state, TABLE[0], False  # refused


@jit
def list_comprehension(state, action, rng, params):
    parts = [k for k in (1, 2)]  # noqa: C416  # refused
    return state, parts[0], False


@jit
def lambda_expression(state, action, rng, params):
    double = lambda x: 2.0 * x  # noqa: E731  # refused
    return state, double(state.x), False


@jit
def method_of_a_block(state, action, rng, params):
    return state, state.x.sum(), False  # refused


@jit
def replace_of_a_state(state, action, rng, params):
    return state._replace(x=0.0), 0.0, False  # refused


@jit
def attribute_of_a_block(state, action, rng, params):
    # Beside a compiled kernel this would be the number of environments.
    return state, state.x.size, False  # refused


@jit
def subscript_of_a_block(state, action, rng, params):
    first = state.x[0]  # refused
    return state, first, False


@jit
def slice_of_a_block(state, action, rng, params):
    return state, state.x[1:], False  # refused


@jit
def subscript_by_a_runtime_number(state, action, rng, params):
    total = state.x
    for k in range(2):
        total += (state.x, state.y)[k]  # refused
    return state, total, False


@jit
def store_into_a_block(state, action, rng, params):
    x = state.x
    x[0] = 1.0  # refused
    return state, x, False


@jit
def store_into_a_state(state, action, rng, params):
    state.x = state.y  # refused
    return state, 0.0, False


@jit
def math_function(state, action, rng, params):
    return state, math.sin(state.x), False  # refused


@jit
def numpy_function(state, action, rng, params):
    y = state.y
    return state, np.sin(y), False  # refused


@jit
def unknown_tl_function(state, action, rng, params):
    angle = tl.arctangent(state.x)  # refused
    return state, angle, False


@jit
def reduction_over_environments(state, action, rng, params):
    return state, tl.sum(state.x), False  # refused


@jit
def try_statement(state, action, rng, params):
    try:  # refused
        x = state.x
    finally:
        pass
    return state, x, False


@jit
def with_statement(state, action, rng, params):
    with params:  # refused
        x = state.x
    return state, x, False


@jit
def import_statement(state, action, rng, params):
    import math as m  # refused

    return state, m.pi, False


@jit
def global_statement(state, action, rng, params):
    global GRAVITY  # refused
    GRAVITY = 1.6
    return state, 0.0, False


@jit
def f_string(state, action, rng, params):
    name = f"{params.power}"  # refused
    return state, 0.0, name == "3"


@jit
def power_operator(state, action, rng, params):
    square = state.x**2  # refused
    return state, square, False


@jit
def sum_of_conditions(state, action, rng, params):
    count = (state.x > 0.0) + (state.y > 0.0)  # refused
    return state, count, False


@jit
def product_of_conditions(state, action, rng, params):
    return state, (state.x > 0.0) * (state.y > 0.0), False  # refused


@jit
def difference_of_conditions(state, action, rng, params):
    return state, (state.x > 0.0) - (state.y > 0.0), False  # refused


@jit
def floor_division_of_floats(state, action, rng, params):
    turns = state.x // 2.0  # refused
    return state, turns, False


@jit
def sine_of_integers(state, action, rng, params):
    return state, tl.sin(state.i), False  # refused


@jit
def clamp_of_integers(state, action, rng, params):
    return state, tl.clamp(state.i, -1, 1), False  # refused


@jit
def bitcast_to_another_width(state, action, rng, params):
    bits = state.x.to(tl.int64, bitcast=True)  # refused
    return answer(state, state.i + bits, 0.0), 0.0, False


@jit
def membership(state, action, rng, params):
    return state, 0.0, params.power in (1, 2)  # refused


@jit
def nested_function(state, action, rng, params):
    def helper(x):  # refused
        return x

    return state, helper(state.x), False


@jit
def undefined_name(state, action, rng, params):
    return state, nowhere(state.x), False  # noqa: F821  # refused


@jit
def print_call(state, action, rng, params):
    print(state.x)  # refused
    return state, 0.0, False


@jit
def failed_static_assertion(state, action, rng, params):
    tl.static_assert(params.power > 5, "power is small")  # refused
    return state, 0.0, False


@jit
def sum_of_all(*blocks):  # refused
    return blocks[0] + blocks[1]


@jit
def starred_parameters(state, action, rng, params):
    return state, sum_of_all(state.x, state.y), False


@jit
def refused_helper(block):
    # Shifts the line, so that it is not the caller's.
    return block**2  # refused


@jit
def helper_with_a_refused_construct(state, action, rng, params):
    return state, refused_helper(state.x), False


STEPS = [
    value
    for value in list(globals().values())
    if callable(getattr(value, "fn", None)) and value.fn.__code__.co_varnames[:2] == ("state", "action")
]
# Where the marked line is not in the step itself.
HELPERS = {"starred_parameters": sum_of_all, "helper_with_a_refused_construct": refused_helper}


def in_a_closure(offset: float) -> Any:
    @jit
    def closure_variable(state, action, rng, params):
        return state, state.x + offset, False  # refused

    return closure_variable


@jit
def endless(block):
    return endless(block)


@jit
def recursion(state, action, rng, params):
    return state, endless(state.x), False
