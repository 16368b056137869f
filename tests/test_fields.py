"""What annotations say: shapes from parameters, and definitions made in functions."""

from __future__ import annotations

import dataclasses
import importlib.util
import pickle
import sys
from pathlib import Path
from typing import Any, NamedTuple

import factory_envs
import numpy as np
import pytest
import torch
from gymnasium import spaces
from here import BACKENDS

from operant_gpu import Array, Environment, InvalidConfig, UnsupportedConstruct
from operant_gpu.arrays import cells, count
from operant_gpu.lang import jit, tl

every_backend = pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "numba"])


class State(NamedTuple):
    board: Array(tl.int8, ("height", "width"))
    line: Array(tl.float32, ("width",))


class Params(NamedTuple):
    height: int = 2
    width: int = 3
    is_odd: bool = False
    weight: float = 1.0


@jit
def reset(rng, params):
    size: tl.constexpr = params.height * params.width
    return State(cells(size) % 2, 0.5)


@jit
def step(state, action, rng, params):
    size: tl.constexpr = params.height * params.width
    return State(state.board, state.line * 2.0), count((state.board > 0) & (cells(size) < size)), False


@jit
def observe(state, params):
    return (state.board,)


def boards(state: Any = State) -> Environment:
    return Environment(
        id="Boards-v0",
        state=state,
        params=Params,
        reset=reset,
        step=step,
        observe=observe,
        observation_space=lambda params: spaces.Box(-9.0, 9.0, (params.height, params.width)),
        action_space=spaces.Discrete(2),
    )


BOARDS = boards()


@pytest.mark.quick
@every_backend
def test_shapes_are_what_parameters_say(backend: str) -> None:
    for height, width in ((2, 3), (5, 4), (1, 33)):
        env = BOARDS(3, device="cpu", backend=backend, height=height, width=width)
        assert (env.state.board.shape, env.state.line.shape) == ((3, height, width), (3, width))
        obs, _ = env.reset(seed=1)
        expected = (torch.arange(height * width) % 2).reshape(height, width)
        assert obs.equal(expected.expand(3, -1, -1).float())
        assert env.step(torch.zeros(3, dtype=torch.int64))[1].tolist() == [expected.sum()] * 3
        assert env.state.line.unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"height": 0}, "height: field 'board' of State is annotated .*, so it must be at least 1, got 0"),
        ({"width": -2}, "width: .*, so it must be at least 1, got -2"),
        ({"width": torch.tensor(3)}, "width: .*, so it must be a number: got one in memory"),
        ({"width": "3..5"}, "width: .*, so it must be a number: got one in memory"),
        ({"height": 10**6, "width": 10**6}, r"state: field 'board' .*\(1000000, 1000000\): expected at most 1,048,576"),
    ],
    ids=str,
)
def test_a_size_that_makes_no_shape_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        BOARDS(2, device="cpu", **given)


class OfNothing(NamedTuple):
    board: Array(tl.int8, ("size",))


class OfABool(NamedTuple):
    board: Array(tl.int8, ("is_odd",))


class OfAFloat(NamedTuple):
    board: Array(tl.int8, (2, "weight"))


@pytest.mark.parametrize(("state", "name"), [(OfNothing, "size"), (OfABool, "is_odd"), (OfAFloat, "weight")], ids=str)
def test_a_name_of_no_integer_parameter_is_refused(state: Any, name: str) -> None:
    with pytest.raises(InvalidConfig, match=f"'{name}' is no integer parameter, of which there are height, width"):
        boards(state)


