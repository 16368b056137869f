"""Pendulum: swing a pendulum up, and hold it there, with a motor too weak to lift it at once.

The equation is that of a uniform rod that turns about its end, without friction, as in Gymnasium's Pendulum-v1: the
angular acceleration is 3 g / (2 l) sin(angle) + 3 / (m l^2) torque. Each action takes one semi-implicit Euler step of
`dt`.

Observation: The angle is 0 when the pendulum stands upright. Counterclockwise is positive.
    0: cosine of the angle
    1: sine of the angle
    2: angular velocity (rad/s)
Action:
    0: torque (N m), counterclockwise; it is clipped to the range
Start: The angle is drawn from -pi to pi, and the angular velocity from -1 to 1 rad/s.
Reward: -(angle^2 + 0.1 velocity^2 + 0.001 torque^2) of the state before the step, with the angle in [-pi, pi).
End: Only the time limit ends an episode.
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

PI = tl.constexpr(np.pi)


class State(NamedTuple):
    theta: tl.float32
    theta_dot: tl.float32


class Params(NamedTuple):
    g: float = 10.0  # m/s^2, gravity
    m: float = 1.0  # kg, mass of the rod
    l: float = 1.0  # m, length of the rod
    dt: float = 0.05  # s between states
    max_speed: float = 8.0  # rad/s, to which the velocity is clipped
    max_torque: float = 2.0  # N m, to which the torque is clipped


@jit
def reset(rng, params):
    return State(theta=uniform(rng, 0, -PI, PI), theta_dot=uniform(rng, 1, -1.0, 1.0))


@jit
def step(state, action, rng, params):
    theta, theta_dot = state
    torque = tl.clamp(action[0], -params.max_torque, params.max_torque)
    angle = theta - 2.0 * PI * tl.floor((theta + PI) / (2.0 * PI))
    cost = angle * angle + 0.1 * theta_dot * theta_dot + 0.001 * torque * torque

    acceleration = 3.0 * params.g / (2.0 * params.l) * tl.sin(theta) + 3.0 / (params.m * params.l * params.l) * torque
    theta_dot = tl.clamp(theta_dot + acceleration * params.dt, -params.max_speed, params.max_speed)
    return State(theta + theta_dot * params.dt, theta_dot), -cost, False


@jit
def observe(state, params):
    return tl.cos(state.theta), tl.sin(state.theta), state.theta_dot


def observation_space(params: Params) -> spaces.Box:
    high = np.array([1.0, 1.0, params.max_speed], np.float32)
    return spaces.Box(-high, high)


def action_space(params: Params) -> spaces.Box:
    return spaces.Box(-params.max_torque, params.max_torque, (1,))


Pendulum = Environment(
    id="Pendulum-v1",
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    observation_space=observation_space,
    action_space=action_space,
    max_episode_steps=200,
    validate=positive("m", "l", "dt", "max_speed", "max_torque"),
    draw=gymnasium_drawing("Pendulum-v1"),
    keys={"none": [0.0], "left": [2.0], "right": [-2.0]},
)
