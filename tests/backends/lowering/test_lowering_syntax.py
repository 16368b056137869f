"""Statements, calls and State mean on every backend what they mean in Triton."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cells import Cells, answer, bench, environment, run

from operant_gpu.lang import jit, tl

pytestmark = pytest.mark.quick

SCALE = tl.constexpr(2.5)
OFFSET = tl.constexpr(-3)


@jit
def combine_conditions(state, action, rng, params):
    inside = (state.x > -1.0) & (state.x <= 1.0)
    either = (state.i == 0) | ~inside
    return answer(state, (inside ^ either).to(tl.int32), 0.0), 0.0, inside & (state.i >= 1)


def test_conditions_combine_element_by_element(backend: str) -> None:
    xs, ints = [0.0, 2.0, 1.0, -1.0], [0, 1, 2, 0]
    env = bench(combine_conditions, backend, {"x": xs, "i": ints})
    _, _, terminated, _, info = env.step(torch.zeros(4, dtype=torch.int32))
    assert terminated.tolist() == [False, False, True, False]
    assert info["_final_obs"].equal(terminated)
    # The row that ended was reset to zeros.
    assert env.state.whole.tolist() == [0, 1, 0, 1]


@jit
def augment(state, action, rng, params):
    x, i = state.x, state.i
    x += 1.0
    x *= 2.0
    i -= 4
    i //= 2
    return answer(state, i, x), state.x + state.i, False


def test_augmented_assignment_leaves_the_column_as_it_was(backend: str) -> None:
    got = run(augment, backend, {"x": [1.5, -1.0], "i": [1, 8]})
    assert got["real"].tolist() == [5.0, 0.0]
    assert got["whole"].tolist() == [-1, 2]
    assert got["x"].tolist() == [1.5, -1.0]
    assert got["i"].tolist() == [1, 8]
    assert got["reward"].tolist() == [2.5, 7.0]


@jit
def branch(state, action, rng, params):
    whole = state.i
    if params.doubled:
        whole += state.i
    elif params.power > 5 and not params.doubled:
        whole -= 100
    else:
        whole += 1
    real = state.x * (2.0 if params.doubled or params.power == 6 else 0.5)
    return answer(state, whole, real), 0.0, False


@pytest.mark.parametrize(
    ("params", "whole", "real"),
    [({"doubled": True}, 20, 6.0), ({"power": 6}, -90, 6.0), ({"power": 7}, -90, 1.5), ({}, 11, 1.5)],
    ids=str,
)
def test_params_choose_a_branch(backend: str, params: dict[str, Any], whole: int, real: float) -> None:
    got = run(branch, backend, {"i": [10], "x": [3.0]}, **params)
    assert (got["whole"][0], got["real"][0]) == (whole, real)


@jit
def loop(state, action, rng, params):
    total = tl.zeros_like(state.i)
    for k in tl.static_range(params.power):
        if k % 2 == 0:
            total += k * state.i
    real = state.x
    for n in range(1, 4):
        real = real * 2.0 + n
    return answer(state, total, real), 0.0, False


def test_static_and_ordinary_loops(backend: str) -> None:
    got = run(loop, backend, {"i": [1, 10], "x": [0.0, 1.0]}, power=5)
    assert got["whole"].tolist() == [6, 60]
    assert got["real"].tolist() == [11.0, 19.0]


@jit
def affine(block, slope=2.0, shift=SCALE):
    return block * slope + shift


@jit
def split(block, sign: tl.constexpr = -1):
    return block * sign, block + OFFSET


@jit
def call_helpers(state, action, rng, params):
    first, second = split(state.i, sign=-2)
    pair = split(state.j)
    real = affine(state.x) + affine(state.y, shift=0.5) + affine(state.x, 1.0, 0.0)
    return answer(state, first + 10 * second + 100 * pair[0] + 1000 * pair[1], real), SCALE * state.x, False


def test_helpers_take_defaults_keywords_and_constants(backend: str) -> None:
    got = run(call_helpers, backend, {"i": [4], "j": [5], "x": [1.0], "y": [3.0]})
    assert got["whole"].tolist() == [-8 + 10 - 500 + 2000]
    assert got["real"].tolist() == [4.5 + 6.5 + 1.0]
    assert got["reward"].tolist() == [2.5]


# A name that could be mistaken for `tl.abs`.
@jit
def tl_abs(block):
    return block + 100.0


@jit
def call_namesake(state, action, rng, params):
    return answer(state, 0, tl.abs(state.x) + 1000.0 * tl_abs(state.x)), 0.0, False


def test_a_helper_may_have_a_name_like_a_function_of_tl(backend: str) -> None:
    assert run(call_namesake, backend, {"x": [-2.0]})["real"].tolist() == [2.0 + 98_000.0]


@jit
def swap(state, action, rng, params):
    swapped = Cells(
        x=state.y, y=state.x, i=state.j, j=state.i, small=state.small, fine=state.real, whole=0, real=state.fine
    )
    return swapped, state.x, state.i > 1_000


def test_fields_can_be_swapped_and_given_by_name(backend: str) -> None:
    got = run(swap, backend, {"x": [1.0, 2.0], "y": [3.0, 4.0], "i": [5, 6], "j": [7, 8], "fine": [0.5, 0.25]})
    assert got["x"].tolist() == [3.0, 4.0]
    assert got["y"].tolist() == [1.0, 2.0]
    assert got["i"].tolist() == [7, 8]
    assert got["j"].tolist() == [5, 6]
    assert (got["real"].tolist(), got["fine"].tolist()) == ([0.5, 0.25], [0.0, 0.0])
    assert got["reward"].tolist() == [1.0, 2.0]


@jit
def rotate(state, action, rng, params):
    x, y, i = state.y, state.x, state.j
    x, y = y, x
    return (
        answer(Cells(i, state.i, x, y, state.small, state.fine, state.whole, state.real), state.j, state.y),
        state.y,
        False,
    )


def test_a_column_can_be_state_and_reward_at_once(backend: str) -> None:
    got = run(rotate, backend, {"x": [1.0], "y": [3.0], "i": [5], "j": [7]})
    assert [got[name].item() for name in ("x", "y", "i", "j", "whole", "real", "reward")] == [1, 3, 7, 5, 7, 3, 3]


@jit
def same_state(state, action, rng, params):
    return state, 1, False


def test_the_state_itself_and_plain_numbers_can_be_returned(backend: str) -> None:
    got = run(same_state, backend, {"x": [1.0, 2.0]})
    assert got["x"].tolist() == [1.0, 2.0]
    assert got["reward"].tolist() == [1.0, 1.0]


@jit
def assert_power(state, action, rng, params):
    tl.static_assert(params.power > 0)
    return state, 0.0, False


def test_static_assertions_that_hold_change_nothing(backend: str) -> None:
    assert run(assert_power, backend, {"x": [1.0]})["x"].tolist() == [1.0]


def test_lowering_once_serves_many_environments() -> None:
    # The same function with other params: constants are not frozen by the first use.
    definition = environment(branch)
    values = []
    for power in (1, 7):
        env = definition(1, device="cpu", backend="numpy", power=power)
        env.reset(seed=0)
        env.step(torch.zeros(1, dtype=torch.int32))
        values.append(env.state.whole.item())
    assert values == [1, -100]
