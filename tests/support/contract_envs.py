"""Environments that the contract is tested on: every registered one, and handmade ones for what those leave out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from cuda_twins import FOLDER, makers
from gymnasium import spaces
from here import BACKENDS
from reporting_envs import MARKET, MAZE, Market, Maze, Stairs
from varied_envs import CARTPOLE, DRIFT, LEDGE, TILES, Tiles, varied

import operant_gpu
from operant_gpu import AutoresetMode, CudaEnvironment, Environment
from operant_gpu.arrays import cell, cells, cells_of, count, get, nth, put
from operant_gpu.backends.select import BACKENDS as ENTRIES
from operant_gpu.lang import Array, jit, tl
from operant_gpu.random import integers, normal, uniform

MODES, ONE_MODE = list(AutoresetMode), [AutoresetMode.SAME_STEP]


class DriftState(NamedTuple):
    x: tl.float32
    y: tl.float32
    energy: tl.float64
    hops: tl.int32
    lucky: tl.int1


class DriftParams(NamedTuple):
    noise: float = 0.1
    period: int = 11
    friction: bool = True


@jit
def drift_reset(rng, params):
    lucky = integers(rng, 2, 0, 2) == 1
    return DriftState(x=uniform(rng, 0, -0.5, 0.5), y=0.25 * normal(rng, 0), energy=0.0, hops=1, lucky=lucky)


@jit
def drift_step(state, action, rng, params):
    push_x, push_y = action
    x = state.x + 0.1 * push_x + params.noise * normal(rng, 0)
    y = state.y + 0.1 * push_y + uniform(rng, 0, -0.1, 0.1)
    if params.friction:
        x *= 0.95
        y *= 0.95
    x, y = tl.clamp(x, -1.0, 1.0), tl.clamp(y, -1.0, 1.0)
    hop = integers(rng, 1, 0, 7)
    hops = state.hops + hop
    terminated = hops % params.period == 0
    reward = tl.where(state.lucky, x * y, x - y) - 0.25 * hop
    return DriftState(x, y, state.energy + x * x + y * y, hops, ~state.lucky), reward, terminated


@jit
def drift_observe(state, params):
    return state.x, state.y, (state.hops % params.period).to(tl.float32) / params.period


Drift = Environment(
    id="Drift-v0",
    state=DriftState,
    params=DriftParams,
    reset=drift_reset,
    step=drift_step,
    observe=drift_observe,
    observation_space=spaces.Box(np.array([-1, -1, 0], np.float32), 1.0),
    action_space=spaces.Box(-1.0, 1.0, (2,)),
)


class DialsState(NamedTuple):
    left: tl.int8
    right: tl.int64


@jit
def dials_reset(rng, params):
    return DialsState(left=integers(rng, 0, -2, 3), right=integers(rng, 1, -2, 3))


@jit
def dials_step(state, action, rng, params):
    left = tl.minimum(tl.maximum(state.left + action[0], -4), 4)
    right = tl.minimum(tl.maximum(state.right + action[1], -4), 4)
    return DialsState(left, right), left * right, (left == 0) & (right == 0)


@jit
def dials_observe(state, params):
    return state.left, state.right, state.left + state.right, 1.0


# No Params, actions that start below zero, observations of two axes, a plain number as a component.
Dials = Environment(
    id="Dials-v0",
    state=DialsState,
    reset=dials_reset,
    step=dials_step,
    observe=dials_observe,
    observation_space=spaces.Box(-8.0, 8.0, (2, 2)),
    action_space=spaces.MultiDiscrete([3, 4], start=[-1, -2]),
)


@jit
def dials_action_mask(state, params):
    left, right = state.left, state.right
    return left > -4, True, left < 4, right > -3, right > -4, True, (left != right) & (right < 4)


# The same with masks of both components.
MaskedDials = dataclasses.replace(Dials, id="MaskedDials-v0", action_mask=dials_action_mask)


class LedgeState(NamedTuple):
    x: tl.int32
    breath: tl.int32
    winded: tl.int1


class LedgeParams(NamedTuple):
    width: int = 5


@jit
def ledge_reset(rng, params):
    return LedgeState(x=integers(rng, 0, 0, params.width + 1), breath=integers(rng, 1, 0, 4), winded=False)


@jit
def ledge_action_mask(state, params):
    return True, state.x > 0, state.x < params.width, (state.breath >= 2) & (state.x + 2 <= params.width), state.winded


@jit
def ledge_constant_mask(state, params):
    return True, False, True, params.width > 2, params.width > 4


@jit
def ledge_step(state, action, rng, params):
    rest, left, right, leap, pant = ledge_action_mask(state, params)
    rests, walks_left, walks_right = rest & (action == 1), left & (action == 2), right & (action == 3)
    leaps, pants = leap & (action == 4), pant & (action == 5)
    x = state.x - walks_left.to(tl.int32) + walks_right.to(tl.int32) + 2 * leaps.to(tl.int32)
    breath = state.breath + rests.to(tl.int32) + 3 * pants.to(tl.int32) - 2 * leaps.to(tl.int32)
    legal = rests | walks_left | walks_right | leaps | pants
    reward = tl.where(legal, -0.1 * params.width, -1.0)
    return LedgeState(x, tl.minimum(breath, 5), leaps), reward, x == params.width


@jit
def ledge_observe(state, params):
    return state.x, state.breath, state.winded


# Illegal actions, which cost more, do nothing. Actions start at 1. The mask can be read off the observation.
Ledge = Environment(
    id="Ledge-v0",
    state=LedgeState,
    params=LedgeParams,
    reset=ledge_reset,
    step=ledge_step,
    observe=ledge_observe,
    action_mask=ledge_action_mask,
    observation_space=spaces.Box(0.0, 5.0, (3,)),
    action_space=spaces.Discrete(5, start=1),
)


class LampsState(NamedTuple):
    levels: Array(tl.float32, (3,))
    lit: Array(tl.int1, (2, 3))
    single: Array(tl.int16, (1,))
    moves: tl.int32


@jit
def lamps_reset(rng, params):
    levels = tl.where(cells(3) == integers(rng, 0, 0, 3)[:, None], uniform(rng, 1)[:, None], 0.25)
    return LampsState(levels, cells(6) % 2 == 0, -7, 0)


@jit
def lamps_step(state, action, rng, params):
    numbers = cells_of(state.levels)
    levels = tl.where(numbers == 0, state.levels + action[0][:, None], state.levels * 0.5)
    levels = tl.where(numbers == 2, action[1][:, None] - 1.0, levels)
    chosen = integers(rng, 0, 0, 6)
    was_lit = get(state.lit.to(tl.int32), chosen) > 0
    lit = put(state.lit, chosen, ~was_lit)
    highest = tl.max(tl.where(numbers < 3, levels, -9.0), 1)
    lowest = tl.min(tl.where(numbers < 3, levels, 9.0), axis=1)
    # Beyond the array lies what a step must not keep.
    ones = count(lit & (cells_of(lit) < 6))
    single = state.single + ones[:, None]
    first = nth(lit, state.moves * 0)
    return LampsState(levels + 0.0, lit, single, state.moves + 1), highest - lowest + 0.5 * first, ones == 5


@jit
def lamps_observe(state, params):
    lamps = cells(6)
    return state.lit, state.moves[:, None] % 4, lamps * 0.5, cell(state.levels, 1)[:, None] + state.single * 0.125


# A vector, conditions, a single number; planes of arrays and of numbers; cells beyond an array.
Lamps = Environment(
    id="Lamps-v0",
    state=LampsState,
    reset=lamps_reset,
    step=lamps_step,
    observe=lamps_observe,
    observation_space=spaces.Box(-np.inf, np.inf, (4, 2, 3)),
    action_space=spaces.Box(-1.0, 1.0, (2,)),
)


class SpotState(NamedTuple):
    x: tl.int32


@jit
def spot_reset(rng, params):
    return SpotState(integers(rng, 0, 0, 9))


@jit
def spot_step(state, action, rng, params):
    # How many cells lie to the left.
    left = count((cells(10) < state.x[:, None]) & (cells(10) < 10))
    return SpotState(tl.minimum(tl.maximum(left + action - 1, 0), 9)), left, left == 9


@jit
def spot_observe(state, params):
    return (cells(10) == state.x[:, None],)


# Arrays in the functions alone.
Spot = Environment(
    id="Spot-v0",
    state=SpotState,
    reset=spot_reset,
    step=spot_step,
    observe=spot_observe,
    observation_space=spaces.MultiBinary(10),
    action_space=spaces.Discrete(3),
)

# What there is a twin of in CUDA C++, by its file.
TWINS = {
    "cartpole.cu": operant_gpu.envs.CartPole,
    "drift.cu": Drift,
    "dials.cu": Dials,
    "masked_dials.cu": MaskedDials,
    "ledge.cu": Ledge,
    "snake.cu": operant_gpu.envs.Snake,
    "tiles.cu": Tiles,
    "market.cu": Market,
    "maze.cu": Maze,
    "stairs.cu": Stairs,
}


class FunctionsState(NamedTuple):
    x: tl.float32
    wide: tl.float64
    bits: tl.int64


class FunctionsParams(NamedTuple):
    count: int = 22


# For CUDA's functions; of no environment in Triton.
Functions = CudaEnvironment(
    id="CudaFunctions-v0",
    source=FOLDER / "functions.cu",
    state=FunctionsState,
    params=FunctionsParams,
    observation_space=spaces.Box(-np.inf, np.inf, (22,)),
    action_space=spaces.Discrete(2),
)
CUDA_MAKERS = makers(TWINS) | {Functions.id: Functions}
_VARIED = {"Drift": DRIFT, "Ledge": LEDGE, "Tiles": TILES, "Market": MARKET, "Maze": MAZE}
for _name, _own in _VARIED.items():
    CUDA_MAKERS[f"Cuda{_name}-varied"] = varied(CUDA_MAKERS[f"Cuda{_name}-v0"], **_own)
_CUDA_ONLY = set(operant_gpu.list_envs()) & CUDA_MAKERS.keys()

# Makers of vector environments: the registered by their name, the handmade by themselves.
MAKERS: dict[str, Callable[..., Any]] = {
    **{name: functools.partial(operant_gpu.make, name) for name in operant_gpu.list_envs() if name not in _CUDA_ONLY},
    Drift.id: Drift,
    Dials.id: Dials,
    MaskedDials.id: MaskedDials,
    Ledge.id: Ledge,
    Lamps.id: Lamps,
    Spot.id: Spot,
    Tiles.id: Tiles,
    # With tables and metrics.
    Market.id: Market,
    Maze.id: Maze,
    Stairs.id: Stairs,
    # With parameters in memory.
    "CartPole-varied": varied(operant_gpu.envs.CartPole, **CARTPOLE),
    "Drift-varied": varied(Drift, **DRIFT),
    "Ledge-varied": varied(Ledge, **LEDGE),
    "Tiles-varied": varied(Tiles, **TILES),
    "Market-varied": varied(Market, **MARKET),
    "Maze-varied": varied(Maze, **MAZE),
}
EVERY_MAKER = MAKERS | CUDA_MAKERS
# Those that numba does not run.
WITH_ARRAYS = {"Game2048-v0", "Snake-v0", Lamps.id, Spot.id, Tiles.id, "Tiles-varied", Maze.id, "Maze-varied"}
# The interpreter takes seconds for what others do in a tenth: of arrays it has Lamps here, and envs/test_boards.py.
_TOO_SLOW = {("Game2048-v0", "triton"), ("Snake-v0", "triton")}
# The matrix of environments and the backends that run them on this machine's CPU.
CASES = [
    *(
        (name, backend)
        for name in MAKERS
        for backend in BACKENDS
        if (ENTRIES[backend].has_arrays or name not in WITH_ARRAYS) and (name, backend) not in _TOO_SLOW
    ),
    *((name, "cpp") for name in CUDA_MAKERS),
]
# One of each form that backends tell apart: spaces, starts, masks, arrays, dtypes. They do not see what else an
# environment computes, and modes are code of theirs: all others run in one mode.
FORMS = {"CartPole-v1", Drift.id, MaskedDials.id, Ledge.id, "Drift-varied", "Ledge-varied", "Tiles-varied"}
FORMS |= {"Market-varied", "Maze-varied", Stairs.id}
FORMS |= {f"Cuda{name}" for name in FORMS} | {Lamps.id, Spot.id, "CudaSnake-v0"}
# In the interpreter, which is slow, Ledge and Lamps stand for these in the other modes.
_SEEN_IN_ONE_MODE = {("CartPole-v1", "triton"), ("Spot-v0", "triton")}


def modes_of(name: str, backend: str = "", tells_modes: bool = True) -> list[AutoresetMode]:
    """Return the modes that an environment is of use in, on this backend, where a test tells modes apart or not."""
    is_seen = (name, backend) in _SEEN_IN_ONE_MODE
    if backend == "triton" and not tells_modes:
        return [] if is_seen else ONE_MODE
    return MODES if name in FORMS and not is_seen else ONE_MODE


def in_modes(cases: list[tuple[str, str]], tells_modes: bool = True) -> Any:
    """Run a test with all of these names and backends, in their modes."""
    return pytest.mark.parametrize(
        ("name", "backend", "mode"),
        [
            pytest.param(name, backend, mode, id=f"{name}-{backend}-{mode.name.lower()}")
            for name, backend in cases
            for mode in modes_of(name, backend, tells_modes)
        ],
    )


every_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name.lower())
# What the interpreter runs of the others is Triton's kernels again: that they agree with NumPy is enough.
_FEWER = [(name, backend) for name, backend in CASES if backend != "triton" or name in FORMS]
# The latter is for tests that hold alike in any mode: Triton has one mode of four forms there.
every_environment, every_form = in_modes(_FEWER), in_modes(_FEWER, tells_modes=False)


def make_cpu(name: str, num_envs: int, backend: str, **settings: Any) -> operant_gpu.VecEnv:
    return EVERY_MAKER[name](num_envs, device="cpu", backend=backend, **settings)


def random_actions(env: operant_gpu.VecEnv, rng: np.random.Generator) -> torch.Tensor:
    """Return a batch of valid actions, as a tensor."""
    space = env.action_space
    space.seed(int(rng.integers(2**31)))
    return torch.as_tensor(space.sample())


def invalid_actions(env: operant_gpu.VecEnv, actions: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Return the actions with values in some rows that no environment can take."""
    spoilt = actions.clone()
    spoilt[rows] = torch.nan if actions.is_floating_point() else 99
    return spoilt


