"""Environments with tables, metrics and shapes from parameters, of every kind that there is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gymnasium import spaces
from varied_envs import Own

from operant_gpu import Environment
from operant_gpu.arrays import beside, cells, count, length, lookup
from operant_gpu.lang import Array, Table, jit, tl
from operant_gpu.metrics import Last, Max, Mean, Min, Sum
from operant_gpu.random import integers
from operant_gpu.randomization import Choice, Uniform


class MarketState(NamedTuple):
    day: tl.int32
    held: tl.int8
    paid: tl.float64


class MarketParams(NamedTuple):
    kinds: int = 2
    fee: float = 0.125
    shift: int = 0


class MarketTables(NamedTuple):
    prices: Table(tl.float32, (None, 3))
    is_open: Table(tl.int1, (None,))
    moves: Table(tl.int8, (2, "kinds", 3))
    codes: Table(tl.uint8, ("kinds", 2))
    counts: Table(tl.int16, (4,))
    order: Table(tl.int32, (5,))
    large: Table(tl.int64, (2,))
    weights: Table(tl.float64, (None,))


class MarketMetrics(NamedTuple):
    profit: Sum = 0.0
    holding: Mean = 0.0
    best: Max = 0.0
    worst: Min = 0.0
    is_short: Last = 0.5
    left_out: Sum = 0.25
    price: Mean = 0.0


@jit
def market_reset(rng, params, tables):
    day = lookup(tables.order, integers(rng, 0, -1, 6))
    return MarketState(day, lookup(tables.counts, 3), lookup(tables.weights, day))


@jit
def market_step(state, action, rng, params, tables):
    kind = integers(rng, 0, 0, params.kinds)
    # To the left and to the right of the series too.
    day = state.day + lookup(tables.moves, action, kind, 2) + params.shift
    price = lookup(tables.prices, day, state.held)
    gain = tl.where(lookup(tables.is_open, day), price - lookup(tables.prices, 0, 1), -params.fee)
    held = lookup(tables.codes, kind, action) % 5 - 2
    paid = state.paid + lookup(tables.weights, held) * gain
    over = (day > length(tables.prices)) | (day < -1) | (lookup(tables.large, kind) + held == 5000000001)
    reported = MarketMetrics(gain, held, best=price, worst=gain, is_short=held < 0, price=lookup(tables.prices, day, 0))
    return MarketState(day, held, paid), gain, over, reported


@jit
def market_observe(state, params, tables):
    return (
        state.day,
        lookup(tables.prices, state.day, state.held) * params.fee,
        lookup(tables.prices, length(tables.prices) - 1, 2),
        lookup(tables.counts, state.day) - 1,
        lookup(tables.is_open, state.day),
        state.paid,
    )


@jit
def market_action_mask(state, params, tables):
    return lookup(tables.is_open, state.day), lookup(tables.counts, 2) > 0


_GENERATOR = np.random.default_rng(3)
# Tables of every dtype and number of axes, indices that leave them, metrics of every kind.
Market = Environment(
    id="Market-v0",
    state=MarketState,
    params=MarketParams,
    tables=MarketTables(
        prices=_GENERATOR.normal(size=(7, 3)).astype(np.float32),
        is_open=np.array([True, False, True, True, False, True, True]),
        moves=np.array([[[5, 5, 1], [0, 0, -1]], [[0, 0, 2], [9, 9, 0]]]),
        codes=np.array([[0, 255], [101, 202]]),
        counts=np.array([-300, 2, 300, 1]),
        order=np.array([0, 3, 2, 5, 1]),
        large=np.array([5_000_000_000, -(2**40)]),
        weights=np.array([0.1, -0.3, 0.7, 1e-3]),
    ),
    metrics=MarketMetrics,
    reset=market_reset,
    step=market_step,
    observe=market_observe,
    action_mask=market_action_mask,
    observation_space=lambda params, tables: spaces.Box(-1e6, 1e6, (len(tables.prices) - 1,)),
    action_space=spaces.Discrete(2),
)


class MazeState(NamedTuple):
    seen: Array(tl.int8, ("height", "width"))
    place: tl.int32


class MazeParams(NamedTuple):
    height: int = 2
    width: int = 3
    toll: float = 0.5


class MazeTables(NamedTuple):
    walls: Table(tl.uint8, ("height", "width"))
    worth: Table(tl.float32, (None,))


class MazeMetrics(NamedTuple):
    seen: Last
    worth: Mean


@jit
def maze_reset(rng, params, tables):
    size: tl.constexpr = params.height * params.width
    place = integers(rng, 0, 0, size)
    return MazeState(tl.where(cells(size) == place[:, None], 1, 0), place)


@jit
def maze_step(state, action, rng, params, tables):
    size: tl.constexpr = params.height * params.width
    place = (state.place + action + 1) % size
    # Of each cell what its place in the table says, in blocks of the array.
    free = lookup(tables.walls, cells(size) // params.width, cells(size) % params.width) == 46
    here = (cells(size) == place[:, None]) & free & (cells(size) < size)
    seen = tl.where(here, 1, state.seen)
    found = count((seen > 0) & (cells(size) < size))
    worth = lookup(tables.worth, found) - params.toll
    return MazeState(seen, place), worth, found >= length(tables.worth), MazeMetrics(found, worth=worth)


@jit
def maze_observe(state, params, tables):
    return state.seen, lookup(tables.worth, state.seen) * beside(params.toll)


# Arrays whose shape is a parameter, which read tables.
Maze = Environment(
    id="Maze-v0",
    state=MazeState,
    params=MazeParams,
    tables=MazeTables(walls=["..#", "#.."], worth=[0.0, 1.0, 1.5, 2.5]),
    metrics=MazeMetrics,
    reset=maze_reset,
    step=maze_step,
    observe=maze_observe,
    observation_space=lambda params, tables: spaces.Box(-1e3, 1e3, (2, params.height, params.width)),
    action_space=spaces.Discrete(3),
)

# All at once with parameters in memory, and drawn.
MARKET = {"fee": Own((0.125, 0.25, 0.5)), "shift": Uniform(-1, 1)}
MAZE = {"height": 3, "width": 2, "toll": Choice(0.25, 0.5, 1.0), "walls": ["..", "#.", ".."]}


class StairsState(NamedTuple):
    height: tl.int8


@jit
def stairs_reset(rng, params):
    return StairsState(integers(rng, 0, -3, 0))


@jit
def stairs_step(state, action, rng, params):
    height = tl.minimum(tl.maximum(state.height + action - 1 + integers(rng, 0, 0, 2), -3), 2)
    return StairsState(height), height, height == 2


@jit
def stairs_observe(state, params):
    return (state.height,)


# A Discrete observation that does not begin at 0.
Stairs = Environment(
    id="Stairs-v0",
    state=StairsState,
    reset=stairs_reset,
    step=stairs_step,
    observe=stairs_observe,
    observation_space=spaces.Discrete(6, start=-3),
    action_space=spaces.Discrete(3),
)
