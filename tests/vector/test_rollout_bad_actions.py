"""Actions in a rollout that no environment can take: each leaves its environment alone for the step, and is counted."""

from __future__ import annotations

import math

import pytest
import torch
from contract_envs import assert_same_tensors, everything, invalid_actions
from rollouts import (
    NUM_ENVS,
    assert_same_environments,
    every_environment,
    given_actions,
    output_names,
    single_steps,
    started,
)

from operant_gpu import ActionError, AutoresetMode

STEPS = 5
N = NUM_ENVS


@every_environment
def test_bad_actions_leave_their_environments_alone_for_the_step(name: str, backend: str, mode: AutoresetMode) -> None:
    env, reference = started(name, backend, mode), started(name, backend, mode)
    single_steps(env, given_actions(env, 1))
    single_steps(reference, given_actions(env, 1))
    actions = given_actions(env, STEPS)
    for step, rows in ((0, [0, 4]), (1, [4]), (2, [0, 4, N - 1]), (STEPS - 1, [3])):
        actions[step] = invalid_actions(env, actions[step], rows)
    stored = env.rollout(STEPS, actions, output_names(env))
    assert_same_tensors(stored, single_steps(reference, actions))
    assert_same_environments(env, reference)
    # Of its own, as the reference may be wrong in the same way: no step of environment 4 until the fourth.
    assert stored["final_obs"][0, 4].equal(stored["obs"][0, 4])
    assert stored["obs"][:3, 4].unique(dim=0).shape[0] == 1
    assert not stored["reward"][:3, 4].any()
    assert not (stored["terminated"] | stored["truncated"])[:3, 4].any()
    assert everything(env)["columns.bad_actions"][4] == 3
    count = int(everything(reference)["columns.bad_actions"].sum())
    with pytest.raises(ActionError, match=rf"^{count} actions outside .*first in environment 0\)"):
        env.get_logs()
    # Counted from zero again.
    env.check()


@pytest.mark.parametrize("value", [-1, 2, 2**31 - 1, -(2**31), 2**32, 2**62])
def test_each_integer_out_of_range_is_seen(value: int, backend: str) -> None:
    env = started("CartPole-v1", backend, max_episode_steps=-1)
    actions = torch.zeros(STEPS, N, dtype=torch.int64)
    actions[1:4, 2] = value
    env.rollout(STEPS, actions)
    assert everything(env)["columns.elapsed"].tolist() == [5, 5, 2] + [5] * (N - 3)
    with pytest.raises(ActionError, match=r"^3 actions outside Discrete\(2\) .*first in environment 2\)"):
        env.check()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_each_number_that_is_none_is_seen(value: float, backend: str) -> None:
    env = started("Drift-v0", backend, max_episode_steps=2)
    actions = torch.zeros(1, N, 2)
    actions[0, 5, 1] = value
    env.rollout(1, actions)
    with pytest.raises(ActionError, match=r"^1 actions outside .*first in environment 5\)"):
        env.check()


def test_debug_raises_at_the_call(backend: str) -> None:
    env, reference = started("CartPole-v1", backend, debug=True), started("CartPole-v1", backend)
    actions = given_actions(env, STEPS)
    actions[2, 7] = 9
    with pytest.raises(ActionError, match=r"^1 actions outside .*first in environment 7\)"):
        env.rollout(STEPS, actions)
    reference.rollout(STEPS, actions)
    with pytest.raises(ActionError):
        reference.check()
    assert_same_environments(env, reference)
    env.rollout(STEPS, "random")


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED], ids=lambda mode: mode.name.lower())
def test_actions_that_nobody_takes_are_not_judged(backend: str, mode: AutoresetMode) -> None:
    env = started("CartPole-v1", backend, mode, max_episode_steps=2)
    actions = torch.zeros(3, N, dtype=torch.int64)
    # Every episode has ended by then: the third step resets, or waits.
    actions[2] = 9
    stored = env.rollout(3, actions, ["reward", "action", "truncated"])
    env.check()
    assert stored["truncated"].tolist() == [[False] * N, [True] * N, [False] * N]
    assert stored["reward"].tolist() == [[1.0] * N, [1.0] * N, [0.0] * N]
    assert stored["action"].equal(actions)


def test_counts_of_rollouts_and_steps_add_up(backend: str) -> None:
    env = started("CartPole-v1", backend)
    actions = torch.zeros(STEPS, N, dtype=torch.int64)
    actions[:, 3] = -7
    env.rollout(STEPS, actions)
    env.step(actions[0])
    env.rollout(STEPS, actions)
    with pytest.raises(ActionError, match=rf"^{2 * STEPS + 1} actions outside .*first in environment 3\)"):
        env.check()
