"""Whole episodes end as Gymnasium's do, and begin as they do."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from parity import gymnasium_env, set_states

import operant_gpu

pytestmark = pytest.mark.quick

# What drives the episodes are actions (rows,) or (rows, 1), chosen from the observations of Gymnasium.
Policy = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def pushes(rng: np.random.Generator, obs: np.ndarray) -> np.ndarray:
    return rng.integers(0, 2, len(obs))


def torques(rng: np.random.Generator, obs: np.ndarray) -> np.ndarray:
    return rng.integers(0, 3, len(obs))


def coast(rng: np.random.Generator, obs: np.ndarray) -> np.ndarray:
    return np.ones(len(obs), np.int64)


def pump(rng: np.random.Generator, obs: np.ndarray) -> np.ndarray:
    """Drive the way the car rolls, in every other environment."""
    return np.where(np.arange(len(obs)) % 2, 1, np.where(obs[:, 1] < 0, 0, 2))


def pump_softly(rng: np.random.Generator, obs: np.ndarray) -> np.ndarray:
    return ((pump(rng, obs) - 1) * rng.uniform(0.8, 1.2, len(obs))).astype(np.float32)[:, None]


def twist(rng: np.random.Generator, obs: np.ndarray) -> np.ndarray:
    return rng.uniform(-3, 3, (len(obs), 1)).astype(np.float32)


class Episodes(NamedTuple):
    name: str
    policy: Policy
    # Of the start: the first column's middle, and how far each column spreads.
    centre: float
    spread: tuple[float, ...]
    # Flags of the last step: T terminated, t truncated.
    ends: set[str]
    limit: int | None = None
    params: Mapping[str, Any] = types.MappingProxyType({})
    rows: int = 32


SHORT = {
    # Some fall, some last to the limit.
    "CartPole": Episodes("CartPole-v1", pushes, 0.0, (0.05,) * 4, {"T", "t"}, limit=20),
    "Acrobot": Episodes("Acrobot-v1", torques, 0.0, (2.0, 1.0, 2.0, 2.0), {"T", "t"}, limit=10),
}
LONG = {
    "CartPole": Episodes("CartPole-v1", pushes, 0.0, (0.05,) * 4, {"T"}),
    "CartPole, pushed over": Episodes("CartPole-v1", coast, 0.0, (0.05,) * 4, {"T"}),
    # Balanced exactly and not pushed: a fall would be of rounding's making.
    "CartPole, limit": Episodes("CartPole-v1", pushes, 0.0, (0.0,) * 4, {"t"}, params={"force_mag": 0.0}, rows=2),
    "MountainCar": Episodes("MountainCar-v0", pump, -0.5, (0.1, 0.0), {"T", "t"}),
    "MountainCarContinuous": Episodes("MountainCarContinuous-v0", pump_softly, -0.5, (0.1, 0.0), {"T", "t"}, rows=8),
    "Pendulum": Episodes("Pendulum-v1", twist, np.pi, (1.0, 1.0), {"t"}),
    "Acrobot, limit": Episodes("Acrobot-v1", coast, 0.0, (0.1,) * 4, {"t"}, rows=4),
}


class End(NamedTuple):
    length: int
    flags: str
    total: float
    obs: np.ndarray


def check_episodes(episodes: Episodes, backend: str) -> None:
    rng, rows = np.random.default_rng(2), episodes.rows
    start = rng.uniform(-1, 1, (rows, len(episodes.spread))) * episodes.spread
    start[:, 0] += episodes.centre
    start = start.astype(np.float32)

    # Without a limit of its own, each side has the one that it came with.
    limit = {} if episodes.limit is None else {"max_episode_steps": episodes.limit}
    references = [gymnasium_env(episodes.name, episodes.params, **limit) for _ in range(rows)]
    for reference, state in zip(references, start, strict=True):
        reference.reset(seed=0)
        reference.unwrapped.state = state.astype(np.float64)
    env = operant_gpu.make(episodes.name, rows, device="cpu", backend=backend, **limit, **episodes.params)
    env.reset(seed=0)
    set_states(env, start)
    obs = env.observe().numpy().copy()

    expected: dict[int, End] = {}
    actual: dict[int, End] = {}
    totals, step = np.zeros(rows), 0
    while len(expected) < rows:
        step += 1
        actions = episodes.policy(rng, obs)
        for row in set(range(rows)) - expected.keys():
            obs[row], reward, terminated, truncated, _ = references[row].step(actions[row])
            totals[row] += reward
            if terminated or truncated:
                expected[row] = End(step, "T" * terminated + "t" * truncated, totals[row], obs[row].copy())
        _, _, terminated, truncated, info = env.step(torch.from_numpy(actions))
        for row in set(np.flatnonzero(info["_episode"].numpy()).tolist()) - actual.keys():
            flags = "T" * bool(terminated[row]) + "t" * bool(truncated[row])
            total, last_obs = float(info["episode"]["r"][row]), info["final_obs"][row].numpy().copy()
            actual[row] = End(int(info["episode"]["l"][row]), flags, total, last_obs)

    # The loop ends with Gymnasium's last episode: one that lasts longer here is missing.
    assert actual.keys() == expected.keys()
    for row, end in expected.items():
        assert actual[row][:2] == end[:2], f"environment {row}"
        assert actual[row].total == pytest.approx(end.total, rel=1e-4)
        np.testing.assert_allclose(actual[row].obs, end.obs, atol=1e-3, rtol=1e-3, err_msg=f"environment {row}")
    assert {end.flags for end in expected.values()} == episodes.ends, "the episodes do not end as they should"


@pytest.mark.parametrize("episodes", SHORT.values(), ids=SHORT)
def test_short_episodes_end_as_in_gymnasium(episodes: Episodes, backend: str) -> None:
    check_episodes(episodes, backend)


@pytest.mark.parametrize("episodes", LONG.values(), ids=LONG)
def test_whole_episodes_end_as_in_gymnasium(episodes: Episodes) -> None:
    check_episodes(episodes, "numpy")


@pytest.mark.parametrize("name", sorted({episodes.name for episodes in LONG.values()}))
def test_spaces_limits_and_starts_are_those_of_gymnasium(name: str) -> None:
    count = 2000
    reference, env = gymnasium.make(name), operant_gpu.make(name, count, device="cpu", backend="numpy")
    assert env.single_observation_space == reference.observation_space
    assert env.single_action_space == reference.action_space
    assert env.environment.max_episode_steps == reference.spec.max_episode_steps
    assert env.environment.reward_threshold == reference.spec.reward_threshold
    own = env.reset(seed=0)[0].numpy()
    theirs = np.stack([reference.reset(seed=seed)[0] for seed in range(count)])
    # Ends and quarters agree within what so many draws scatter (four deviations of a median are 0.06 of the width).
    quantiles = [np.quantile(draws, [0, 0.25, 0.5, 0.75, 1], axis=0) for draws in (own, theirs)]
    width = np.maximum(np.ptp(theirs, axis=0), 1e-9)
    assert (np.abs(quantiles[0] - quantiles[1]) <= 0.06 * width).all()


def balance(obs: np.ndarray) -> np.ndarray:
    return (obs @ np.array([1, 1.5, 20, 4], np.float32) > 0).astype(np.int64)


def swing(obs: np.ndarray) -> np.ndarray:
    """Drive the joint the way the second link turns."""
    return np.where(obs[:, 5] < 0, 0, 2)


@pytest.mark.parametrize(
    ("name", "policy", "spread", "flags"),
    [("CartPole-v1", balance, 0.05, "t"), ("Acrobot-v1", swing, 0.1, "T")],
)
def test_a_controller_ends_episodes_as_in_gymnasium(name: str, policy: Any, spread: float, flags: str) -> None:
    # Each side follows its own observations: replayed, actions for float64 let a balanced float32 pole fall.
    rows = 5
    start = np.random.default_rng(2).uniform(-spread, spread, (rows, 4)).astype(np.float32)
    env = operant_gpu.make(name, rows, device="cpu", backend="numpy")
    env.reset(seed=0)
    set_states(env, start)
    obs = env.observe().numpy().copy()
    expected = [controlled_episode(name, policy, *pair) for pair in zip(start, obs, strict=True)]
    assert {end[1] for end in expected} == {flags}

    actual: dict[int, tuple[int, str]] = {}
    for step in range(1, max(end[0] for end in expected) + 1):
        obs, _, terminated, truncated, info = env.step(policy(obs))
        obs = obs.numpy()
        for row in set(np.flatnonzero(info["_episode"].numpy()).tolist()) - actual.keys():
            actual[row] = (step, "T" * bool(terminated[row]) + "t" * bool(truncated[row]))
    assert [actual.get(row) for row in range(rows)] == expected


def controlled_episode(name: str, policy: Any, state: np.ndarray, obs: np.ndarray) -> tuple[int, str]:
    """Return length and flags of an episode in Gymnasium."""
    reference = gymnasium_env(name, {})
    reference.reset(seed=0)
    reference.unwrapped.state = state.astype(np.float64)
    length, terminated, truncated = 0, False, False
    while not (terminated or truncated):
        obs, _, terminated, truncated, _ = reference.step(policy(obs[None])[0])
        length += 1
    return length, "T" * terminated + "t" * truncated
