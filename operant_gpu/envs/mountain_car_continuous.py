"""MountainCarContinuous: rock a car out of a valley with a weak motor whose force costs reward.

This is MountainCar with a continuous action, as in Gymnasium's MountainCarContinuous-v0.

Observation:
    0: position
    1: velocity (per step)
Action:
    0: force as a multiple of `power`, positive to the right; it is clipped to the range
Start: The position is drawn from -0.6 to -0.4, and the car stands still.
Reward: -0.1 times the square of the action, before it is clipped, for each step; 100 more for reaching the goal.
End: The car is at `goal_position` or beyond it, with a velocity of at least `goal_velocity`.
"""

from __future__ import annotations

from typing import NamedTuple

from gymnasium import spaces

from operant_gpu.environment import Environment
from operant_gpu.envs.checks import positive
from operant_gpu.envs.drawing import gymnasium_drawing
from operant_gpu.envs.mountain_car import State, observation_space, observe, reset, roll
from operant_gpu.lang import jit, tl


class Params(NamedTuple):
    min_position: float = -1.2  # left end of the valley, whose bottom is at -pi / 6
    max_position: float = 0.6  # right end of the valley
    max_speed: float = 0.07  # per step
    goal_position: float = 0.45  # where the goal begins
    goal_velocity: float = 0.0  # per step, the least velocity at the goal
    power: float = 0.0015  # per step^2, of an action of 1
    gravity: float = 0.0025  # per step^2


@jit
def step(state, action, rng, params):
    state = roll(state, tl.clamp(action[0], -1.0, 1.0) * params.power, params)
    terminated = (state.position >= params.goal_position) & (state.velocity >= params.goal_velocity)
    reward = tl.where(terminated, 100.0, 0.0) - 0.1 * action[0] * action[0]
    return state, reward, terminated


MountainCarContinuous = Environment(
    id="MountainCarContinuous-v0",
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    observation_space=observation_space,
    action_space=spaces.Box(-1.0, 1.0, (1,)),
    max_episode_steps=999,
    reward_threshold=90.0,
    validate=positive("max_speed"),
    draw=gymnasium_drawing("MountainCarContinuous-v0"),
    keys={"none": [0.0], "left": [-1.0], "right": [1.0]},
)
