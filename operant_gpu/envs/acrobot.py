"""Acrobot: swing the tip of an arm of two links above a line by driving the joint between the links.

The equations are those of Sutton and Barto, "Reinforcement learning: an introduction" (the "book" variant of
Gymnasium's Acrobot-v1). Each action takes one fourth-order Runge-Kutta step of `dt`.

Observation: The first angle is 0 when the first link hangs down. The second angle is relative to the first link.
    0: cosine of the first angle
    1: sine of the first angle
    2: cosine of the second angle
    3: sine of the second angle
    4: angular velocity of the first angle (rad/s)
    5: angular velocity of the second angle (rad/s)
Action: A torque on the joint between the links.
    0: -1 N m
    1: 0 N m
    2: 1 N m
Start: Angles and angular velocities are drawn from -0.1 to 0.1, each by itself.
Reward: -1 for each step, 0 for the step that reaches the goal.
End: -cos(theta1) - cos(theta1 + theta2) > 1. With links of 1 m the tip is then more than 1 m above the upper joint.
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
    theta1: tl.float32
    theta2: tl.float32
    theta1_dot: tl.float32
    theta2_dot: tl.float32


class Params(NamedTuple):
    dt: float = 0.2  # s between states
    link_length_1: float = 1.0  # m
    link_mass_1: float = 1.0  # kg
    link_mass_2: float = 1.0  # kg
    link_com_pos_1: float = 0.5  # m, from the upper joint to the centre of mass of link 1
    link_com_pos_2: float = 0.5  # m, from the joint between the links to the centre of mass of link 2
    link_moi: float = 1.0  # kg m^2, of both links
    gravity: float = 9.8  # m/s^2
    max_vel_1: float = 4 * np.pi  # rad/s
    max_vel_2: float = 9 * np.pi  # rad/s


@jit
def reset(rng, params):
    return State(
        theta1=uniform(rng, 0, -0.1, 0.1),
        theta2=uniform(rng, 1, -0.1, 0.1),
        theta1_dot=uniform(rng, 2, -0.1, 0.1),
        theta2_dot=uniform(rng, 3, -0.1, 0.1),
    )


@jit
def derivative(state, torque, params):
    """Return the time derivative of the state."""
    theta1, theta2, theta1_dot, theta2_dot = state
    m1 = params.link_mass_1
    m2 = params.link_mass_2
    l1 = params.link_length_1
    lc1 = params.link_com_pos_1
    lc2 = params.link_com_pos_2
    sin2, cos2 = tl.sin(theta2), tl.cos(theta2)

    d1 = m1 * lc1 * lc1 + m2 * (l1 * l1 + lc2 * lc2 + 2.0 * l1 * lc2 * cos2) + 2.0 * params.link_moi
    d2 = m2 * (lc2 * lc2 + l1 * lc2 * cos2) + params.link_moi
    phi2 = m2 * lc2 * params.gravity * tl.sin(theta1 + theta2)
    phi1 = (
        -m2 * l1 * lc2 * theta2_dot * (theta2_dot + 2.0 * theta1_dot) * sin2
        + (m1 * lc1 + m2 * l1) * params.gravity * tl.sin(theta1)
        + phi2
    )
    theta2_acc = (torque + d2 / d1 * phi1 - m2 * l1 * lc2 * theta1_dot * theta1_dot * sin2 - phi2) / (
        m2 * lc2 * lc2 + params.link_moi - d2 * d2 / d1
    )
    theta1_acc = -(d2 * theta2_acc + phi1) / d1
    return State(theta1_dot, theta2_dot, theta1_acc, theta2_acc)


@jit
def moved(state, slope, dt):
    """Return state + dt * slope."""
    return State(
        state.theta1 + dt * slope.theta1,
        state.theta2 + dt * slope.theta2,
        state.theta1_dot + dt * slope.theta1_dot,
        state.theta2_dot + dt * slope.theta2_dot,
    )


@jit
def wrapped(angle):
    """Return the same angle in [-pi, pi)."""
    return angle - 2.0 * PI * tl.floor((angle + PI) / (2.0 * PI))


@jit
def step(state, action, rng, params):
    torque = (action - 1).to(tl.float32)
    k1 = derivative(state, torque, params)
    k2 = derivative(moved(state, k1, params.dt / 2.0), torque, params)
    k3 = derivative(moved(state, k2, params.dt / 2.0), torque, params)
    k4 = derivative(moved(state, k3, params.dt), torque, params)
    state = moved(state, moved(moved(moved(k1, k2, 2.0), k3, 2.0), k4, 1.0), params.dt / 6.0)

    theta1, theta2 = wrapped(state.theta1), wrapped(state.theta2)
    theta1_dot = tl.clamp(state.theta1_dot, -params.max_vel_1, params.max_vel_1)
    theta2_dot = tl.clamp(state.theta2_dot, -params.max_vel_2, params.max_vel_2)
    terminated = -tl.cos(theta1) - tl.cos(theta1 + theta2) > 1.0
    return State(theta1, theta2, theta1_dot, theta2_dot), tl.where(terminated, 0.0, -1.0), terminated


@jit
def observe(state, params):
    return (
        tl.cos(state.theta1),
        tl.sin(state.theta1),
        tl.cos(state.theta2),
        tl.sin(state.theta2),
        state.theta1_dot,
        state.theta2_dot,
    )


def observation_space(params: Params) -> spaces.Box:
    high = np.array([1.0, 1.0, 1.0, 1.0, params.max_vel_1, params.max_vel_2], np.float32)
    return spaces.Box(-high, high)


Acrobot = Environment(
    id="Acrobot-v1",
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    observation_space=observation_space,
    action_space=spaces.Discrete(3),
    max_episode_steps=500,
    reward_threshold=-100.0,
    validate=positive("dt", "link_length_1", "link_mass_1", "link_mass_2", "link_moi", "max_vel_1", "max_vel_2"),
    draw=gymnasium_drawing("Acrobot-v1"),
    keys={"none": 1, "left": 0, "right": 2},
)
