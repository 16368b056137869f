"""Tables: what is given, what functions read, and what is said of bad ones."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from contract_envs import assert_same_tensors, everything
from gymnasium import spaces
from here import BACKENDS
from reporting_envs import Market, Maze

from operant_gpu import (
    AutoresetMode,
    CudaEnvironment,
    Environment,
    InvalidConfig,
    Table,
    TableError,
    UnsupportedConstruct,
)
from operant_gpu.arrays import cells, length, lookup
from operant_gpu.lang import jit, tl

N = 5
every_backend = pytest.mark.parametrize("backend", BACKENDS)


class State(NamedTuple):
    i: tl.int32
    j: tl.int64


class Tables(NamedTuple):
    flat: Table(tl.float32, (None,))
    wide: Table(tl.int16, (None, 3))
    deep: Table(tl.float64, (2, None, 2))


class Params(NamedTuple):
    n: int = 1


@jit
def reset(rng, params, tables):
    return State(0, 0)


@jit
def step(state, action, rng, params, tables):
    return State(state.i + action, state.j - action), lookup(tables.flat, state.i + action), False


@jit
def observe(state, params, tables):
    wide = lookup(tables.wide, state.i, state.j)
    return lookup(tables.flat, state.i), wide, lookup(tables.deep, state.j, state.i, params.n)


FLAT, WIDE = np.arange(4, dtype=np.float32) + 0.5, np.arange(6, dtype=np.int64).reshape(2, 3) - 300
DEEP = np.arange(12, dtype=np.float64).reshape(2, 3, 2) / 8


def definition(**other: Any) -> Environment:
    settings = {"reset": reset, "step": step, "observe": observe, "tables": Tables, "state": State, "params": Params}
    space = spaces.Box(-1e6, 1e6, (3,))
    return Environment(
        **{"id": "Read-v0", "observation_space": space, "action_space": spaces.Discrete(21, start=-10)}
        | settings
        | other
    )


READ = definition()
GIVEN = {"flat": FLAT, "wide": WIDE, "deep": DEEP}


def make(num_envs: int = N, **settings: Any) -> Any:
    return READ(num_envs, device="cpu", **{**GIVEN, **settings})


@pytest.mark.quick
@every_backend
def test_indices_read_the_numbers_nearest_to_them(backend: str) -> None:
    env = make(backend=backend)
    env.reset(seed=1)
    actions = torch.tensor([-10, -1, 0, 2, 10])
    obs, reward, *_ = env.step(actions)
    i, j = actions.clamp(0, 3), -actions
    assert reward.tolist() == FLAT[i].tolist()
    assert obs[:, 0].tolist() == FLAT[i].tolist()
    assert obs[:, 1].tolist() == WIDE[actions.clamp(0, 1), j.clamp(0, 2)].tolist()
    assert obs[:, 2].tolist() == DEEP[j.clamp(0, 1), actions.clamp(0, 2), 1].tolist()


@pytest.mark.quick
@every_backend
def test_a_table_can_be_replaced_in_place(backend: str) -> None:
    env = make(backend=backend)
    env.reset(seed=1)
    env.step(torch.zeros(N, dtype=torch.int64))
    env.tables.flat.copy_(torch.arange(4) + 10)
    assert env.observe()[:, 0].tolist() == [10] * N
    assert env.step(torch.ones(N, dtype=torch.int64))[1].tolist() == [11] * N
    # What was given is the caller's, and stays as it was.
    assert FLAT.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert env.tables.wide.dtype is torch.int16
    with pytest.raises(AttributeError):
        env.tables = env.tables


@pytest.mark.parametrize("given", [torch.from_numpy(FLAT), FLAT.astype(">f8"), FLAT[::-1][::-1], [0.5, 1.5, 2.5, 3.5]])
def test_tables_come_from_arrays_tensors_and_lists(given: Any) -> None:
    assert make(flat=given).tables.flat.tolist() == FLAT.tolist()


def test_rows_of_text_are_bytes() -> None:
    assert Maze(2, device="cpu", walls=["#..", "..#"]).tables.walls.tolist() == [[35, 46, 46], [46, 46, 35]]


def test_an_instance_gives_defaults_and_a_bare_class_none() -> None:
    assert Market(2, device="cpu").tables.prices.shape == (7, 3)
    with pytest.raises(
        InvalidConfig, match=r"^deep: expected a table of float64 and shape \(2, any, 2\).* got none: give deep="
    ):
        READ(2, device="cpu", flat=FLAT, wide=WIDE)


NAN = np.array([1.0, np.nan], np.float32)


@pytest.mark.parametrize(
    ("name", "given", "found"),
    [
        ("flat", NAN, r"got nan at \(1,\)"),
        ("flat", np.array([1e300]), r"got 1e\+300 at \(0,\)"),
        ("flat", FLAT[None], r"shape \(any,\), got \(1, 4\)"),
        ("flat", np.array([], np.float32), r"got \(0,\), which has no numbers"),
        ("flat", np.array([1j]), "got torch.complex128"),
        ("flat", np.array([True]), "got torch.bool"),
        ("flat", [[1.0], [1.0, 2.0]], "cannot be read as a tensor"),
        ("flat", "1,2", "got the text '1,2'"),
        ("flat", None, "expected numbers, got NoneType"),
        ("flat", b"abc", "expected numbers, got bytes"),
        ("flat", torch.ones(3, device="meta"), "on meta"),
        ("wide", np.ones((2, 4), np.int16), r"shape \(any, 3\), got \(2, 4\)"),
        ("wide", np.full((2, 3), 2**15), r"got 32768 at \(0, 0\)"),
        ("wide", np.ones((2, 3)), "got torch.float64"),
        ("wide", np.full((1, 3), 2**63 + 5, np.uint64), "got 9223372036854775813 at"),
        ("deep", np.ones((1, 3, 2)), r"shape \(2, any, 2\), got \(1, 3, 2\)"),
    ],
    ids=str,
)
def test_a_bad_table_is_refused_by_its_name(name: str, given: Any, found: str) -> None:
    with pytest.raises(InvalidConfig, match=f"^{name}: expected a table of .*{found}"):
        make(**{name: given})


def test_a_size_comes_with_the_name_of_its_parameter() -> None:
    with pytest.raises(InvalidConfig, match=r"^walls: .*shape \(height=2, width=3\), got \(2, 4\)"):
        Maze(2, device="cpu", walls=["#...", "..#."])


def test_infinities_are_numbers() -> None:
    assert make(flat=[np.inf, 1.0, -np.inf]).tables.flat.tolist() == [np.inf, 1.0, -np.inf]


def test_unknown_names_come_with_those_of_the_tables() -> None:
    with pytest.raises(InvalidConfig, match=r"did you mean 'flat'.*tables: flat, wide, deep"):
        make(flatt=FLAT)


class Twice(NamedTuple):
    n: Table(tl.float32, (None,))


class Reserved(NamedTuple):
    device: Table(tl.float32, (None,))


class NoTable(NamedTuple):
    flat: tl.float32


class FourAxes(NamedTuple):
    flat: Table(tl.float32, (1, 1, 1, 1))


class Unnamed(NamedTuple):
    flat: Table(tl.float32, ("size",))


class Unsigned(NamedTuple):
    flat: Table(tl.uint32, (None,))


class Inherited(Twice):
    pass


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (Twice, "n is a parameter too"),
        (Reserved, "device is an argument of VecEnv"),
        (NoTable, r"field 'flat' of NoTable is annotated .*: expected Table\(dtype, shape\)"),
        (FourAxes, "expected 1 to 3 axes"),
        (Unnamed, "'size' is no integer parameter, of which there are n"),
        (Unsigned, "expected tl.float32, "),
        (Inherited, "field 'n' has no annotation in the class itself"),
        (Tables(FLAT, WIDE, DEEP[0]), r"deep: expected a table of float64 and shape \(2, any, 2\), got \(3, 2\)"),
        (dict, "expected a subclass of typing.NamedTuple"),
    ],
    ids=str,
)
def test_a_bad_declaration_is_refused(tables: Any, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        definition(tables=tables)


@jit
def without_tables(rng, params):
    return State(0, 0)


def test_functions_of_an_environment_with_tables_take_them() -> None:
    with pytest.raises(InvalidConfig, match=r"^reset: expected the arguments reset\(rng, params, tables\), got"):
        definition(reset=without_tables)
    with pytest.raises(
        InvalidConfig, match=r"^validate: expected a function of \(params, tables\), got one of \(params"
    ):
        definition(validate=lambda params: None)


def test_validate_spaces_and_pictures_see_arrays() -> None:
    def validate(params: Any, tables: Any) -> None:
        if tables.flat.max() > 5:
            raise InvalidConfig("flat", "too much")
        with pytest.raises(ValueError, match="read-only"):
            tables.flat[0] = 1.0

    seen = definition(
        validate=validate,
        observation_space=lambda params, tables: spaces.Box(-1e6, 1e6, (tables.wide.shape[1],)),
        draw=lambda state, params, tables: np.full((1, 1, 3), tables.wide[1, 2] + 400, np.uint8),
    )
    env = seen(2, device="cpu", render_mode="rgb_array", **GIVEN)
    env.reset(seed=1)
    assert [frame.tolist() for frame in env.render()] == [[[[105] * 3]]] * 2
    with pytest.raises(InvalidConfig, match=r"^flat: too much"):
        seen(2, device="cpu", **{**GIVEN, "flat": FLAT * 9})


@jit
def too_few(state, params, tables):
    return lookup(tables.wide, state.i), 0.0, 0.0


@jit
def too_many(state, params, tables):
    return lookup(tables.flat, state.i, 0), 0.0, 0.0


@jit
def skipping(state, params, tables):
    return lookup(tables.wide, state.i, k=0), 0.0, 0.0


@jit
def by_float(state, params, tables):
    return lookup(tables.flat, state.i * 0.5), 0.0, 0.0


@jit
def beyond(state, params, tables):
    return lookup(tables.wide, state.i, 3), 0.0, 0.0


@jit
def before(state, params, tables):
    return lookup(tables.wide, -1, state.i), 0.0, 0.0


@jit
def of_no_table(state, params, tables):
    return lookup(state.i, 0), 0.0, 0.0


@jit
def renamed(state, params, tables):
    flat = tables.flat
    return lookup(flat, state.i), 0.0, 0.0


@jit
def renamed_together(state, params, tables):
    own = tables
    return lookup(own.flat, state.i), 0.0, 0.0


@jit
def by_cells_and_rows(state, params, tables):
    return lookup(tables.wide, state.i, cells(2)), 0.0, 0.0


@jit
def by_len(state, params, tables):
    return len(tables.flat), 0.0, 0.0


@jit
def of_axis(state, params, tables):
    return length(tables.flat, 1), 0.0, 0.0


@jit
def as_an_array(state, params, tables):
    return tables.wide[state.i, 0], 0.0, 0.0


@jit
def as_a_row(state, params, tables):
    return tables.flat[state.i], 0.0, 0.0


@jit
def of_its_shape(state, params, tables):
    return tables.flat.shape[0], 0.0, 0.0


@jit
def of_data_outside(state, params, tables):
    return FLAT[state.i], 0.0, 0.0


@jit
def in_a_dictionary(state, params, tables):
    return {"flat": 0.0}, 0.0, 0.0


MAP = tl.constexpr((1.0, 2.0, 4.0))


@jit
def of_constants(state, params, tables):
    return MAP[state.i], 0.0, 0.0


@every_backend
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (too_few, r"a table \(2, 3\) needs 2 indices, got 1"),
        (too_many, r"a table \(4,\) needs 1 indices, got 2"),
        (skipping, "needs 2 indices"),
        (by_float, r"must be an integer, got float32: cast with .to\(tl.int32\)"),
        (beyond, r"index 3 of axis 1 of a table \(2, 3\): it has 0 to 2"),
        (before, "index -1 of axis 0"),
        (of_no_table, "lookup and length take a table"),
        (renamed, "a table cannot get another name"),
        (renamed_together, "a table cannot get another name"),
        (by_cells_and_rows, r"write x\[:, None\]"),
        (by_len, r"length\(tables.name\)"),
        (as_an_array, r"a table is read with lookup\(tables.name, i, j\)"),
        (as_a_row, r"a table is read with lookup\(tables.name, index\)"),
        (of_its_shape, r"of a table there are length\(tables.name, axis\) and lookup"),
        (of_data_outside, "FLAT is data outside the function: declare a Table"),
        (in_a_dictionary, "Dict is not supported"),
        (of_axis, r"expected an axis from 0 to 0 of a table \(4,\), got 1"),
        (of_constants, r"declare a Table \(operant_gpu.lang\) and read it with lookup"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_wrong_lookup_is_refused_on_every_backend_with_its_line(function: Any, message: str, backend: str) -> None:
    place = rf"test_tables.py:\d+, in {function.__name__}: `.*`: .*"
    with pytest.raises(UnsupportedConstruct, match=place + message):
        definition(observe=function)(2, device="cpu", backend=backend, **GIVEN)


class PlaceState(NamedTuple):
    i: tl.int32


class PlaceParams(NamedTuple):
    start: int = 0


class PlaceTables(NamedTuple):
    first: Table(tl.int8, (9,))
    flat: Table(tl.float32, (2, None))


@jit
def place_reset(rng, params, tables):
    return PlaceState(params.start + 0 * lookup(tables.first, params.start))


@jit
def place_step(state, action, rng, params, tables):
    i = state.i + action
    return PlaceState(i), lookup(tables.flat, 1, i), False


@jit
def place_observe(state, params, tables):
    return (lookup(tables.flat, 0, state.i),)


@jit
def place_action_mask(state, params, tables):
    return (lookup(tables.first, state.i * 2) == 0,) * 21


PLACE: dict[str, Any] = {
    "id": "Place-v0",
    "state": PlaceState,
    "params": PlaceParams,
    "tables": PlaceTables([0] * 9, [[1.0, 2.0, 3.0, 4.0]] * 2),
    "observation_space": spaces.Box(-9.0, 9.0, (1,)),
    "action_space": spaces.Discrete(21, start=-10),
}
PLACE_SOURCE = """
__device__ State reset(Rng rng, Params params, Tables tables) {
    return State{params.start + 0 * tables.first(params.start)};
}
__device__ Outcome step(State& state, Action action, Rng rng, Params params, Tables tables) {
    state.i += action;
    return Outcome{tables.flat(1, state.i), false};
}
__device__ void observe(const State& state, Params params, Tables tables, Observation obs) {
    obs[0] = tables.flat(0, state.i);
}
__device__ bool is_legal(const State& state, int choice, Params params, Tables tables) {
    return tables.first(2 * state.i) == 0;
}
"""


@pytest.mark.quick
@pytest.mark.parametrize("backend", [*BACKENDS, "cpp"])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_debug_tells_of_indices_beyond_a_table(backend: str, mode: AutoresetMode, tmp_path: Path) -> None:
    functions = {"reset": place_reset, "step": place_step, "observe": place_observe, "action_mask": place_action_mask}
    (tmp_path / "place.cu").write_text(PLACE_SOURCE)
    place = (
        CudaEnvironment(**PLACE, source=tmp_path / "place.cu", action_mask=True)
        if backend == "cpp"
        else Environment(**PLACE, **functions)
    )

    def make(**settings: Any) -> Any:
        start = torch.zeros(N, dtype=torch.int64)
        return place(N, device="cpu", backend=backend, autoreset_mode=mode, start=start, **settings)

    def told(where: str) -> Any:
        return pytest.raises(
            TableError, match=rf"^1 environments read beyond a table \(first environment 3: {where} there\)"
        )

    env = make(debug=True)
    env.reset(seed=1)
    actions = torch.zeros(N, dtype=torch.int64)
    for _ in range(3):
        env.step(actions)
    env.rollout(2, actions.expand(2, N))
    env.check()
    # Of each function: what leaves a table there.
    env.params.start[3] = -2
    with told("index -[24] of axis 0 of the table 'first', which has 0 to 8"):
        env.reset(seed=1)
    env.params.start[3] = 0
    env.reset(seed=1)
    actions[3] = 4
    with told("index 4 of axis 1 of the table 'flat', which has 0 to 3"):
        env.step(actions)
    env.reset(seed=1)
    with told("index (8|16) of axis [01] of the table .*, which has 0 to [38]"):
        env.rollout(2, actions.expand(2, N))
    env.reset(seed=1)
    env.state.i[3] = -10
    env.observe()
    with told("index -[12]0 of axis [01] of the table .*"):
        env.check()
    # What was told of is told once.
    env.state.i[3] = 0
    env.check()
    quiet = make()
    quiet.reset(seed=1)
    quiet.step(actions)
    quiet.check()


def test_an_index_that_has_no_room_is_told_of_as_far_away() -> None:
    env = make(debug=True)
    env.reset(seed=1)
    env.state.j[1] = 2**62
    env.observe()
    with pytest.raises(TableError, match=f"first environment 1: index {2**57 - 1} of"):
        env.check()


@every_backend
def test_debug_leaves_aside_what_takes_no_step(backend: str) -> None:
    env = make(backend=backend, debug=True, autoreset_mode="disabled", max_episode_steps=1)
    env.reset(seed=1)
    env.step(torch.zeros(N, dtype=torch.int64))
    # An ended environment takes no action, whatever it is.
    with pytest.raises(Exception, match="steps of ended episodes"):
        env.step(torch.full((N,), 10))


@every_backend
@pytest.mark.parametrize("debug", [False, True])
def test_twins_have_the_tables_of_the_moment(backend: str, debug: bool) -> None:
    env = make(backend=backend)
    env.reset(seed=1)
    env.tables.flat[2] = np.nan
    for twin in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert_same_tensors(twin.tables._asdict(), env.tables._asdict())
        assert twin.given["flat"].tolist() == FLAT.tolist()
        twin.tables.flat[0] = 99.0
    assert env.tables.flat[0] == FLAT[0]
    other = make(backend=backend, debug=debug)
    other.load_state_dict(env.state_dict())
    assert_same_tensors(everything(other), everything(env))
    assert_same_tensors(other.tables._asdict(), env.tables._asdict())
    shorter = make(backend=backend, flat=FLAT[:3])
    with pytest.raises(InvalidConfig, match=r"params\['flat'\] is 'tensor \(4,\)'"):
        shorter.load_state_dict(env.state_dict())


def test_what_makes_others_like_these_has_the_tables() -> None:
    env = make()
    env.tables.flat[0] = 7.0
    others = READ(3, device="cpu", **env.parameters(3))
    assert others.tables.flat.tolist() == env.tables.flat.tolist()
