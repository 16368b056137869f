"""Functions of arrays beside NumPy's, and what must not be done with arrays."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pytest
from contract_envs import Lamps, LampsState
from gymnasium import spaces
from here import BACKENDS

from operant_gpu import InvalidConfig, UnsupportedConstruct, arrays
from operant_gpu.arrays import cells, count, get
from operant_gpu.backends.lowering.programs import lower_to_numpy
from operant_gpu.lang import Array, jit, tl
from operant_gpu.random import integers

pytestmark = pytest.mark.quick

ROWS, WIDTH = 50, 16
EVERY_ROW = np.arange(ROWS)


def numbers(dtype: Any = np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(-3, 4, (ROWS, WIDTH)).astype(dtype)


def rows(low: int, high: int, dtype: Any = np.int32) -> np.ndarray:
    return np.random.default_rng(1).integers(low, high, ROWS).astype(dtype)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.bool_, np.int32, np.float32])
def test_get_and_put_are_numpys_indexing(dtype: Any) -> None:
    array, index = numbers(dtype), rows(0, WIDTH)
    found = lower_to_numpy(arrays.get)(array, index)
    assert np.array_equal(found, array[EVERY_ROW, index])
    assert found.dtype == (np.float32 if dtype == np.float32 else np.int32), "one less than 0 is -1"
    if dtype == np.bool_:
        return
    expected = array.copy()
    expected[EVERY_ROW, index] = rows(5, 9)
    assert np.array_equal(lower_to_numpy(arrays.put)(array, index, rows(5, 9)), expected)
    assert np.array_equal(lower_to_numpy(arrays.cell)(array, 3), array[:, 3])
    # Parameters may be numbers.
    assert np.array_equal(lower_to_numpy(arrays.get)(array, 3), array[:, 3])
    expected = array.copy()
    expected[:, 3] = 7
    assert np.array_equal(lower_to_numpy(arrays.put)(array, 3, 7), expected)


def test_cells_that_do_not_exist_are_zero_and_take_nothing() -> None:
    array = numbers()
    for index in (np.full(ROWS, -1, np.int32), np.full(ROWS, WIDTH, np.int32)):
        assert (lower_to_numpy(arrays.get)(array, index) == 0).all()
        assert np.array_equal(lower_to_numpy(arrays.put)(array, index, rows(5, 9)), array)


def test_count_and_nth() -> None:
    condition = numbers() > 1
    counted = lower_to_numpy(arrays.count)(condition)
    assert counted.dtype == np.int32
    assert np.array_equal(counted, condition.sum(1))
    for n in (0, 1, 4):
        found = lower_to_numpy(arrays.nth)(condition, np.full(ROWS, n, np.int32))
        expected = [np.flatnonzero(row)[n] if row.sum() > n else WIDTH for row in condition]
        assert found.tolist() == expected


@pytest.mark.parametrize(("size", "width"), [(1, 1), (2, 2), (3, 4), (16, 16), (17, 32), (100, 128)])
def test_cells_number_up_to_a_power_of_two(size: int, width: int) -> None:
    found = lower_to_numpy(arrays.cells)(size)
    assert found.shape == (1, width)
    assert found.tolist() == [[*range(width)]]
    column = dataclasses.replace(Lamps, state=NamedTuple("S", [("x", Array(tl.int8, (size,)))])).column_types(())["x"]
    assert column.cells == (width,)


@jit
def all_lit(rng, params):
    return LampsState(0.0, True, 0, 0)


@jit
def counts_lamps(state, action, rng, params):
    return LampsState(state.levels, True, state.single, state.moves), count(state.lit), False


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "numba"])
def test_what_a_function_writes_beyond_an_array_is_dropped(backend: str) -> None:
    env = dataclasses.replace(Lamps, reset=all_lit, step=counts_lamps)(5, device="cpu", backend=backend)
    env.reset(seed=0)
    for _ in range(3):
        assert (env.step(np.zeros((5, 2), np.float32))[1] == 6).all(), "six lamps in a block of eight"


@jit
def mixes(state, action, rng, params):
    mixed = state.levels * state.moves
    return state, 0.0, count(mixed > 0.0) == 2


@jit
def mixes_in_where(state, action, rng, params):
    mixed = tl.where(state.moves > 1, state.levels, 0.0)
    return state, 0.0, count(mixed > 0.0) == 2


@jit
def mixes_in_draws(state, action, rng, params):
    return state, 0.0, count(integers(rng, 0, 0, tl.where(state.lit, 2, 3)) > 0) == 2


@jit
def sums_over_environments(state, action, rng, params):
    return state, tl.sum(state.levels, 0), False


@jit
def sums_a_number(state, action, rng, params):
    return state, tl.sum(state.moves, 1), False


@jit
def gets_from_a_number(state, action, rng, params):
    return state, get(state.moves, state.moves), False


@jit
def turns_a_number(state, action, rng, params):
    level = 1
    return state, level[:, None], False


@jit
def indexes_a_cell(state, action, rng, params):
    return state, state.levels[0], False


@jit
def indexes_along_cells(state, action, rng, params):
    return state, 0.0, count(cells(3) > state.moves[None, :]) == 1


@jit
def rewards_with_an_array(state, action, rng, params):
    return state, state.levels, False


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (mixes, r"mixes: `mixed = .*`: an Array's block and a block of one number .* write x\[:, None\]"),
        (mixes_in_draws, r"an Array's block and a block of one number per environment"),
        (mixes_in_where, r"an Array's block and a block of one number per environment: write x\[:, None\]"),
        (sums_over_environments, r"tl.sum goes along the cells of an Array, axis 1"),
        (sums_a_number, r"tl.sum goes along the cells of an Array, axis 1: this is a block of one number"),
        (gets_from_a_number, r"cell, get and put need an Array's block"),
        (turns_a_number, r"\[:, None\] is for a block of one number per environment, got a number"),
        (indexes_a_cell, r"use get and put of operant_gpu.arrays for the cells of an Array"),
        (indexes_along_cells, r"x\[:, None\] is the only index with axes"),
    ],
    ids=lambda value: value.__name__ if hasattr(value, "__name__") else "",
)
def test_what_triton_would_misread_is_refused(step: Any, message: str) -> None:
    with pytest.raises(UnsupportedConstruct, match=message):
        dataclasses.replace(Lamps, step=step)(2, device="cpu")


@jit
def narrow_levels(rng, params):
    return LampsState(cells(2) * 1.0, False, 0, 0)


@jit
def row_for_levels(rng, params):
    return LampsState(rng.env_id * 1.0, False, 0, 0)


@jit
def array_for_moves(rng, params):
    return LampsState(0.0, False, 0, cells(3))


@pytest.mark.parametrize(
    ("part", "function", "message"),
    [
        ("reset", narrow_levels, r"^reset: field 'levels' must be a number, or an Array's block with 4 cells.*2 cells"),
        ("reset", row_for_levels, r"^reset: field 'levels' must be .* as x\[:, None\], got a block of float32"),
        ("reset", array_for_moves, r"^reset: field 'moves' must be a number, or a block of one number.*4 cells"),
        ("step", rewards_with_an_array, r"^step: reward must be .*, got a block of float32 with 4 cells"),
    ],
)
def test_results_of_another_shape_are_refused(part: str, function: Any, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        dataclasses.replace(Lamps, **{part: function})(2, device="cpu")


def test_planes_must_share_the_observation_evenly() -> None:
    space = spaces.Box(-1.0, 1.0, (4, 2, 2))
    with pytest.raises(
        InvalidConfig, match=r"^observe: component 0 must be .* with 4 cells.*got a block of bool with 8"
    ):
        dataclasses.replace(Lamps, observation_space=space)(2, device="cpu")
    space = spaces.Box(-1.0, 1.0, (5,))
    with pytest.raises(InvalidConfig, match=r"^observe: must return a tuple of 5 components"):
        dataclasses.replace(Lamps, observation_space=space)(2, device="cpu")


def test_numba_is_refused_with_what_to_use_instead() -> None:
    with pytest.raises(InvalidConfig, match=r"^backend: expected 'auto', 'triton' or 'numpy' for Env.* with arrays"):
        Lamps(2, device="cpu", backend="numba")
    assert Lamps(2, device="cpu").backend == "numpy"