@pytest.fixture(params=["text", "values"])
def factories(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Functions that make definitions, whose annotations are text, or values."""
    source = Path(factory_envs.__file__).read_text()
    if request.param == "values":
        source = source.replace("from __future__ import annotations\n", "")
    name = f"factories_of_{request.param}"
    (tmp_path / f"{name}.py").write_text(source)
    spec = importlib.util.spec_from_file_location(name, tmp_path / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]


@pytest.mark.quick
@every_backend
def test_definitions_are_made_in_functions(factories: Any, backend: str) -> None:
    # Which no annotation means.
    SIDES = 9
    assert SIDES
    made = [factories.picture(2, 3), factories.picture(3, 5, bonus=0.25), factories.picture(2, 3)]
    for definition, (height, width), bonus in zip(made, ((2, 3), (3, 5), (2, 3)), (0.5, 0.25, 0.5), strict=True):
        env = definition(4, device="cpu", backend=backend)
        obs, _ = env.reset(seed=1)
        assert obs.shape == (4, height, width)
        assert env.state.sides.shape == (4, 2)
        assert obs.sum((1, 2)).tolist() == [1] * 4
        places = obs.flatten(1).argmax(1)
        for t in range(3):
            _, reward, *_, info = env.step(places)
            expected = min(t, height - 1) * width + bonus
            assert info["metrics"]["worth"].tolist() == [expected] * 4
            assert reward.tolist() == [1 + expected] * 4


def test_what_was_made_in_a_function_can_be_changed_and_not_pickled(factories: Any) -> None:
    made = factories.picture(2, 3)
    renamed = dataclasses.replace(made, id="Renamed-v0")
    env = renamed(2, device="cpu", backend="numpy")
    assert env.reset(seed=1)[0].shape == (2, 2, 3)
    with pytest.raises(InvalidConfig, match="can be pickled by its name only"):
        pickle.dumps(env)


def test_a_class_whose_function_has_returned_is_refused(factories: Any) -> None:
    n = 3
    gone = factories.state_of(n + 2)
    if isinstance(gone.__annotations__["x"], Array):
        assert gone.__annotations__["x"].shape == (5,)
        return
    with pytest.raises(
        InvalidConfig, match=r"^Gone.x: is annotated .*name 'n' is not defined; as text, it may use names"
    ):
        factories.picture(2, 3, state=gone)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_number_of_the_function_is_refused_with_what_to_write(factories: Any, backend: str) -> None:
    advice = r"in step: `bonus`: bonus is a plain number .* BONUS = tl.constexpr\(bonus\) beside it"
    with pytest.raises(UnsupportedConstruct, match=advice):
        factories.over_plain_numbers(0.5)(2, device="cpu", backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_own_function_goes_before_a_built_in_one(factories: Any, backend: str) -> None:
    env = factories.with_own_maximum()(1, device="cpu", backend=backend)
    env.reset(seed=1)
    assert env.step(torch.zeros(1, dtype=torch.int64))[0].tolist() == [[100.0]]


@pytest.mark.quick
@pytest.mark.parametrize("backend", BACKENDS)
def test_definitions_of_one_source_are_told_apart(factories: Any, backend: str) -> None:
    found = []
    for first, default, kind in (
        ("a", 0.25, tl.int16),
        ("b", 0.25, tl.int16),
        ("a", 7.0, tl.int16),
        ("a", 0.25, tl.int8),
    ):
        env = factories.reporting(first, default, kind)(1, device="cpu", backend=backend)
        env.reset(seed=1)
        metrics = env.step(torch.zeros(1, dtype=torch.int64))[4]["metrics"]
        found.append({name: column.item() for name, column in metrics.items()})
    assert found == [{"a": 200, "b": 0.25}, {"b": 0.25, "a": 200}, {"a": 200, "b": 7.0}, {"a": -56, "b": 0.25}]


@pytest.mark.parametrize("backend", BACKENDS)
def test_constants_of_numpys_are_refused(backend: str, tmp_path: Path) -> None:
    wrong = dataclasses.replace(factory_envs.picture(2, 3), step=of_numpy)
    with pytest.raises(UnsupportedConstruct, match=r"STRANGE is a constant of int64: write tl.constexpr\(4\)"):
        wrong(2, device="cpu", backend="numpy" if backend == "numba" else backend)


STRANGE = tl.constexpr(np.int64(4))


@jit
def of_numpy(state, action, rng, params, tables):
    return state, STRANGE, False, None


def test_a_lambda_is_no_jit_function() -> None:
    with pytest.raises(UnsupportedConstruct, match="a lambda cannot be a jit function"):
        jit(lambda rng, params: None)
