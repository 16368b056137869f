"""CartPole: balance a pole on a cart that is pushed left or right.

The equations are those of Florian, "Correct equations for the dynamics of the cart-pole system" (2007), without
friction. The task is that of Barto, Sutton and Anderson (1983), as in Gymnasium's CartPole-v1. Each action takes one
explicit Euler step of `tau`.

Observation: As in Gymnasium, the ranges are twice as wide as where an episode ends.
    0: position of the cart (m)
    1: velocity of the cart (m/s)
    2: angle of the pole from upright (rad), positive to the right
    3: angular velocity of the pole (rad/s)
Action:
    0: push the cart to the left with `force_mag`
    1: push the cart to the right with `force_mag`
Start: Position, velocity, angle and angular velocity are drawn from -0.05 to 0.05, each by itself.
Reward: 1 for each step, the last one included. With `sutton_barto_reward`: 0, and -1 for the last step.
End: The cart is more than `x_threshold` from the middle, or the pole more than `theta_threshold_radians` from upright.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gymnasium import spaces

from operant_gpu.environment import Environment
from operant_gpu.envs.checks import positive
from operant_gpu.envs.drawing import gymnasium_drawing
from operant_gpu.lang import jit, tl
from operant_gpu.random import uniform


class State(NamedTuple):
    x: tl.float32
    x_dot: tl.float32
    theta: tl.float32
    theta_dot: tl.float32


class Params(NamedTuple):
    gravity: float = 9.8  # m/s^2
    masscart: float = 1.0  # kg
    masspole: float = 0.1  # kg
    length: float = 0.5  # m, half the pole
    force_mag: float = 10.0  # N
    tau: float = 0.02  # s between states
    theta_threshold_radians: float = 12 * np.pi / 180  # rad, where an episode ends
    x_threshold: float = 2.4  # m, where an episode ends
    sutton_barto_reward: bool = False  # reward 0, and -1 at the end, in place of 1


@jit
def reset(rng, params):
    return State(
        x=uniform(rng, 0, -0.05, 0.05),
        x_dot=uniform(rng, 1, -0.05, 0.05),
        theta=uniform(rng, 2, -0.05, 0.05),
        theta_dot=uniform(rng, 3, -0.05, 0.05),
    )


@jit
def step(state, action, rng, params):
    x, x_dot, theta, theta_dot = state
    total_mass = params.masscart + params.masspole
    push = tl.where(action == 1, params.force_mag / total_mass, -params.force_mag / total_mass)
    pole_share = params.masspole / total_mass
    sin, cos = tl.sin(theta), tl.cos(theta)

    temp = push + pole_share * params.length * theta_dot * theta_dot * sin
    theta_acc = (params.gravity * sin - cos * temp) / (params.length * (4.0 / 3.0 - pole_share * cos * cos))
    x_acc = temp - pole_share * params.length * theta_acc * cos

    # Explicit Euler: positions move with the old velocities.
    x += params.tau * x_dot
    x_dot += params.tau * x_acc
    theta += params.tau * theta_dot
    theta_dot += params.tau * theta_acc

    terminated = (tl.abs(x) > params.x_threshold) | (tl.abs(theta) > params.theta_threshold_radians)
    if params.sutton_barto_reward:
        reward = tl.where(terminated, -1.0, 0.0)
    else:
        reward = 1.0
    return State(x, x_dot, theta, theta_dot), reward, terminated


@jit
def observe(state, params):
    return state.x, state.x_dot, state.theta, state.theta_dot


def observation_space(params: Params) -> spaces.Box:
    high = np.array([2 * params.x_threshold, np.inf, 2 * params.theta_threshold_radians, np.inf], np.float32)
    return spaces.Box(-high, high)


CartPole = Environment(
    id="CartPole-v1",
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    observation_space=observation_space,
    action_space=spaces.Discrete(2),
    max_episode_steps=500,
    reward_threshold=475.0,
    validate=positive("masscart", "masspole", "length", "tau", "theta_threshold_radians", "x_threshold"),
    draw=gymnasium_drawing("CartPole-v1"),
    keys={"left": 0, "right": 1},
)
