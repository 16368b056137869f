"""Definitions made in functions; `test_fields.py` reads this file with annotations as text, and as values."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from operant_gpu import Environment
from operant_gpu.arrays import cells, get, lookup
from operant_gpu.lang import Array, Table, jit, tl
from operant_gpu.metrics import Last
from operant_gpu.random import integers

# A local of callers has this name too.
SIDES = 2


def picture(height: int, width: int, bonus: float = 0.5, **settings: Any) -> Environment:
    """Return an environment of pictures of this shape."""
    shape, size, extra = (height, width), tl.constexpr(height * width), tl.constexpr(bonus)

    class Picture(NamedTuple):
        img: Array(tl.uint8, shape)
        sides: Array(tl.int8, (SIDES,))
        t: tl.int32

    class Marks(NamedTuple):
        worth: Table(tl.float32, shape)

    class Seen(NamedTuple):
        worth: Last = 0.0

    @jit
    def reset(rng, params, tables):
        place = integers(rng, 0, 0, size)
        return Picture(tl.where(cells(size) == place[:, None], 1, 0), 0, 0)

    @jit
    def worth_of(state, tables):
        return lookup(tables.worth, state.t, 0) + later(state)

    @jit
    def later(state):
        return extra

    @jit
    def step(state, action, rng, params, tables):
        worth = worth_of(state, tables)
        return Picture(state.img, state.sides, state.t + 1), get(state.img, action) + worth, state.t > 3, Seen(worth)

    @jit
    def observe(state, params, tables):
        return (state.img,)

    return Environment(
        **{
            "id": "Picture-v0",
            "state": Picture,
            "tables": Marks(np.arange(height * width).reshape(shape)),
            "metrics": Seen,
            "reset": reset,
            "step": step,
            "observe": observe,
            "observation_space": spaces.Box(0, 255, shape, np.uint8),
            "action_space": spaces.Discrete(height * width),
        }
        | settings
    )


def state_of(n: int) -> Any:
    """Return a class whose annotation nobody can resolve once this has returned."""

    class Gone(NamedTuple):
        x: Array(tl.int32, (n,))

    return Gone


class Counter(NamedTuple):
    t: tl.int32


@jit
def zero(rng, params):
    return Counter(0)


@jit
def shown(state, params):
    return (state.t,)


def counting(id: str, step: Any, **settings: Any) -> Environment:
    """Return an environment that counts, whose step is from a function."""
    return Environment(
        id=id,
        state=Counter,
        reset=zero,
        step=step,
        observe=shown,
        observation_space=spaces.Box(0.0, 1e6, (1,)),
        action_space=spaces.Discrete(2),
        **settings,
    )


def over_plain_numbers(bonus: float) -> Environment:
    """Return an environment whose step reads a number of this function."""

    @jit
    def step(state, action, rng, params):
        return Counter(state.t + 1), bonus, False

    return counting("Plain-v0", step)


def reporting(first: str, default: float, kind: Any) -> Environment:
    """Return environments that differ in what no source tells: a class's fields and defaults, and a dtype."""
    dtype = kind
    names = ("a", "b") if first == "a" else ("b", "a")
    Told = NamedTuple("Told", [(name, Last) for name in names])
    Told._field_defaults = {name: default if name == "b" else 1.0 for name in names}
    Told.__new__.__defaults__ = tuple(Told._field_defaults.values())

    @jit
    def step(state, action, rng, params):
        t = (state.t + 200).to(dtype).to(tl.int32)
        return Counter(state.t + 1), 0.0, False, Told(a=t)

    return counting("Reporting-v0", step, metrics=Told)


def with_own_maximum() -> Environment:
    """Return an environment with a function of a built-in's name."""

    @jit
    def max(a, b):
        return a + 100 * b

    @jit
    def step(state, action, rng, params):
        return Counter(max(state.t, 1)), 0.0, False

    return counting("Maximum-v0", step)
