"""One step from the same state, and whole episodes, as Gymnasium's own environments take them.

Ours compute in float32, theirs in float64: the tolerances are what one step of float32 costs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch

import operant_gpu
from operant_gpu import VecEnv

COUNT = 100_000
# How near to a boundary a flag may differ.
MARGIN = 1e-5

Array = np.ndarray[Any, Any]


class Transition(NamedTuple):
    obs: Array
    reward: Array
    terminated: Array


class Case(NamedTuple):
    """States and actions to try, how far results may be off, and how far a next state is from ending the episode."""

    states: Callable[[np.random.Generator], list[Array]]
    actions: Callable[[np.random.Generator], Array]
    obs_tolerance: float
    reward_tolerance: float
    distance_to_end: Callable[[Array], Array]


def spread(rng: np.random.Generator, low: float, high: float, *special: float) -> Array:
    """Return random numbers in an interval, every tenth one of the special ones and its neighbours in float32."""
    numbers = rng.uniform(low, high, COUNT).astype(np.float32)
    edges = np.array(special or (low, high), np.float32)
    edges = np.concatenate([edges, np.nextafter(edges, np.float32(np.inf)), np.nextafter(edges, np.float32(-np.inf))])
    numbers[::10] = rng.choice(edges, len(numbers[::10]))
    return numbers


def discrete(count: int) -> Callable[[np.random.Generator], Array]:
    return lambda rng: rng.integers(count, size=COUNT)


def beyond(bound: float) -> Callable[[np.random.Generator], Array]:
    """Return actions half of which lie outside the box."""
    return lambda rng: spread(rng, -2 * bound, 2 * bound, -bound, 0.0, bound)[:, None]


ANGLE = 12 * np.pi / 180
CASES = {
    "CartPole-v1": Case(
        lambda rng: [
            spread(rng, -2.6, 2.6, -2.4, 2.4),
            spread(rng, -3, 3),
            spread(rng, -0.23, 0.23, -ANGLE, ANGLE),
            spread(rng, -3, 3),
        ],
        discrete(2),
        obs_tolerance=1e-6,
        reward_tolerance=0,
        distance_to_end=lambda obs: np.minimum(np.abs(np.abs(obs[:, 0]) - 2.4), np.abs(np.abs(obs[:, 2]) - ANGLE)),
    ),
    "MountainCar-v0": Case(
        lambda rng: [spread(rng, -1.2, 0.6, -1.2, 0.5, 0.6), spread(rng, -0.07, 0.07, -0.07, 0.0, 0.07)],
        discrete(3),
        obs_tolerance=3e-7,
        reward_tolerance=0,
        distance_to_end=lambda obs: np.minimum(np.abs(obs[:, 0] - 0.5), np.abs(obs[:, 1])),
    ),
    "MountainCarContinuous-v0": Case(
        lambda rng: [spread(rng, -1.2, 0.6, -1.2, 0.45, 0.6), spread(rng, -0.07, 0.07, -0.07, 0.0, 0.07)],
        beyond(1.0),
        obs_tolerance=3e-7,
        reward_tolerance=1e-5,
        distance_to_end=lambda obs: np.minimum(np.abs(obs[:, 0] - 0.45), np.abs(obs[:, 1])),
    ),
    "Pendulum-v1": Case(
        lambda rng: [spread(rng, -7, 7, -np.pi, 0.0, np.pi), spread(rng, -8, 8)],
        beyond(2.0),
        obs_tolerance=2e-6,
        # Near the seam of the angle, pi and -pi are equally right: their squares are equal.
        reward_tolerance=1e-5,
        distance_to_end=lambda obs: np.ones(len(obs)),
    ),
    "Acrobot-v1": Case(
        lambda rng: [
            spread(rng, -np.pi, np.pi, 0.0),
            spread(rng, -np.pi, np.pi, 0.0),
            *(spread(rng, -4, 4) for _ in "12"),
        ],
        discrete(3),
        obs_tolerance=2e-5,
        reward_tolerance=0,
        distance_to_end=lambda obs: np.abs(-obs[:, 0] - (obs[:, 0] * obs[:, 2] - obs[:, 1] * obs[:, 3]) - 1.0),
    ),
}


def step_ours(id: str, states: list[Array], actions: Array, **params: Any) -> Transition:
    env = operant_gpu.make(id, len(actions), device="cpu", **params)
    set_state(env, states)
    _, reward, terminated, truncated, info = env.step(actions)
    assert not truncated.any()
    return Transition(info["final_obs"].numpy(), reward.numpy(), terminated.numpy())


def set_state(env: VecEnv, states: list[Array]) -> None:
    env.reset(seed=0)
    for column, values in zip(env.state, states, strict=True):
        column.copy_(torch.from_numpy(values))


def step_theirs(
    id: str, states: list[Array], actions: Array, arguments: dict[str, Any], **attributes: Any
) -> Transition:
    env: Any = gymnasium.make(id, **arguments).unwrapped
    for name, value in attributes.items():
        assert hasattr(env, name)
        setattr(env, name, value)
    if "masspole" in attributes or "length" in attributes:
        env.total_mass, env.polemass_length = env.masspole + env.masscart, env.masspole * env.length
    env.reset(seed=0)
    results = []
    # As Python and float64 numbers: a float32 among them would make NumPy compute in float32.
    for state, action in zip(np.stack(states, 1).astype(np.float64), actions, strict=True):
        env.state = state.copy()
        # What an earlier ended episode would change.
        env.steps_beyond_terminated = None
        results.append(env.step(action.astype(np.float64) if actions.ndim == 2 else int(action))[:3])
    obs, reward, terminated = zip(*results, strict=True)
    return Transition(np.array(obs), np.array(reward, np.float64), np.array(terminated))


def assert_same(ours: Transition, theirs: Transition, case: Case) -> None:
    np.testing.assert_allclose(ours.obs, theirs.obs, rtol=case.obs_tolerance, atol=case.obs_tolerance)
    clear = case.distance_to_end(theirs.obs) > MARGIN
    assert np.array_equal(ours.terminated[clear], theirs.terminated[clear])
    # A reward depends on the flag, which may differ at the boundary.
    alike = ours.terminated == theirs.terminated
    tolerance = case.reward_tolerance
    np.testing.assert_allclose(ours.reward[alike], theirs.reward[alike], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("id", CASES)
def test_one_step_from_random_states_and_boundaries(id: str) -> None:
    case, rng = CASES[id], np.random.default_rng(0)
    states, actions = case.states(rng), case.actions(rng)
    theirs = step_theirs(id, states, actions, {})
    assert_same(step_ours(id, states, actions), theirs, case)
    ends = theirs.terminated.mean()
    assert 0.02 < ends < 0.98 or id == "Pendulum-v1"


@pytest.mark.parametrize(
    ("id", "arguments", "attributes"),
    [
        ("CartPole-v1", {"sutton_barto_reward": True}, {}),
        ("CartPole-v1", {}, {"gravity": 1.6, "length": 0.7, "masspole": 0.3, "force_mag": 5.0, "tau": 0.05}),
        ("MountainCar-v0", {"goal_velocity": 0.02}, {}),
        ("MountainCarContinuous-v0", {"goal_velocity": 0.02}, {"power": 0.003}),
        ("Pendulum-v1", {"g": 9.81}, {"m": 1.5, "l": 0.8, "dt": 0.02}),
    ],
)
def test_parameters_mean_what_they_mean_there(id: str, arguments: dict[str, Any], attributes: dict[str, Any]) -> None:
    case, rng = CASES[id], np.random.default_rng(1)
    # From the middle of the file on the sample is as mixed as all of it.
    states, actions = [column[:5_000] for column in case.states(rng)], case.actions(rng)[:5_000]
    ours = step_ours(id, states, actions, **arguments, **attributes)
    theirs = step_theirs(id, states, actions, arguments, **attributes)
    speed = arguments.get("goal_velocity")
    near_speed = np.abs(theirs.obs[:, 1] - speed) > MARGIN if speed is not None else np.ones(len(actions), bool)
    assert_same(*(Transition(*(part[near_speed] for part in transition)) for transition in (ours, theirs)), case)


def test_acrobot_at_its_highest_speeds() -> None:
    """Whole turns within a step: what float32 rounds off in the angles grows a thousandfold."""
    rng = np.random.default_rng(2)
    case = CASES["Acrobot-v1"]._replace(obs_tolerance=5e-2)
    fast = [spread(rng, -np.pi, np.pi), spread(rng, -np.pi, np.pi), spread(rng, -12.5, 12.5), spread(rng, -28, 28)]
    states, actions = [column[:20_000] for column in fast], discrete(3)(rng)[:20_000]
    ours, theirs = step_ours("Acrobot-v1", states, actions), step_theirs("Acrobot-v1", states, actions, {})
    assert np.median(np.abs(ours.obs - theirs.obs)) < 1e-6
    apart = np.abs(ours.obs - theirs.obs).max(1) > 5e-2
    assert apart.mean() < 1e-3
    assert_same(*(Transition(*(part[~apart] for part in transition)) for transition in (ours, theirs)), case)


def test_grid_walk_against_a_walk_in_plain_python() -> None:
    rng, size = np.random.default_rng(0), 7
    states = [rng.integers(size, size=COUNT).astype(np.int32) for _ in range(4)]
    actions = rng.integers(4, size=COUNT)
    ours = step_ours("GridWalk-v0", states, actions, grid_size=size)
    moves = {0: (0, -1), 1: (0, 1), 2: (-1, 0), 3: (1, 0)}
    for row in range(0, COUNT, 7):
        x, y, goal_x, goal_y = (int(column[row]) for column in states)
        right, down = moves[int(actions[row])]
        x, y = min(max(x + right, 0), size - 1), min(max(y + down, 0), size - 1)
        arrived = (x, y) == (goal_x, goal_y)
        assert ours.terminated[row] == arrived
        assert ours.reward[row] == np.float32(1.0 if arrived else -0.01)
        expected = [2 * coordinate / (size - 1) - 1 for coordinate in (x, y, goal_x, goal_y)]
        np.testing.assert_allclose(ours.obs[row], expected, atol=1e-6)


def test_grid_walk_never_starts_at_the_goal_and_starts_anywhere() -> None:
    env = operant_gpu.make("GridWalk-v0", 20_000, device="cpu", grid_size=3)
    env.reset(seed=0)
    start, goal = env.state.x + 3 * env.state.y, env.state.goal_x + 3 * env.state.goal_y
    counts = torch.bincount(start * 9 + goal, minlength=81).reshape(9, 9)
    assert counts.diagonal().sum() == 0
    # 72 pairs at about 278 each: six deviations.
    assert (counts[~torch.eye(9, dtype=torch.bool)] - 278).abs().max() < 6 * 278**0.5


def balance(obs: Array) -> Any:
    return int(obs @ np.array([0.1, 0.4, 5.0, 1.0]) > 0)


def with_the_motion(index: int, actions: int) -> Callable[[Array], Any]:
    """Push in the direction of a velocity: it pumps energy into the system."""
    return lambda obs: (actions - 1) * int(obs[index] > 0)


# Environment, its time limit, policy, how its episodes end. A pole on end and a double pendulum are unstable: what
# float32 rounds off grows e-fold within a few steps, so their episodes are short, and Acrobot's begin half way up.
EPISODES = [
    ("CartPole-v1", 50, balance, "truncated"),
    ("CartPole-v1", 500, lambda obs: 1, "terminated"),
    ("MountainCar-v0", 200, with_the_motion(1, 3), "terminated"),
    ("MountainCar-v0", 200, lambda obs: 1, "truncated"),
    ("MountainCarContinuous-v0", 999, lambda obs: np.array([1.0 if obs[1] > 0 else -1.0], np.float32), "terminated"),
    ("Pendulum-v1", 200, lambda obs: np.array([2.0 * np.sign(obs[2])], np.float32), "truncated"),
    ("Acrobot-v1", 500, with_the_motion(5, 3), "terminated"),
]


@pytest.mark.parametrize(
    ("id", "limit", "policy", "end"), EPISODES, ids=lambda value: "policy" if callable(value) else str(value)
)
def test_whole_episodes_end_at_the_same_step(id: str, limit: int, policy: Callable[[Array], Any], end: str) -> None:
    """The policy sees their observation; both take its action."""
    count = 5
    ours = operant_gpu.make(id, count, device="cpu", autoreset_mode="Disabled", max_episode_steps=limit)
    ours.reset(seed=3)
    for row in range(count):
        theirs: Any = gymnasium.make(id, max_episode_steps=limit)
        obs, _ = theirs.reset(seed=row)
        state = np.asarray(theirs.unwrapped.state, np.float32)
        state[0] += 2.0 if id == "Acrobot-v1" else 0.0
        theirs.unwrapped.state = state.astype(np.float64)
        set_state(ours, [np.full(count, value, np.float32) for value in state])
        ended, total = False, 0.0
        while not ended:
            action = policy(np.asarray(obs))
            obs, reward, terminated, truncated, _ = theirs.step(action)
            result = ours.step(torch.as_tensor(np.stack([action] * count)))
            total, ended = total + float(reward), terminated or truncated
            assert (bool(result[2][0]), bool(result[3][0])) == (terminated, truncated)
        assert {"terminated": terminated, "truncated": truncated}[end]
        assert result[4]["episode"]["r"][0].item() == pytest.approx(total, rel=1e-3, abs=1e-3)
