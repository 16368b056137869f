"""Domain randomisation: train a policy on many pendulums, then try it on single ones that are fixed.

The environment is Gymnasium's pendulum with three additions. What is random in it comes in three ways:

- Mass, length and gravity are parameters. Give a range such as `m=LogUniform(0.5, 2)`: it is drawn for each episode.
- The wind, a constant torque, is drawn by `reset`. The episode's `State` keeps it.
- Noise of the sensor and of the motor is drawn by `step`. `observe` draws nothing, so the `State` keeps the sensor's.

    python examples/randomised_pendulum.py
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from operant_gpu import Environment, InvalidConfig, register
from operant_gpu.lang import jit, tl
from operant_gpu.models import PPO, PPOConfig, evaluate
from operant_gpu.random import normal, uniform
from operant_gpu.randomization import LogUniform

PI = tl.constexpr(np.pi)
HIGH = np.array([1.0, 1.0, 8.0], np.float32)


class State(NamedTuple):
    theta: tl.float32
    theta_dot: tl.float32
    wind: tl.float32  # of this episode
    error: tl.float32  # of the sensor, in this step


class Params(NamedTuple):
    g: float = 10.0  # m/s^2
    m: float = 1.0  # kg
    l: float = 1.0  # m
    wind_low: float = 0.0  # N m
    wind_high: float = 0.0  # N m
    sensor_noise: float = 0.0  # rad, standard deviation
    motor_noise: float = 0.0  # N m, standard deviation


@jit
def reset(rng, params):
    return State(
        theta=uniform(rng, 0, -PI, PI),
        theta_dot=uniform(rng, 1, -1.0, 1.0),
        wind=uniform(rng, 2, params.wind_low, params.wind_high),
        error=params.sensor_noise * normal(rng, 3),
    )


@jit
def step(state, action, rng, params):
    theta, theta_dot, wind, _ = state
    angle = theta - 2.0 * PI * tl.floor((theta + PI) / (2.0 * PI))
    torque = tl.clamp(action[0] + params.motor_noise * normal(rng, 0), -2.0, 2.0)
    cost = angle * angle + 0.1 * theta_dot * theta_dot + 0.001 * torque * torque

    inertia = params.m * params.l * params.l / 3.0
    acceleration = 1.5 * params.g / params.l * tl.sin(theta) + (torque + wind) / inertia
    theta_dot = tl.clamp(theta_dot + 0.05 * acceleration, -8.0, 8.0)
    return State(theta + 0.05 * theta_dot, theta_dot, wind, params.sensor_noise * normal(rng, 1)), -cost, False


@jit
def observe(state, params):
    seen = state.theta + state.error
    return tl.cos(seen), tl.sin(seen), state.theta_dot


def validate(params: Params) -> None:
    for name in ("m", "l"):
        if getattr(params, name) <= 0:
            raise InvalidConfig(name, f"expected a number above 0, got {getattr(params, name)}")
    for name in ("sensor_noise", "motor_noise"):
        if getattr(params, name) < 0:
            raise InvalidConfig(name, f"expected a standard deviation of 0 or more, got {getattr(params, name)}")
    if params.wind_low > params.wind_high:
        raise InvalidConfig("wind_high", f"expected at least wind_low={params.wind_low}, got {params.wind_high}")


RandomisedPendulum = register(
    Environment(
        id="RandomisedPendulum-v0",
        state=State,
        params=Params,
        reset=reset,
        step=step,
        observe=observe,
        observation_space=spaces.Box(-HIGH, HIGH),
        action_space=spaces.Box(-2.0, 2.0, (1,)),
        max_episode_steps=200,
        validate=validate,
    )
)

# ----------------------------------------------------------------------------------------------------------------------

# What training draws from; the noise is the same in all episodes.
RANGES = {
    "m": LogUniform(0.5, 2.0),
    "wind_low": -1.0,
    "wind_high": 1.0,
    "sensor_noise": 0.05,
    "motor_noise": 0.1,
}
# What a policy is tried on. Parameters that are not named are as in its training, so all that differ there are named.
EXACT = {"m": 1.0, "wind_low": 0.0, "wind_high": 0.0, "sensor_noise": 0.0, "motor_noise": 0.0}
CONDITIONS = {
    "as designed": EXACT,
    "heavy": {**EXACT, "m": 1.5},
    "wind of 1 N m": {**EXACT, "wind_low": 1.0, "wind_high": 1.0},
    "wind of -1 N m": {**EXACT, "wind_low": -1.0, "wind_high": -1.0},
    "noise": {**EXACT, "sensor_noise": 0.1},
}


def train(params: dict[str, Any], steps: int, seed: int) -> PPO:
    """Return a learner that has been trained on pendulums with such parameters."""
    config = PPOConfig.for_env("Pendulum-v1", total_timesteps=steps, seed=seed)
    return PPO(RandomisedPendulum(config.num_envs, **params), config).learn()


def main(steps: int = 200_000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Train on the designed pendulum and on random ones; return the mean returns of both by condition."""
    torch.set_num_threads(1)
    learners = train({}, steps, seed), train(RANGES, steps, seed)
    print(f"{'tried on':>20} {'trained on one':>15} {'on random ones':>15}")
    returns = {}
    for name, params in CONDITIONS.items():
        plain, robust = (evaluate(learner, 200, params=params).mean for learner in learners)
        returns[name] = plain, robust
        print(f"{name:>20} {plain:15.0f} {robust:15.0f}")
    return returns


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200_000, help="environment steps of each training (200000)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.steps, arguments.seed)
