"""Outputs that somebody keeps while steps overwrite them: environments with `debug=True` say so, once."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from contract_envs import EVERY_MAKER, every_mode, make_cpu, random_actions
from counters import Tally

import operant_gpu
from operant_gpu import AutoresetMode
from operant_gpu.models import PPO, PPOConfig, evaluate
from operant_gpu.vector.turns import Turns

N = 4
MAKERS = {**EVERY_MAKER, "Tally-v0": Tally}


def steps(keep: Callable[[Any], Any], **settings: Any) -> list[warnings.WarningMessage]:
    """Return what is said while a loop keeps something of each step's results."""
    env = make_cpu("CartPole-v1", N, "numpy", **{"debug": True, **settings})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        obs, info = env.reset(seed=0)
        keep((obs, None, None, None, info))
        for _ in range(8):
            keep(env.step(np.ones(N, np.int64)))
    return said


layer = torch.nn.Linear(4, 1)
WAYS: dict[str, Callable[[torch.Tensor], Any]] = {
    "the tensor": lambda obs: obs,
    "a row": lambda obs: obs[1],
    "another view": lambda obs: obs.T.contiguous(),
    "a NumPy array": lambda obs: obs.numpy()[:, 0],
    "NumPy by DLPack": np.from_dlpack,
    "torch by DLPack": torch.from_dlpack,
    "a graph of gradients": lambda obs: layer(obs),
    "a dictionary": lambda obs: {"obs": [obs]},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", [list, lambda: deque(maxlen=4)], ids=["list", "deque"])
def test_what_is_kept_is_said_once_and_where(way: str, place: Callable[[], Any]) -> None:
    kept = place()
    said = steps(lambda results: kept.append(WAYS[way](results[0])))
    assert [(one.category, one.filename) for one in said] == [(RuntimeWarning, __file__)]
    assert str(said[0].message).startswith("something still uses obs, which step() returned two steps ago")
    assert "Call .clone() on what you keep, or make the environments with copy=True" in str(said[0].message)


def test_each_environment_says_it_under_pythons_own_filter() -> None:
    program = f"""
import torch, operant_gpu
for _ in range(2):
    env = operant_gpu.make("CartPole-v1", {N}, device="cpu", backend="numpy", debug=True)
    env.reset(seed=0)
    kept = [env.step(torch.ones({N}, dtype=torch.int64)) for _ in range(8)]
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr
    assert said.count("RuntimeWarning: something still uses obs, ") == 2


def test_arrays_of_numpy_are_noticed_too() -> None:
    kept: list[Any] = []
    [said] = steps(lambda results: kept.append(results[0][2:]), output="numpy")
    assert str(said.message).startswith("something still uses obs, ")


@pytest.mark.parametrize(
    ("name", "take"),
    {
        "reward": lambda results: results[1],
        "terminated": lambda results: results[2],
        "truncated": lambda results: results[3],
        'info["final_obs"]': lambda results: results[4].get("final_obs"),
        'info["_episode"]': lambda results: results[4].get("_episode"),
        'info["episode"]["r"]': lambda results: results[4].get("episode", {}).get("r"),
        'info["episode"]["l"]': lambda results: results[4].get("episode", {}).get("l"),
    }.items(),
)
def test_each_output_is_named(name: str, take: Callable[[Any], Any]) -> None:
    kept: list[Any] = []
    [said] = steps(lambda results: kept.append(take(results)))
    assert str(said.message).startswith(f"something still uses {name}, ")


def test_masks_and_metrics_are_named() -> None:
    for name, keep, word in (
        ("Game2048-v0", lambda info: info["action_mask"], 'info["action_mask"]'),
        ("Tally-v0", lambda info: info["metrics"]["pushed"], 'info["metrics"]["pushed"]'),
    ):
        env = MAKERS[name](N, device="cpu", debug=True)
        env.reset(seed=0)
        with pytest.warns(RuntimeWarning, match=f"^something still uses {re.escape(word)},"):
            kept = [keep(env.step(random_actions(env, np.random.default_rng(0)))[4]) for _ in range(4)]
        assert len(kept) == 4


class Buffer:
    """A replay buffer as it should be: copies of s, a, r, s'."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def __call__(self, *row: torch.Tensor) -> None:
        self.rows.append([one.clone() for one in row])


def test_right_code_is_left_alone() -> None:
    env, buffer = make_cpu("CartPole-v1", N, "numpy", debug=True), Buffer()
    storage = torch.zeros(20, N, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        obs, _ = env.reset(seed=0)
        for step in range(20):
            actions = (obs[:, 2] > 0).long()
            next_obs, reward, terminated, truncated, info = env.step(actions)
            buffer(obs, actions, reward, next_obs, terminated | truncated, info["final_obs"])
            obs = next_obs
            storage[step] = obs
        # Memory of the caller's own may be kept.
        del next_obs, terminated, truncated, info
        kept = [env.step(actions, out={"obs": row, "reward": torch.zeros(N)})[0] for row in storage]
        assert [row.data_ptr() for row in kept] == [row.data_ptr() for row in storage]
    assert all(not torch.equal(row[0], row[3]) for row in buffer.rows)


@pytest.mark.parametrize("keeps", [False, True])
def test_a_loop_that_resets_by_mask_is_left_alone_unless_it_keeps(keeps: bool) -> None:
    env = make_cpu("CartPole-v1", N, "numpy", debug=True, autoreset_mode="disabled")
    obs, _info = env.reset(seed=0)
    kept = []

    def loop() -> None:
        for _ in range(30):
            obs, _reward, terminated, truncated, _info = env.step(torch.ones(N, dtype=torch.int64))
            obs, _ = env.reset(options={"reset_mask": terminated | truncated})
            kept.append(obs if keeps else obs.clone())

    if keeps:
        with pytest.warns(RuntimeWarning, match="^something still uses obs,"):
            loop()
    else:
        loop()
    assert len(kept) == 30
    assert obs.shape == (N, 4)


def test_fresh_arrays_may_be_kept() -> None:
    kept: list[Any] = []
    assert steps(kept.append, copy=True) == []
    assert len({obs.numpy().tobytes() for obs, *_ in kept}) == 9


def test_without_debug_the_memory_is_the_same_and_nothing_is_said() -> None:
    kept: list[Any] = []
    assert steps(lambda results: kept.append(results[0]), debug=False) == []
    assert all(obs is kept[0] for obs in kept)


@every_mode
@pytest.mark.parametrize(
    "name", ["CartPole-v1", "Drift-v0", "Game2048-v0", "Tally-v0", "Stairs-v0", "MinAtar-Breakout-v1"]
)
def test_outputs_are_those_without_debug(name: str, mode: Any) -> None:
    env, plain = (MAKERS[name](N, device="cpu", autoreset_mode=mode, debug=debug) for debug in (True, False))
    rng = np.random.default_rng(0)
    compared(env.reset(seed=0), plain.reset(seed=0))
    for _ in range(4):
        actions = random_actions(plain, rng)
        result = plain.step(actions)
        compared(env.step(actions), result)
        if mode is AutoresetMode.DISABLED:
            ended = {"reset_mask": result[2] | result[3]}
            compared(env.reset(options=ended), plain.reset(options=ended))


def compared(result: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert result.keys() == expected.keys()
        for key, value in expected.items():
            compared(result[key], value)
    elif isinstance(expected, tuple):
        for one, other in zip(result, expected, strict=True):
            compared(one, other)
    else:
        torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_rollouts_and_observe_write_to_what_was_returned_last() -> None:
    env = make_cpu("CartPole-v1", N, "numpy", debug=True)
    obs, _ = env.reset(seed=0)
    env.state.theta.fill_(0.125)
    assert env.observe().data_ptr() == obs.data_ptr()
    assert obs[:, 2].tolist() == [0.125] * N
    env.rollout(3)
    assert obs.equal(env.shown)


def test_steps_within_and_without_inference_mode_share_memory() -> None:
    env = make_cpu("CartPole-v1", N, "numpy", debug=True)
    with torch.inference_mode():
        env.reset(seed=0)
        for _ in range(4):
            env.step(torch.ones(N, dtype=torch.int64))
    for _ in range(4):
        obs, *_ = env.step(torch.ones(N, dtype=torch.int64))
    assert obs.equal(env.shown)


def test_a_twin_watches_by_itself() -> None:
    env = make_cpu("CartPole-v1", N, "numpy", debug=True)
    env.reset(seed=0)
    kept = env.step(torch.ones(N, dtype=torch.int64))[0]
    twin = copy.deepcopy(env)
    for _ in range(4):
        twin.step(torch.ones(N, dtype=torch.int64))
    env.step(torch.ones(N, dtype=torch.int64))
    with pytest.warns(RuntimeWarning, match="^something still uses obs,"):
        env.step(torch.ones(N, dtype=torch.int64))
    assert kept.shape == (N, 4)


@pytest.mark.parametrize("compiled", [True, False])
def test_the_librarys_own_learners_keep_nothing(compiled: bool) -> None:
    env = operant_gpu.make("CartPole-v1", 16, device="cpu", debug=True)
    config = PPOConfig(n_steps=16, batch_size=64, n_epochs=1, engine="auto" if compiled else "eager")
    learner = PPO(env, config)
    # A warning is an error here.
    learner.learn(1024)
    assert evaluate(learner, episodes=8).returns.shape == (8,)


def test_sets_are_lent_in_turn() -> None:
    turns, memory = Turns(), {}
    for call in range(6):
        turns.begin_step(())
        memory[call] = turns.lent({"x": torch.full((2,), float(call))})["x"].data_ptr()
    assert memory[0] == memory[3]
    assert memory[2] == memory[5]
    assert len(set(memory.values())) == 3
