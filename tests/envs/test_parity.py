"""One step from the same state is that of Gymnasium's own single environments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from parity import gymnasium_env, set_states

import operant_gpu

# Gymnasium computes in float64: nearer to a threshold than this, float32 may fall on its other side.
MARGIN = 1e-5


Draw = Callable[[np.random.Generator, int, Any], tuple[np.ndarray, ...]]


class Step(NamedTuple):
    """What a step of each environment gave, one row per environment."""

    state: np.ndarray
    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray


def gymnasium_steps(name: str, params: dict[str, Any], states: np.ndarray, actions: np.ndarray) -> Step:
    """Take one step of Gymnasium's environment from each state."""
    env = gymnasium_env(name, params).unwrapped
    rows = []
    for state, action in zip(states.astype(np.float64), actions, strict=True):
        env.state = state
        # CartPole's memory of the step before.
        env.steps_beyond_terminated = None
        obs, reward, terminated, _, _ = env.step(action)
        rows.append((np.array(env.state, np.float64), obs, reward, terminated))
    return Step(*map(np.array, zip(*rows, strict=True)))


def own_steps(name: str, params: dict[str, Any], states: np.ndarray, actions: np.ndarray, backend: str) -> Step:
    """Take one step from each state; ended episodes are left as they ended."""
    env = operant_gpu.make(
        name, len(states), device="cpu", backend=backend, autoreset_mode="Disabled", max_episode_steps=-1, **params
    )
    env.reset(seed=0)
    set_states(env, states)
    obs, reward, terminated, truncated, _ = env.step(torch.from_numpy(actions))
    env.check()
    assert not truncated.any()
    state = np.stack([column.numpy() for column in env.state], axis=1)
    return Step(state, obs.numpy(), reward.numpy(), terminated.numpy())


# States are random, but for some of them at a boundary.


def beside(rng: np.random.Generator, n: int, threshold: float) -> np.ndarray:
    """Return values on both sides of +-threshold, from twice the margin to 2000 times as far away."""
    distance = rng.choice([-1, 1], n) * 2 * MARGIN * 10 ** rng.uniform(0, 3, n)
    return rng.choice([-1, 1], n) * (threshold + distance)


def cart_poles(rng: np.random.Generator, n: int, params: Any) -> tuple[np.ndarray, ...]:
    x, x_dot = rng.uniform(-1.1, 1.1, n) * params.x_threshold, rng.uniform(-4, 4, n)
    theta, theta_dot = rng.uniform(-1.1, 1.1, n) * params.theta_threshold_radians, rng.uniform(-4, 4, n)
    # Where the step itself carries them to the threshold.
    x[::8] = beside(rng, len(x[::8]), params.x_threshold) - params.tau * x_dot[::8]
    theta[4::8] = beside(rng, len(theta[4::8]), params.theta_threshold_radians) - params.tau * theta_dot[4::8]
    return x, x_dot, theta, theta_dot


def cars(rng: np.random.Generator, n: int, params: Any) -> tuple[np.ndarray, ...]:
    position = rng.uniform(params.min_position, params.max_position, n)
    velocity = rng.uniform(-params.max_speed, params.max_speed, n)
    # At the walls, about the goal, and at full speed.
    position[::16], position[4::16] = params.min_position, params.max_position
    position[8::16] = params.goal_position + rng.uniform(-0.05, 0.05, len(position[8::16]))
    velocity[12::16] = rng.choice([-1, 1], len(velocity[12::16])) * params.max_speed
    return position, velocity


def pendulums(turns: float) -> Draw:
    def draw(rng: np.random.Generator, n: int, params: Any) -> tuple[np.ndarray, ...]:
        theta, theta_dot = rng.uniform(-turns, turns, n) * 2 * np.pi, rng.uniform(-1, 1, n) * params.max_speed
        # About hanging down, where the angle wraps, and at full speed.
        theta[::8] = beside(rng, len(theta[::8]), np.pi)
        theta_dot[4::8] = rng.choice([-1, 1], len(theta_dot[4::8])) * params.max_speed
        return theta, theta_dot

    return draw


