"""Actions of the wrong form are refused at once; values out of range leave their environment alone, and are counted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from contract_envs import Dials, assert_same_tensors, every_mode, everything, make_cpu, random_actions
from hypothesis import given, settings
from hypothesis import strategies as st

from operant_gpu import ActionError, AutoresetMode, VecEnv
from operant_gpu.envs import CartPole, Pendulum

N = 6


def started(environment: Any, **options: Any) -> VecEnv:
    env = environment(N, **{"device": "cpu", "backend": "numpy", **options})
    env.reset(seed=1)
    return env


def assert_refused(env: VecEnv, actions: Any, match: str) -> None:
    before = everything(env)
    with pytest.raises(ActionError, match=match):
        env.step(actions)
    assert_same_tensors(before, everything(env))


@given(shape=st.lists(st.integers(0, 8), max_size=3).map(tuple))
@settings(deadline=None, max_examples=60)
def test_actions_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    for environment, right, dtype in (
        (CartPole, (N,), torch.int64),
        (Pendulum, (N, 1), torch.float32),
        (Dials, (N, 2), torch.int32),
    ):
        if shape != right:
            assert_refused(started(environment), torch.zeros(shape, dtype=dtype), "actions must be .* of shape")


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.int16, torch.uint8, torch.bool, torch.float16], ids=str
)
def test_discrete_actions_of_a_wrong_dtype_are_refused(dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    assert_refused(
        started(CartPole), torch.zeros(N, dtype=dtype), rf"int32 or int64 .*, got {name} .*: use actions\.long\(\)"
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.bool], ids=str)
def test_box_actions_of_a_wrong_dtype_are_refused(dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    assert_refused(
        started(Pendulum), torch.zeros(N, 1, dtype=dtype), rf"float32 .*, got {name} .*: use actions\.float\(\)"
    )


def test_actions_on_another_device_are_refused(backend: str) -> None:
    actions = torch.zeros(N, dtype=torch.int32, device="meta")
    assert_refused(
        started(CartPole, backend=backend), actions, r"on cpu, got .* on meta: use actions\.to\(env\.device\)"
    )


def test_a_refusal_names_all_that_is_to_be_done() -> None:
    actions = torch.zeros(N, 1, device="meta")
    assert_refused(started(CartPole), actions, rf"use actions\.reshape\({N},\)\.long\(\)\.to\(env\.device\)")


@pytest.mark.parametrize(
    "actions", [None, "left", object(), {"a": 1}, [[0], [1, 2]], 1], ids=lambda value: type(value).__name__
)
def test_what_is_no_array_is_refused(actions: Any) -> None:
    assert_refused(started(CartPole), actions, "actions must be int32 or int64")


@pytest.mark.parametrize(
    "actions",
    [[0, 1] * 3, np.array([0, 1] * 3), np.array([0, 1] * 3, np.int32), torch.tensor([0, 1] * 3)],
    ids=lambda a: type(a).__name__,
)
def test_lists_arrays_and_tensors_of_the_right_form_are_the_same(actions: Any) -> None:
    env, reference = started(CartPole), started(CartPole)
    expected = reference.step(torch.tensor([0, 1] * 3, dtype=torch.int32))[0]
    assert env.step(actions)[0].equal(expected)
    read_only = np.array([0, 1] * 3)
    read_only.flags.writeable = False
    assert env.step(read_only)[0].equal(reference.step([0, 1] * 3)[0])


@pytest.mark.parametrize("environment", [CartPole, Pendulum], ids=lambda environment: environment.id)
def test_actions_of_any_byte_order_stride_and_container_are_taken(environment: Any, backend: str) -> None:
    env, reference = (started(environment, backend=backend) for _ in range(2))
    plain = np.array([0, 1, 1, 0, 1, 0]) if environment is CartPole else np.float32([[0.5, -1, 2, 0, 1, -2]]).T
    strided = np.zeros((2 * len(plain), *plain.shape[1:]), plain.dtype)
    strided[::2] = plain
    forms = [
        *(plain.astype(plain.dtype.newbyteorder(order)) for order in "<>"),
        *(plain[::-1].copy()[::-1], strided[::2], np.asfortranarray(plain)),
        *([torch.tensor(row) for row in plain], tuple(torch.tensor(row) for row in plain)),
        Column(plain),
    ]
    for form in forms:
        assert env.step(form)[0].equal(reference.step(torch.from_numpy(plain))[0])
    steps = np.stack([plain] * 3)
    env.rollout(3, steps.astype(steps.dtype.newbyteorder(">"))[:, ::-1][:, ::-1])
    reference.rollout(3, torch.from_numpy(steps))
    assert env.observe().equal(reference.observe())


class Column:
    """As pandas' columns and tables give their numbers."""

    def __init__(self, numbers: np.ndarray) -> None:
        self._numbers = numbers

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self._numbers, dtype)


