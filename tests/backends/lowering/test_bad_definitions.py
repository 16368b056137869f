"""Definitions that cannot work are refused with advice: each part of one, and what its functions return."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from cells import Cells, Settings, answer, blank, environment, watch
from gymnasium import spaces

import operant_gpu
from operant_gpu import InvalidConfig
from operant_gpu.lang import jit, tl

pytestmark = pytest.mark.quick


@jit
def good_step(state, action, rng, params):
    return state, 0.0, False


@jit
def two_results(state, action, rng, params):
    return state, 0.0


@jit
def bare_state(state, action, rng, params):
    return state


@jit
def plain_tuple_for_state(state, action, rng, params):
    return (state.i, state.x), 0.0, False


@jit
def params_for_state(state, action, rng, params):
    return params, 0.0, False


@jit
def missing_field(state, action, rng, params):
    return Cells(state.i, state.j), 0.0, False


@jit
def unknown_field(state, action, rng, params):
    return Cells(position=state.x), 0.0, False


@jit
def tuple_for_a_field(state, action, rng, params):
    return answer(state, (state.i, state.j), 0.0), 0.0, False


@jit
def tuple_for_reward(state, action, rng, params):
    return state, (state.x, state.y), False


@jit
def tuple_for_terminated(state, action, rng, params):
    return state, 0.0, (state.x > 0.0, state.y > 0.0)


@jit
def string_for_reward(state, action, rng, params):
    return state, "much", False


@jit
def nothing_at_all(state, action, rng, params):
    pass


@jit
def reads_unknown_field(state, action, rng, params):
    return state, state.speed, False


@jit
def reads_unknown_param(state, action, rng, params):
    return state, params.mass, False


@pytest.mark.parametrize(
    ("step", "advice"),
    [
        (two_results, r"must return \(State, reward, terminated\), got a tuple of 2"),
        (bare_state, r"must return \(State, reward, terminated\), got a Cells of 8"),
        (nothing_at_all, r"must return \(State, reward, terminated\), got None"),
        (plain_tuple_for_state, r"must return Cells\(i, j, .*, got a tuple of 2"),
        (params_for_state, r"must return Cells\(i, j, .*, got a Settings of 3"),
        (missing_field, r"missing_field.*missing .* 'x'"),
        (unknown_field, r"unknown_field.*'position'"),
        (tuple_for_a_field, "field 'whole' must be a number, or a block .*, got a tuple of 2"),
        (tuple_for_reward, "reward must be a number, or a block .*, got a tuple of 2"),
        (tuple_for_terminated, "terminated must be a number, or a block .*, got a tuple of 2"),
        (string_for_reward, "reward must be a number, or a block .*, got 'much'"),
        (reads_unknown_field, f"{__file__}:.*'speed'"),
        (reads_unknown_param, f"{__file__}:.*'mass'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_step_that_returns_something_else_is_refused(step: Any, advice: str) -> None:
    with pytest.raises(InvalidConfig, match=advice) as raised:
        environment(step)(2, device="cpu", backend="numpy")
    assert raised.value.param == "step"


@jit
def tuple_from_reset(rng, params):
    return 0, 0, 0.0, 0.0, 0, 0.0, 0, 0.0


@jit
def one_component_too_many(state, params):
    return state.x, state.y


@jit
def bare_block(state, params):
    return state.x


@jit
def no_component(state, params):
    return ()


@jit
def nested_component(state, params):
    return ((state.x, state.y),)


@pytest.mark.parametrize(
    ("part", "function", "advice"),
    [
        ("reset", tuple_from_reset, r"must return Cells\(i, j, .*, got a tuple of 8"),
        ("observe", one_component_too_many, "a tuple of 1 components, for Box.*, got a tuple of 2"),
        ("observe", bare_block, "a tuple of 1 components, for Box.*, got a block of float32"),
        ("observe", no_component, "a tuple of 1 components, for Box.*, got a tuple of 0"),
        ("observe", nested_component, "component 0 must be a number, or a block .*, got a tuple of 2"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_reset_or_observe_that_returns_something_else_is_refused(part: str, function: Any, advice: str) -> None:
    with pytest.raises(InvalidConfig, match=advice) as raised:
        environment(good_step, **{part: function})(2, device="cpu", backend="numpy")
    assert raised.value.param == part


@jit
def two_conditions(state, params):
    return state.x > 0.0, True


@jit
def bare_condition(state, params):
    return state.x > 0.0


@jit
def three_conditions(state, params):
    return state.x > 0.0, True, True


@jit
def number_for_a_condition(state, params):
    return True, 1


@jit
def column_for_a_condition(state, params):
    return state.i, state.x > 0.0


@jit
def nested_condition(state, params):
    return True, (True, False)


@jit
def mask_of_unknown_field(state, params):
    return state.speed > 0.0, True


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (bare_condition, r"a tuple of 2 conditions, for Discrete\(2\), got a block of bool"),
        (three_conditions, r"a tuple of 2 conditions, for Discrete\(2\), got a tuple of 3"),
        (number_for_a_condition, "condition 1 must be a condition, such as x > limit, got 1"),
        (column_for_a_condition, "condition 0 must be a condition, such as x > limit, got a block of int32"),
        (nested_condition, "condition 1 must be a number, or a block .*, got a tuple of 2"),
        (mask_of_unknown_field, f"{__file__}:.*'speed'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_action_mask_that_returns_something_else_is_refused(function: Any, advice: str) -> None:
    with pytest.raises(InvalidConfig, match=advice) as raised:
        environment(good_step, action_mask=function)(2, device="cpu", backend="numpy")
    assert raised.value.param == "action_mask"


def test_the_components_of_multi_discrete_have_their_conditions_one_after_the_other() -> None:
    parts = {"action_mask": two_conditions, "action_space": spaces.MultiDiscrete([2, 3])}
    with pytest.raises(InvalidConfig, match=r"a tuple of 5 conditions, for MultiDiscrete\(\[2 3\]\), got a tuple of 2"):
        environment(good_step, **parts)(2, device="cpu", backend="numpy")


def box_of_actions(params: Any) -> Any:
    return spaces.Box(-1.0, 1.0, (2,))


@pytest.mark.parametrize("space", [spaces.Box(-1.0, 1.0, (2,)), box_of_actions], ids=["space", "function"])
def test_a_box_of_actions_has_no_mask(space: Any) -> None:
    with pytest.raises(InvalidConfig, match=r"needs a Discrete or MultiDiscrete action space, got Box") as raised:
        environment(good_step, action_mask=two_conditions, action_space=space)(2, device="cpu", backend="numpy")
    assert raised.value.param == "action_mask"


class PlainClass:
    x: tl.float32


class NoFields(NamedTuple):
    pass


class PythonTypes(NamedTuple):
    x: float


class TextTypes(NamedTuple):
    x: "no such type"  # noqa: F722


class HalfPrecision(NamedTuple):
    x: tl.float16


class WideUnsigned(NamedTuple):
    x: tl.uint32


class NoDefault(NamedTuple):
    gravity: float


class TakenName(NamedTuple):
    device: int = 0


class TextParam(NamedTuple):
    name: str = "moon"


class ListParam(NamedTuple):
    lengths: tuple = (1.0, 2.0)


def undecorated(state: Any, action: Any, rng: Any, params: Any) -> Any:
    return state, 0.0, False


BAD_PARTS = [
    ("id", None, "with a version"),
    ("id", "Cells", "with a version"),
    ("id", "my cells-v0", "with a version"),
    ("id", 3, "with a version"),
    ("state", PlainClass, "NamedTuple"),
    ("state", Cells(*range(8)), "NamedTuple"),
    ("state", None, "NamedTuple"),
    ("state", NoFields, "at least one column"),
    ("state", PythonTypes, "tl.float32"),
    ("state", TextTypes, "tl.float32"),
    ("state", HalfPrecision, "tl.float32"),
    ("state", WideUnsigned, "tl.float32"),
    ("params", PlainClass, "NamedTuple"),
    ("params", {"gravity": 9.8}, "NamedTuple"),
    ("params", NoDefault, "default value, missing for gravity"),
    ("params", TakenName, "device is an argument of VecEnv"),
    ("step", undecorated, "decorated with jit"),
    ("step", None, "decorated with jit"),
    ("step", watch, r"step\(state, action, rng, params\)"),
    ("reset", undecorated, "decorated with jit"),
    ("reset", good_step, r"reset\(rng, params\)"),
    ("observe", lambda state, params: (state.x,), "decorated with jit"),
    ("observe", good_step, r"observe\(state, params\)"),
    ("action_mask", undecorated, "decorated with jit"),
    ("action_mask", (True, True), "decorated with jit"),
    ("action_mask", good_step, r"action_mask\(state, params\)"),
    ("max_episode_steps", 0, "an integer from 1"),
    ("max_episode_steps", 10.5, "an integer from 1"),
    ("max_episode_steps", True, "an integer from 1"),
]
PART_IDS = [f"{part}-{position}" for position, (part, *_) in enumerate(BAD_PARTS)]


@pytest.mark.parametrize(("part", "value", "advice"), BAD_PARTS, ids=PART_IDS)
def test_a_definition_with_a_part_of_the_wrong_kind_is_refused(part: str, value: Any, advice: str) -> None:
    with pytest.raises(InvalidConfig, match=advice) as raised:
        environment(**{"step": good_step, part: value})
    assert raised.value.param == part


def long_observation(params: Any) -> Any:
    return spaces.Discrete(2**24 + 2)


@pytest.mark.parametrize(
    ("part", "space"),
    [
        ("observation_space", spaces.MultiDiscrete([3])),
        ("observation_space", spaces.Box(-1.0, 1.0, (1,), np.float64)),
        ("observation_space", spaces.Box(0, 255, (4, 4), np.uint16)),
        ("observation_space", spaces.Box(-1.0, 1.0, (0,))),
        ("observation_space", long_observation),
        ("observation_space", None),
        ("action_space", spaces.Box(-1.0, 1.0, (1,), np.float64)),
        ("action_space", spaces.Box(-1.0, 1.0, (2, 2))),
        ("action_space", spaces.Box(-1.0, 1.0, ())),
        ("action_space", spaces.MultiDiscrete([[2, 2], [2, 2]])),
        ("action_space", spaces.MultiBinary(3)),
        ("action_space", spaces.Discrete(2, start=2**31)),
        ("action_space", spaces.MultiDiscrete([2**33])),
        ("action_space", spaces.Dict(a=spaces.Discrete(2))),
        ("action_space", (2,)),
    ],
    ids=lambda value: str(getattr(value, "__name__", value)),
)
def test_spaces_that_have_no_layout_are_refused(part: str, space: Any) -> None:
    with pytest.raises(InvalidConfig, match=r"expected .*(Box|32 bits|2\*\*24)") as raised:
        environment(good_step, **{part: space})(2, device="cpu", backend="numpy")
    assert raised.value.param == part


@pytest.mark.parametrize("params", [TextParam, ListParam], ids=lambda params: params.__name__)
def test_defaults_that_are_no_numbers_are_refused(params: Any) -> None:
    with pytest.raises(InvalidConfig, match="a default must be a bool, int or float"):
        environment(good_step, params=params)(2, device="cpu", backend="numpy")


def test_the_environments_own_check_of_its_params_is_asked() -> None:
    def validate(params: Settings) -> None:
        if params.power > 5:
            raise InvalidConfig("power", "expected at most 5")

    definition = environment(good_step, validate=validate)
    definition(2, device="cpu", backend="numpy", power=5)
    with pytest.raises(InvalidConfig, match=r"^power: expected at most 5"):
        definition(2, device="cpu", backend="numpy", power=6)


def test_rendering_needs_a_draw_function() -> None:
    with pytest.raises(InvalidConfig, match="render_mode: Cells-v0 has no draw function"):
        environment(good_step)(2, device="cpu", backend="numpy", render_mode="rgb_array")


def test_only_environments_can_be_registered() -> None:
    for wrong in (Cells, "CartPole-v1", None):
        with pytest.raises(InvalidConfig, match="expected an Environment"):
            operant_gpu.register(wrong)


def test_a_definition_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        environment(good_step).step = two_results


def test_the_good_parts_do_make_an_environment(backend: str) -> None:
    # What all the tests above change in one place works when nothing is changed.
    env = environment(good_step, reset=blank)(2, device="cpu", backend=backend)
    env.reset(seed=0)
    assert env.step(torch.zeros(2, dtype=torch.int32))[0].tolist() == [[0.0], [0.0]]
