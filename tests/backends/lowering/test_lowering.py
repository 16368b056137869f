"""Arithmetic means on every backend what it means in Triton: C's signs, Triton's promotion, its rounding."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cells import answer, run
from here import EXECUTED

from operant_gpu.lang import jit, tl

pytestmark = pytest.mark.quick

# Both signs, both zeros of a remainder, and the ends.
DIVIDENDS = [7, -7, 7, -7, 6, -6, 0, 1, -1, 2**31 - 1, -(2**31) + 1]
DIVISORS = [3, 3, -3, -3, 3, -3, 5, 9, 9, -2, 2]


@jit
def divide_integers(state, action, rng, params):
    return answer(state, state.i // state.j, state.i / state.j), state.i % state.j, False


def test_integer_division_rounds_toward_zero_and_the_remainder_has_the_dividends_sign(backend: str) -> None:
    # Rewards are float32: the remainders here are small enough to be exact.
    got = run(divide_integers, backend, {"i": DIVIDENDS, "j": DIVISORS})
    quotients = [int(math.copysign(abs(a) // abs(b), a * b)) for a, b in zip(DIVIDENDS, DIVISORS, strict=True)]
    assert got["whole"].tolist() == quotients
    assert got["reward"].tolist() == [math.fmod(a, b) for a, b in zip(DIVIDENDS, DIVISORS, strict=True)]


def test_division_of_integers_gives_float32(backend: str) -> None:
    got = run(divide_integers, backend, {"i": DIVIDENDS, "j": DIVISORS})
    expected = np.array(DIVIDENDS, np.float32) / np.array(DIVISORS, np.float32)
    # In float64 these would differ by 1e-8.
    np.testing.assert_allclose(got["real"], expected.astype(np.float64), rtol=2.5e-7, atol=0)
    assert np.array_equal(got["real"], got["real"].astype(np.float32))


@jit
def divide_by_numbers(state, action, rng, params):
    return answer(state, state.i // params.power, state.i / params.power), state.i % -3, False


def test_division_of_a_block_by_a_number_is_the_same(backend: str) -> None:
    got = run(divide_by_numbers, backend, {"i": [7, -7, 6, -1]})
    assert got["whole"].tolist() == [2, -2, 2, 0]
    assert got["reward"].tolist() == [1.0, -1.0, 0.0, -1.0]
    # On a GPU a quotient is within 2 ulps.
    expected = np.float32([7, -7, 6, -1]) / np.float32(3)
    np.testing.assert_allclose(got["real"], expected, rtol=2.5e-7 if EXECUTED else 0, atol=0)


@jit
def float_remainder(state, action, rng, params):
    return answer(state, 0, state.x % state.y), 0.0, False


def test_the_remainder_of_floats_has_the_dividends_sign(backend: str) -> None:
    xs, ys = [5.5, -5.5, 5.5, -5.5, 0.25], [2.0, 2.0, -2.0, -2.0, 1.0]
    got = run(float_remainder, backend, {"x": xs, "y": ys})
    assert got["real"].tolist() == [1.5, -1.5, 1.5, -1.5, 0.25]


@jit
def multiply_mixed(state, action, rng, params):
    return answer(state, state.i * state.j, state.i * state.x), 0.0, False


def test_int32_times_float32_is_float32_and_integers_wrap(backend: str) -> None:
    got = run(multiply_mixed, backend, {"i": [16_777_217, 65_536], "j": [3, 65_536], "x": [0.1, 0.3]})
    # 2**24 + 1 has no float32: the product is that of 2**24.
    expected = np.float32([16_777_216, 65_536]) * np.float32([0.1, 0.3])
    assert got["real"].tolist() == expected.astype(np.float64).tolist()
    assert got["whole"].tolist() == [50_331_651, 0]


@jit
def add_literals(state, action, rng, params):
    return answer(state, state.small + 1, state.x + 0.1), state.i + 0.5, False


def test_python_numbers_do_not_widen_a_block(backend: str) -> None:
    got = run(add_literals, backend, {"small": [127, -128], "x": [0.2, 1.0], "i": [1, 2]})
    assert got["whole"].tolist() == [-128, -127]
    assert got["real"].tolist() == (np.float32([0.2, 1.0]) + np.float32(0.1)).astype(np.float64).tolist()
    assert got["reward"].tolist() == [1.5, 2.5]


@jit
def add_named_number(state, action, rng, params):
    one = 1
    tenth = 0.1
    return answer(state, state.small + one, state.fine + tenth), 0.0, False


def test_a_number_that_has_a_name_is_a_scalar_of_32_bits(backend: str) -> None:
    got = run(add_named_number, backend, {"small": [127], "fine": [0.0]})
    assert got["whole"].tolist() == [128]
    assert got["real"].tolist() == [float(np.float32(0.1))]


@jit
def add_unpacked_params(state, action, rng, params):
    _, power, tenth = params
    return answer(state, state.small + power, state.fine + tenth), 0.0, False


def test_numbers_unpacked_from_params_are_scalars_of_32_bits() -> None:
    # As compiled Triton has it: its interpreter leaves the targets of an unpacking Python numbers.
    got = run(add_unpacked_params, "numpy", {"small": [126], "fine": [0.0]})
    assert got["whole"].tolist() == [129]
    assert got["real"].tolist() == [float(np.float32(0.1))]


@jit
def raised(block, by):
    by += 1
    return block + by


@jit
def augment_number(state, action, rng, params):
    return answer(state, raised(state.small, 1), 0.0), 0.0, False


def test_augmenting_a_number_gives_a_scalar_of_32_bits() -> None:
    # As compiled Triton has it: its interpreter goes on with a Python number.
    assert run(augment_number, "numpy", {"small": [126]})["whole"].tolist() == [128]


@jit
def big_literals(state, action, rng, params):
    mask = 0xFFFFFFFF
    tiny = 1e-60
    return answer(state, state.i + mask, state.fine + tiny), 0.0, False


def test_a_literal_takes_the_smallest_type_that_holds_it(backend: str) -> None:
    # Between 2**31 and 2**32 that is uint32; beyond float32's range it is float64.
    got = run(big_literals, backend, {"i": [2, 0], "fine": [0.0, 0.0]})
    assert got["whole"].tolist() == [1, 0xFFFFFFFF]
    assert got["real"].tolist() == [1e-60, 1e-60]


@jit
def cast_values(state, action, rng, params):
    truth = (state.x != 0.0).to(tl.int32) + state.x.to(tl.int1).to(tl.int32)
    return answer(state, state.x.to(tl.int32) + 1000 * truth, state.i.to(tl.float32)), state.i.to(tl.int8), False


def test_casts_are_those_of_c(backend: str) -> None:
    got = run(cast_values, backend, {"x": [2.9, -2.9, 0.0, 0.5], "i": [300, -1, 16_777_217, 128]})
    assert got["whole"].tolist() == [2002, 1998, 0, 2000]
    assert got["real"].tolist() == [300.0, -1.0, 16_777_216.0, 128.0]
    assert got["reward"].tolist() == [44.0, -1.0, 1.0, -128.0]


@jit
def cast_bits(state, action, rng, params):
    return answer(state, state.x.to(tl.int32, bitcast=True), state.i.to(tl.float32, bitcast=True)), 0.0, False


def test_bitcasts_keep_the_bits(backend: str) -> None:
    got = run(cast_bits, backend, {"x": [1.0, -0.0], "i": [0x40490FDB, 0]})
    assert got["whole"].tolist() == [0x3F800000, -(2**31)]
    assert got["real"].tolist() == [float(np.float32(np.pi)), 0.0]


@jit
def choose(state, action, rng, params):
    condition = state.i > 0
    return (
        answer(state, tl.where(condition, 1, -1), tl.where(condition, state.i, 0.5)),
        tl.where(condition, 2, 0.5),
        False,
    )


def test_where_takes_blocks_and_numbers_of_two_kinds(backend: str) -> None:
    got = run(choose, backend, {"i": [5, -5]})
    assert got["whole"].tolist() == [1, -1]
    assert got["real"].tolist() == [5.0, 0.5]
    assert got["reward"].tolist() == [2.0, 0.5]


@jit
def use_bits(state, action, rng, params):
    bits = ((state.i & state.j) | 8) ^ 1
    return answer(state, (bits << 2) + (state.i >> 1), 0.0), (~state.i & 3) + (-state.j), False


def test_bit_operators_are_those_of_two_complement_integers(backend: str) -> None:
    i, j = [12, -5, 0], [10, 6, 7]
    got = run(use_bits, backend, {"i": i, "j": j})
    assert got["whole"].tolist() == [((((a & b) | 8) ^ 1) << 2) + (a >> 1) for a, b in zip(i, j, strict=True)]
    assert got["reward"].tolist() == [(~a & 3) - b for a, b in zip(i, j, strict=True)]


@jit
def elementary(state, action, rng, params):
    x, y = state.x, state.y
    angles = tl.sin(x) + 10.0 * tl.cos(x) + tl.floor(y) - tl.ceil(y)
    growth = tl.exp(x) + tl.exp2(x) + tl.log(y) + tl.log2(y) + tl.sqrt(y) + tl.rsqrt(y) + tl.sigmoid(x)
    chosen = tl.minimum(x, y) + tl.maximum(x, 0.5) + tl.clamp(x, -0.25, 0.25) + tl.abs(x) + tl.math.sqrt_rn(y)
    return answer(state, tl.abs(state.i) + tl.maximum(state.i, state.j), angles + growth), chosen, False


def test_elementary_functions(backend: str) -> None:
    xs, ys = [-0.75, 0.1, 2.0], [0.3, 1.7, 42.0]
    got = run(elementary, backend, {"x": xs, "y": ys, "i": [-3, 4, -1], "j": [2, -2, -7]})
    x, y = np.float64(np.float32(xs)), np.float64(np.float32(ys))
    angles = np.sin(x) + 10 * np.cos(x) + np.floor(y) - np.ceil(y)
    growth = np.exp(x) + 2**x + np.log(y) + np.log2(y) + np.sqrt(y) + 1 / np.sqrt(y) + 1 / (1 + np.exp(-x))
    chosen = np.minimum(x, y) + np.maximum(x, 0.5) + np.clip(x, -0.25, 0.25) + np.abs(x) + np.sqrt(y)
    np.testing.assert_allclose(got["real"], angles + growth, rtol=2e-6)
    np.testing.assert_allclose(got["reward"], chosen, rtol=2e-6)
    assert got["whole"].tolist() == [5, 8, 0]


@jit
def meet_nan(state, action, rng, params):
    return answer(state, 0, tl.minimum(state.x, state.y)), tl.maximum(state.x, state.y), False


def test_minimum_and_maximum_pass_over_nan(backend: str) -> None:
    got = run(meet_nan, backend, {"x": [np.nan, 1.0], "y": [2.0, np.nan]})
    assert got["real"].tolist() == [2.0, 1.0]
    assert got["reward"].tolist() == [2.0, 1.0]