def everything(env: operant_gpu.VecEnv) -> dict[str, torch.Tensor]:
    """Return all that decides the future of an environment, by name."""
    saved = env.state_dict()
    columns = {f"columns.{name}": column for name, column in saved["columns"].items()}
    for name in ("columns.metrics", "columns.log_metrics"):
        columns |= {f"{name}[{i}]": row for i, row in enumerate(columns.pop(name, ()))}
    # Those of all environments as a column too.
    memory = {f"params.{name}": tensor.expand(env.num_envs) for name, tensor in saved["memory"].items()}
    return {**saved["state"], **columns, **memory}


def assert_same_tensors(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], ulps: int = 0, atol: float = 0.0
) -> None:
    """Compare tensors by name, wherever they are, bit for bit or nearly so; NaNs are equal.

    Args:
        found: What came.
        expected: What it is held against.
        ulps: By how many units in the last place floats may differ.
        atol: Or by how much, near zero.
    """
    assert found.keys() == expected.keys()
    pairs = {name: difference(tensor, expected[name], ulps, atol) for name, tensor in found.items()}
    told = [f"{name} {text}" for name, text in pairs.items() if text]
    assert not told, "\n".join(told)


def difference(found: torch.Tensor, expected: torch.Tensor, ulps: int = 0, atol: float = 0.0) -> str | None:
    """Say how much of a tensor differs, and where it does most; None if nothing does."""
    found, expected = found.detach().cpu(), expected.detach().cpu()
    shape = tuple(found.shape)
    if (shape, found.dtype) != (tuple(expected.shape), expected.dtype):
        return f"is {found.dtype} {shape}, expected {expected.dtype} {tuple(expected.shape)}"
    if not found.is_floating_point():
        apart, wrong, allowed = (found != expected).long(), found != expected, ""
    else:
        apart = ulps_apart(found, expected)
        wrong = (apart > ulps) & ~((found - expected).abs() <= atol)
        allowed = f": {ulps} ulps or {atol:g} are allowed" if ulps or atol else ""
    if not wrong.any():
        return None
    worst = int(torch.where(wrong, apart, -1).argmax())
    place = tuple(map(int, np.unravel_index(worst, shape)))
    came, wanted = found[place].item(), expected[place].item()
    far = f", {int(apart[place])} ulps apart" if found.is_floating_point() else ""
    count = f"{int(wrong.sum())} of {wrong.numel()} entries"
    return f"{shape} differs in {count}{allowed}; most at {place}: got {came}, expected {wanted}{far}"


_BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}
# Of a number and a NaN, and of numbers on both sides of zero.
_FAR = 2**62


def ulps_apart(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return how many floats lie between those of two tensors, int64."""
    bits = _BITS[one.dtype.itemsize]
    # Of negative floats the order of bits is the other way round.
    first, second = (
        torch.where(number < 0, torch.iinfo(bits).min - number, number)
        for number in (tensor.contiguous().view(bits).long() for tensor in (one, other))
    )
    across = (first < 0) != (second < 0)
    apart = torch.where(across | one.isnan() | other.isnan(), _FAR, (first - second).abs())
    return torch.where((one == other) | (one.isnan() & other.isnan()), 0, apart)
