"""Corners where a column's dtype, a name or a view could change a result in silence."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from cells import answer, environment, run
from gymnasium import spaces

import operant_gpu
from operant_gpu import Environment, InvalidConfig, VecEnv
from operant_gpu.environment import _RESERVED
from operant_gpu.lang import jit, tl

pytestmark = pytest.mark.quick


class Counters(NamedTuple):
    big: tl.int32
    wide: tl.int64


@jit
def reset_with_floats(rng, params):
    return Counters(0.0, 0.0)


@jit
def step_with_floats(state, action, rng, params):
    return Counters(state.big * 1.0, state.wide * 1.0), 0.0, action == 1


@jit
def observe_counters(state, params):
    return (state.big,)


@jit
def keep(state, action, rng, params):
    return state, 0.0, action == 1


def counters(step: Any) -> Environment:
    return Environment(
        id="Counters-v0",
        state=Counters,
        reset=reset_with_floats,
        step=step,
        observe=observe_counters,
        observation_space=spaces.Box(-np.inf, np.inf, (1,)),
        action_space=spaces.Discrete(2),
    )


@pytest.mark.parametrize("step", [keep, step_with_floats], ids=["kept", "faulted"])
def test_rows_that_are_left_alone_keep_every_bit_of_their_integers(step: Any, backend: str) -> None:
    """Though `reset`, and here `step`, give floats for int columns: 2**24 + 1 is none of float32's numbers."""
    env = counters(step)(3, device="cpu", backend=backend)
    env.reset(seed=0)
    env.state.big.copy_(torch.tensor([2**24 + 1, 5, 2**30 + 1]))
    env.state.wide.copy_(torch.tensor([2**53 + 1, 5, 2**62 + 1]))
    # The middle one ends its episode; the others go on, or are given what is no action.
    env.step(torch.tensor([0, 1, 0] if step is keep else [-1, 1, 7]))
    assert env.state.big.tolist() == [2**24 + 1, 0, 2**30 + 1]
    assert env.state.wide.tolist() == [2**53 + 1, 0, 2**62 + 1]
    env.reset(options={"reset_mask": torch.tensor([False, True, False])})
    assert env.state.big.tolist() == [2**24 + 1, 0, 2**30 + 1]


class Pair(NamedTuple):
    a: tl.float32
    b: tl.int32


@jit
def reset_pair(rng, params):
    return Pair(1.0, 7)


@jit
def swap_bits(state, action, rng, params):
    return Pair(state.b.to(tl.float32, bitcast=True), state.a.to(tl.int32, bitcast=True)), 0.0, False


@jit
def observe_pair(state, params):
    return (state.a,)


def test_columns_swapped_as_bits(backend: str) -> None:
    env = Environment(
        id="Pair-v0",
        state=Pair,
        reset=reset_pair,
        step=swap_bits,
        observe=observe_pair,
        observation_space=spaces.Box(-np.inf, np.inf, (1,)),
        action_space=spaces.Discrete(2),
    )(2, device="cpu", backend=backend)
    env.reset(seed=0)
    env.state.a.copy_(torch.tensor([1.0, 2.0]))
    env.step(torch.zeros(2, dtype=torch.int32))
    assert env.state.a.view(torch.int32).tolist() == [7, 7]
    assert env.state.b.view(torch.float32).tolist() == [1.0, 2.0]


SHIFT = tl.constexpr(5)


@jit
def max(a, b):
    return a * 10.0 + b


@jit
def names_of_the_lowering(state, action, rng, params):
    outer0 = state.x + 100.0
    op_add = outer0 * 0.0
    return state, op_add + SHIFT + max(state.x, state.y), False


def test_names_of_the_author_win(backend: str) -> None:
    assert run(names_of_the_lowering, backend, {"x": [2.0], "y": [3.0]})["reward"].tolist() == [28.0]


class Numbers(NamedTuple):
    tenth: tl.float32


@jit
def named_numbers(state, action, rng, params):
    numbers = Numbers(0.1)
    return answer(state, 0, state.fine + numbers.tenth), 0.0, False


def test_numbers_in_a_tuple_with_a_name_are_scalars_of_32_bits() -> None:
    # As compiled Triton has it: its interpreter leaves them Python numbers.
    assert run(named_numbers, "numpy", {"fine": [0.0]})["real"].tolist() == [float(np.float32(0.1))]


@jit
def float_flag(state, action, rng, params):
    return state, 0.0, state.x


def test_a_flag_that_is_no_condition_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="terminated must be a condition"):
        environment(float_flag)(2, device="cpu")


def test_the_settings_of_vec_env_are_not_names_of_parameters() -> None:
    arguments = set(inspect.signature(VecEnv.__init__).parameters) - {"self", "environment"}
    assert arguments == _RESERVED


def test_a_state_dict_carries_the_ids_that_later_seeds_go_by() -> None:
    first = operant_gpu.make("CartPole-v1", 4, device="cpu", first_env_id=10)
    other = operant_gpu.make("CartPole-v1", 4, device="cpu")
    first.reset(seed=1)
    other.load_state_dict(first.state_dict())
    assert torch.equal(first.reset(seed=3)[0], other.reset(seed=3)[0])


@pytest.mark.parametrize(
    ("given", "in_force"), [({}, 500), ({"max_episode_steps": 9}, 9), ({"max_episode_steps": -1}, None)], ids=str
)
def test_the_time_limit_in_force_can_be_read(given: dict[str, int], in_force: int | None) -> None:
    env = operant_gpu.make("CartPole-v1", 2, device="cpu", backend="numpy", **given)
    assert env.max_episode_steps == in_force
    assert counters(keep)(2, device="cpu", backend="numpy").max_episode_steps is None