# Values beside and far beyond the range, and numbers that are none.
BAD_VALUES = {
    "CartPole-v1": [-1, 2, 2**31 - 1, -(2**31), 2**32, 2**62],
    "Dials-v0": [-(2**31), 9, 2**32 - 1],
    "Pendulum-v1": [math.nan, math.inf, -math.inf],
}


@every_mode
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_VALUES.items() for value in values])
def test_a_bad_value_leaves_its_environment_alone_and_is_counted(
    name: str, value: float, mode: AutoresetMode, backend: str
) -> None:
    env, reference = (make_cpu(name, N, backend, autoreset_mode=mode) for _ in range(2))
    before = env.reset(seed=1)[0].clone()
    reference.reset(seed=1)
    actions = random_actions(env, np.random.default_rng(2))
    actions = actions.long() if not actions.is_floating_point() else actions
    spoilt = actions.clone()
    spoilt[[2, 4]] = value
    expected = [part.clone() for part in reference.step(actions)[:4]]
    frozen = {key: column.clone() for key, column in everything(env).items()}

    obs, reward, terminated, truncated, info = env.step(spoilt)
    good = torch.tensor([True, True, False, True, False, True])
    for part, whole in zip((obs, reward, terminated, truncated), expected, strict=True):
        torch.testing.assert_close(part[good], whole[good], rtol=1e-6, atol=1e-7)
    assert obs[~good].equal(before[~good])
    assert info["final_obs"][~good].equal(before[~good])
    for part in (reward, terminated, truncated, info["_episode"]):
        assert not part[~good].any()
    for key, column in everything(env).items():
        if key != "columns.bad_actions":
            assert column[~good].equal(frozen[key][~good]), key

    before_check = env.state_dict()["state"]
    with pytest.raises(ActionError, match=r"^2 actions outside .*first in environment 2\)"):
        env.get_logs()
    assert env.get_logs()["episode_count"] == 0
    env.check()
    assert_same_tensors(before_check, env.state_dict()["state"])


def test_one_bad_component_spoils_the_whole_action(backend: str) -> None:
    env = started(Dials, backend=backend)
    before = everything(env)
    env.step(torch.tensor([[0, 0]] * 3 + [[0, 2]] + [[2, 0]] + [[1, 1]]))
    after = everything(env)
    for name in ("left", "right"):
        assert after[name][[3, 4]].equal(before[name][[3, 4]])
    assert after["columns.elapsed"].tolist() == [1, 1, 1, 0, 0, 1]
    with pytest.raises(ActionError, match="2 actions"):
        env.check()


def test_counts_add_up_until_they_are_checked(backend: str) -> None:
    env = started(CartPole, backend=backend)
    for count in (1, 2, 3):
        actions = torch.zeros(N, dtype=torch.int32)
        actions[:count] = 7
        env.step(actions)
    with pytest.raises(ActionError, match=r"^6 actions outside Discrete\(2\)"):
        env.check()
    env.check()


def test_debug_raises_at_the_step(backend: str) -> None:
    env = started(CartPole, backend=backend, debug=True)
    env.step([0] * N)
    with pytest.raises(ActionError, match=r"^1 actions outside .*first in environment 5"):
        env.step([0, 1, 0, 1, 0, 2])
    env.step([1] * N)


def test_steps_of_ended_episodes_are_counted_apart_and_leave_them_alone(backend: str) -> None:
    env = started(CartPole, backend=backend, autoreset_mode="Disabled", max_episode_steps=1)
    env.step([0] * N)
    ended = everything(env)
    _, reward, terminated, truncated, _ = env.step([0, 0, 0, 9, 9, 9])
    assert not any(part.any() for part in (reward, terminated, truncated))
    assert all(env.state_dict()["state"][name].equal(ended[name]) for name in env.state._fields)
    with pytest.raises(ActionError, match=r"^6 steps of ended episodes \(first in environment 0\): call reset"):
        env.get_logs()
    assert env.get_logs()["episode_count"] == N


def test_the_step_that_resets_ignores_the_action(backend: str) -> None:
    env = started(CartPole, backend=backend, autoreset_mode="NextStep", max_episode_steps=1)
    env.step([0] * N)
    env.step([99] * N)
    env.check()
