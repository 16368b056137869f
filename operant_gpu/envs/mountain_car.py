"""MountainCar: rock a car with a weak motor out of a valley.

The task is from Moore's thesis, "Efficient memory-based learning for robot control" (1990), as in Gymnasium's
MountainCar-v0. The valley has the height sin(3 position). Its lengths have no unit.

Observation:
    0: position
    1: velocity (per step)
Action:
    0: accelerate to the left
    1: do not accelerate
    2: accelerate to the right
Start: The position is drawn from -0.6 to -0.4, and the car stands still.
Reward: -1 for each step.
End: The car is at `goal_position` or beyond it, with a velocity of at least `goal_velocity`.
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
    position: tl.float32
    velocity: tl.float32


class Params(NamedTuple):
    min_position: float = -1.2  # left end of the valley, whose bottom is at -pi / 6
    max_position: float = 0.6  # right end of the valley
    max_speed: float = 0.07  # per step
    goal_position: float = 0.5  # where the goal begins
    goal_velocity: float = 0.0  # per step, the least velocity at the goal
    force: float = 0.001  # per step^2
    gravity: float = 0.0025  # per step^2


@jit
def roll(state, acceleration, params):
    """Move the car by one step along the valley sin(3 x)."""
    velocity = state.velocity + acceleration - params.gravity * tl.cos(3.0 * state.position)
    velocity = tl.clamp(velocity, -params.max_speed, params.max_speed)
    position = tl.clamp(state.position + velocity, params.min_position, params.max_position)
    # The wall on the left stops the car.
    velocity = tl.where((position == params.min_position) & (velocity < 0.0), 0.0, velocity)
    return State(position, velocity)


@jit
def reset(rng, params):
    return State(position=uniform(rng, 0, -0.6, -0.4), velocity=0.0)


@jit
def step(state, action, rng, params):
    state = roll(state, (action - 1) * params.force, params)
    terminated = (state.position >= params.goal_position) & (state.velocity >= params.goal_velocity)
    return state, -1.0, terminated


@jit
def observe(state, params):
    return state.position, state.velocity


def observation_space(params: Params) -> spaces.Box:
    low = np.array([params.min_position, -params.max_speed], np.float32)
    return spaces.Box(low, np.array([params.max_position, params.max_speed], np.float32))


MountainCar = Environment(
    id="MountainCar-v0",
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    observation_space=observation_space,
    action_space=spaces.Discrete(3),
    max_episode_steps=200,
    reward_threshold=-110.0,
    validate=positive("max_speed"),
    draw=gymnasium_drawing("MountainCar-v0"),
    keys={"none": 1, "left": 0, "right": 2},
)