def acrobots(speed_1: float, speed_2: float) -> Draw:
    def draw(rng: np.random.Generator, n: int, params: Any) -> tuple[np.ndarray, ...]:
        theta1, theta2 = rng.uniform(-np.pi, np.pi, (2, n))
        # Where the angles wrap.
        theta1[::8], theta2[4::8] = beside(rng, len(theta1[::8]), np.pi), beside(rng, len(theta2[4::8]), np.pi)
        return theta1, theta2, rng.uniform(-speed_1, speed_1, n), rng.uniform(-speed_2, speed_2, n)

    return draw


def random_actions(rng: np.random.Generator, n: int, space: gymnasium.Space) -> np.ndarray:
    """Return actions; those of a Box also at its bounds, beyond them and far beyond."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return rng.integers(0, int(space.n), n)
    high = float(space.high[0])
    actions = rng.uniform(-1.5 * high, 1.5 * high, (n, 1))
    actions[::5] = rng.choice([-1, 1], actions[::5].shape) * high
    actions[1::50] = rng.choice([-1, 1], actions[1::50].shape) * 100 * high
    return actions.astype(np.float32)


# What ends an episode: positive where it is over, its size the distance from the threshold.


def cart_pole_over(state: np.ndarray, params: Any) -> np.ndarray:
    return np.maximum(np.abs(state[:, 0]) - params.x_threshold, np.abs(state[:, 2]) - params.theta_threshold_radians)


def car_over(state: np.ndarray, params: Any) -> np.ndarray:
    return np.minimum(state[:, 0] - params.goal_position, state[:, 1] - params.goal_velocity)


def pendulum_over(state: np.ndarray, params: Any) -> np.ndarray:
    return np.full(len(state), -1.0)


def acrobot_over(state: np.ndarray, params: Any) -> np.ndarray:
    return -np.cos(state[:, 0]) - np.cos(state[:, 0] + state[:, 1]) - 1.0


class Case(NamedTuple):
    name: str
    draw: Draw
    over: Callable[[np.ndarray, Any], np.ndarray]
    # Relative to the number, or to 1 where it is smaller.
    tolerance: float
    reward_tolerance: float = 1e-6
    # Columns of the state that are compared as angles.
    angles: tuple[int, ...] = ()


CART_POLE = Case("CartPole-v1", cart_poles, cart_pole_over, 5e-7)
CAR = Case("MountainCar-v0", cars, car_over, 2e-7)
CONTINUOUS_CAR = Case("MountainCarContinuous-v0", cars, car_over, 2e-7)
PENDULUM = Case("Pendulum-v1", pendulums(1), pendulum_over, 1e-6, reward_tolerance=4e-6)
# After 200 steps at full speed the angle is 80, and float32 as much coarser.
SPUN_PENDULUM = Case("Pendulum-v1", pendulums(13), pendulum_over, 1e-5, reward_tolerance=4e-5)
ACROBOT = Case("Acrobot-v1", acrobots(2, 2), acrobot_over, 4e-6, angles=(0, 1))
FAST_ACROBOT = Case("Acrobot-v1", acrobots(4 * np.pi, 9 * np.pi), acrobot_over, 3e-2, angles=(0, 1))

STEPS: dict[str, Case] = {
    "CartPole": CART_POLE,
    "MountainCar": CAR,
    "MountainCarContinuous": CONTINUOUS_CAR,
    "Pendulum": PENDULUM,
    "Pendulum, many turns": SPUN_PENDULUM,
    "Acrobot": ACROBOT,
    "Acrobot, fast": FAST_ACROBOT,
}

PARAMETERS: dict[str, tuple[Case, dict[str, Any]]] = {
    "CartPole, reward": (CART_POLE, {"sutton_barto_reward": True}),
    "CartPole, moon": (CART_POLE, {"gravity": 1.6, "tau": 0.05, "force_mag": 3.0}),
    "CartPole, masses": (CART_POLE, {"masscart": 0.7, "masspole": 0.4, "length": 0.8}),
    "CartPole, thresholds": (CART_POLE, {"x_threshold": 1.0, "theta_threshold_radians": 0.1}),
    "MountainCar, goal": (CAR, {"goal_velocity": 0.02, "goal_position": 0.3}),
    "MountainCar, motor": (CAR, {"force": 0.003, "gravity": 0.004, "max_speed": 0.05}),
    "MountainCar, walls": (CAR, {"min_position": -1.0, "max_position": 0.7}),
    "MountainCarContinuous, goal": (CONTINUOUS_CAR, {"goal_velocity": 0.02, "goal_position": 0.3}),
    "MountainCarContinuous, motor": (CONTINUOUS_CAR, {"power": 0.004, "max_speed": 0.05}),
    "MountainCarContinuous, walls": (CONTINUOUS_CAR, {"min_position": -1.0, "max_position": 0.7}),
    "Pendulum, gravity": (PENDULUM, {"g": 9.81}),
    "Pendulum, rod": (PENDULUM, {"m": 0.5, "l": 1.5, "dt": 0.02}),
    "Pendulum, limits": (PENDULUM, {"max_speed": 4.0, "max_torque": 5.0}),
    "Acrobot, links": (ACROBOT, {"link_length_1": 1.3, "link_com_pos_1": 0.6, "link_com_pos_2": 0.4}),
    "Acrobot, masses": (ACROBOT, {"link_mass_1": 1.5, "link_mass_2": 0.7, "link_moi": 1.2}),
    "Acrobot, limits": (ACROBOT, {"dt": 0.1, "max_vel_1": 1.5, "max_vel_2": 1.0}),
}


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float, what: str) -> None:
    error = np.abs(actual - expected) / np.maximum(1.0, np.abs(expected))
    assert error.max() <= tolerance, f"{what}: off by {error.max():.2g}"


def check_steps(case: Case, overrides: dict[str, Any], n: int, backend: str) -> None:
    rng = np.random.default_rng(0)
    # Gymnasium is told what is overridden, no more: the defaults have to agree by themselves.
    environment = operant_gpu.make(case.name, device="cpu").environment
    params = environment.make_params(overrides)
    states = np.stack(case.draw(rng, n, params), axis=1).astype(np.float32)
    actions = random_actions(rng, n, environment.spaces(params)[1])
    expected = gymnasium_steps(case.name, overrides, states, actions)
    actual = own_steps(case.name, overrides, states, actions, backend)

    difference = actual.state - expected.state
    for angle in case.angles:
        assert (np.abs(actual.state[:, angle]) <= np.float32(np.pi)).all()
        difference[:, angle] = (difference[:, angle] + np.pi) % (2 * np.pi) - np.pi
    assert_close(expected.state + difference, expected.state, case.tolerance, "state")
    assert_close(actual.obs, expected.obs, case.tolerance, "obs")

    over = case.over(expected.state, params)
    # What float32 makes of a state moves it by as much towards the threshold.
    clear = np.abs(over) > max(MARGIN, 3 * case.tolerance)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(actual.terminated[clear], expected.terminated[clear])
    assert_close(actual.reward[clear], expected.reward[clear], case.reward_tolerance, "reward")
    if case.over is not pendulum_over:
        near = clear & (np.abs(over) < 0.1)
        assert 0 < expected.terminated[near].mean() < 1, "the states miss the boundary"


@pytest.mark.parametrize("case", STEPS.values(), ids=STEPS)
def test_a_step_is_that_of_gymnasium(case: Case, backend: str) -> None:
    check_steps(case, {}, 100_000 if backend == "numpy" else 2048, backend)


@pytest.mark.parametrize(("case", "params"), PARAMETERS.values(), ids=PARAMETERS)
def test_parameters_mean_what_they_mean_to_gymnasium(case: Case, params: dict[str, Any], backend: str) -> None:
    check_steps(case, params, 5000 if backend == "numpy" else 512, backend)


# Numbers that float32 holds exactly: equal means equal here. Parameters, states before, whether it is over after.
ABOVE_HALF, BELOW_HALF = np.nextafter(np.float32(0.5), np.float32([1, 0]))
STILL = {"force": 0.0, "gravity": 0.0}
EXACT: dict[str, tuple[str, dict[str, Any], list[tuple[float, ...]], list[bool]]] = {
    "a cart at the threshold stays up": (
        "CartPole-v1",
        {"x_threshold": 0.5},
        [(0.5, 0, 0, 0), (-0.5, 0, 0, 0), (ABOVE_HALF, 0, 0, 0), (-ABOVE_HALF, 0, 0, 0)],
        [False, False, True, True],
    ),
    "a pole at the threshold stays up": (
        "CartPole-v1",
        {"theta_threshold_radians": 0.5},
        [(0, 0, 0.5, 0), (0, 0, -0.5, 0), (0, 0, ABOVE_HALF, 0), (0, 0, -ABOVE_HALF, 0)],
        [False, False, True, True],
    ),
    "a car at the goal is there": (
        "MountainCar-v0",
        STILL,
        [(0.5, 0), (BELOW_HALF, 0), (0.4375, 0.0625), (0.5625, -0.03125)],
        [True, False, True, False],
    ),
    "a car at the wanted speed is fast enough": (
        "MountainCar-v0",
        {**STILL, "goal_velocity": 0.0625},
        [(0.5, 0.0625), (0.5, np.nextafter(np.float32(0.0625), np.float32(0)))],
        [True, False],
    ),
    "the wall stops a car and lets it go": (
        "MountainCar-v0",
        {**STILL, "min_position": -1.25},
        [(-1.25, -0.0625), (-1.1875, -0.0625), (-1.25, 0.0), (-1.25, 0.0625), (-1.125, -0.0625)],
        [False] * 5,
    ),
}


@pytest.mark.parametrize(("name", "params", "states", "over"), EXACT.values(), ids=EXACT)
def test_at_a_threshold_itself(
    name: str, params: dict[str, Any], states: list[tuple[float, ...]], over: list[bool], backend: str
) -> None:
    start, actions = np.array(states, np.float32), np.ones(len(states), np.int64)
    expected = gymnasium_steps(name, params, start, actions)
    actual = own_steps(name, params, start, actions, backend)
    assert actual.terminated.tolist() == expected.terminated.tolist() == over
    assert_close(actual.state, expected.state, 5e-7 if name == "CartPole-v1" else 1e-7, "state")


def grid_walk(state: tuple[int, ...], action: int, size: int) -> tuple[tuple[int, ...], float, bool]:
    """Take one step on the grid, in plain Python."""
    x, y, goal_x, goal_y = state
    if action == 0 and y > 0:
        y -= 1
    if action == 1 and y < size - 1:
        y += 1
    if action == 2 and x > 0:
        x -= 1
    if action == 3 and x < size - 1:
        x += 1
    there = (x, y) == (goal_x, goal_y)
    return (x, y, goal_x, goal_y), 1.0 if there else -0.01, there


@pytest.mark.parametrize("size", [2, 10, 32_768])
def test_grid_walk_is_a_walk_on_a_grid(size: int, backend: str) -> None:
    n = 100_000 if backend == "numpy" else 2048
    rng = np.random.default_rng(1)
    walker, offset = rng.integers(0, size, (n, 2)), rng.integers(-1, 2, (n, 2))
    # Half of the walkers are at an edge, and goals are near enough to be reached.
    walker[::4, 0], walker[1::4, 1] = rng.choice([0, size - 1], n)[::4], rng.choice([0, size - 1], n)[1::4]
    states = np.hstack([walker, np.clip(walker + offset, 0, size - 1)]).astype(np.int32)
    actions = rng.integers(0, 4, n)
    rows = [grid_walk(tuple(state), action, size) for state, action in zip(states.tolist(), actions, strict=True)]
    state, reward, terminated = map(np.array, zip(*rows, strict=True))
    actual = own_steps("GridWalk-v0", {"grid_size": size}, states, actions, backend)
    np.testing.assert_array_equal(actual.state, state)
    np.testing.assert_array_equal(actual.terminated, terminated)
    np.testing.assert_array_equal(actual.reward, reward.astype(np.float32))
    assert_close(actual.obs, 2 * state / (size - 1) - 1, 2e-7, "obs")
    assert 0 < terminated.mean() < 1


def test_grid_walk_starts_anywhere_but_at_the_goal() -> None:
    env = operant_gpu.make("GridWalk-v0", 20_000, device="cpu", grid_size=3)
    env.reset(seed=0)
    start, goal = env.state.x + 3 * env.state.y, env.state.goal_x + 3 * env.state.goal_y
    counts = torch.bincount(start * 9 + goal, minlength=81).reshape(9, 9)
    assert counts.diagonal().sum() == 0
    # 72 pairs at about 278 each: six deviations.
    assert (counts[~torch.eye(9, dtype=torch.bool)] - 278).abs().max() < 6 * 278**0.5
