"""Sums and counts of long runs: nothing is lost where float32 and int32 would end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract_envs import make_cpu
from here import BACKENDS

from operant_gpu import ActionError, AutoresetMode, ResetNeeded, VecEnv

# The last numbers to which float32 and int32 can add 1, or cannot.
FLOATS_END, INTEGERS_END = 2**24, 2**31 - 1
every_backend = pytest.mark.parametrize(
    ("name", "backend"), [*(("CartPole-v1", backend) for backend in BACKENDS), ("CudaCartPole-v1", "cpp")]
)


def at(env: VecEnv, **columns: float) -> VecEnv:
    """Let environments go on from where these columns have these numbers."""
    env.reset(seed=0)
    saved = env.state_dict()
    for name, value in columns.items():
        saved["columns"][name].fill_(value)
    env.load_state_dict(saved)
    return env


@pytest.mark.quick
@pytest.mark.parametrize("is_rollout", [False, True], ids=["step", "rollout"])
@every_backend
def test_returns_and_counts_go_on(name: str, backend: str, is_rollout: bool) -> None:
    env = make_cpu(name, 3, backend, max_episode_steps=1)
    at(env, episode_return=FLOATS_END, log_return=3 * FLOATS_END, log_count=INTEGERS_END)
    if is_rollout:
        env.rollout(2)
    else:
        for _ in range(2):
            env.step(torch.zeros(3, dtype=torch.int64))
    # The first episode began at 2**24, the second at 0; each step's reward is 1.
    count, total = 3 * (INTEGERS_END + 2), 3 * (4 * FLOATS_END + 2)
    logs = env.get_logs()
    assert logs["episode_count"] == count
    assert logs["mean_reward"] == total / count


@every_backend
def test_the_return_of_an_episode_counts_every_reward(name: str, backend: str) -> None:
    env = at(make_cpu(name, 3, backend, max_episode_steps=-1), episode_return=FLOATS_END)
    *_, info = env.step(torch.zeros(3, dtype=torch.int64))
    assert info["episode"]["r"].tolist() == [FLOATS_END + 1] * 3
    assert env.episode_so_far[0].tolist() == [FLOATS_END + 1] * 3


@every_backend
def test_refused_actions_and_late_steps_are_counted_on(name: str, backend: str) -> None:
    env = make_cpu(name, 3, backend, autoreset_mode=AutoresetMode.DISABLED)
    at(env, bad_actions=INTEGERS_END, late_steps=INTEGERS_END, ended=True)
    env.step(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ActionError, match=f"^{3 * INTEGERS_END} actions .*; {3 * (INTEGERS_END + 1)} steps of ended"):
        env.check()
    at(env, bad_actions=INTEGERS_END, ended=False)
    env.step(torch.full((3,), 9))
    with pytest.raises(ActionError, match=f"^{3 * (INTEGERS_END + 1)} actions "):
        env.check()


@pytest.mark.quick
@pytest.mark.parametrize("is_rollout", [False, True], ids=["step", "rollout"])
@every_backend
def test_the_end_of_the_streams_is_told_of_before_they_repeat(name: str, backend: str, is_rollout: bool) -> None:
    env = make_cpu(name, 3, backend, max_episode_steps=1)
    at(env, episode=INTEGERS_END - 1)

    def step() -> None:
        if is_rollout:
            env.rollout(1)
        else:
            env.step(torch.zeros(3, dtype=torch.int64))

    step()
    env.check()
    assert env.state_dict()["columns"]["episode"].tolist() == [INTEGERS_END] * 3
    drawn = env.observe().clone()
    step()
    # The word goes on, and what is drawn is other than before.
    assert env.state_dict()["columns"]["episode"].tolist() == [-INTEGERS_END - 1] * 3
    assert not env.observe().equal(drawn)
    for _ in range(2):
        with pytest.raises(
            ResetNeeded, match=r"^environment 0 has begun more than 2\*\*31 episodes: its random numbers"
        ):
            env.get_logs()
    env.reset()
    with pytest.raises(ResetNeeded):
        env.check()
    env.reset(seed=1)
    env.check()


def test_a_state_with_narrower_columns_is_read() -> None:
    env = make_cpu("CartPole-v1", 3, "numpy")
    env.reset(seed=0)
    env.rollout(50)
    saved: dict[str, Any] = env.state_dict()
    narrower = {"episode_return": torch.float32, "log_return": torch.float32} | dict.fromkeys(
        ("log_count", "bad_actions", "late_steps"), torch.int32
    )
    columns = {name: column.to(narrower.get(name, column.dtype)) for name, column in saved["columns"].items()}
    other = make_cpu("CartPole-v1", 3, "numpy")
    other.load_state_dict({**saved, "format": 1, "columns": columns})
    assert all(other.state_dict()["columns"][name].equal(column) for name, column in saved["columns"].items())
    assert other.get_logs() == env.get_logs()
