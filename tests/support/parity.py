"""Gymnasium's environments with the constants of ours, and ours with given states: what the parity tests share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch

from operant_gpu import VecEnv

# Constants that Gymnasium takes as arguments; the others are attributes, these of them under other names.
ARGUMENTS = {"sutton_barto_reward", "goal_velocity", "g"}
UPPER_CASE = ("link_length_1", "link_mass_1", "link_mass_2", "link_com_pos_1", "link_com_pos_2", "link_moi")
ATTRIBUTES = {name: name.upper() for name in (*UPPER_CASE, "max_vel_1", "max_vel_2")}


def gymnasium_env(name: str, params: Mapping[str, Any], **settings: Any) -> gymnasium.Env:
    """Make Gymnasium's environment with these constants in place of its own."""
    arguments = {key: value for key, value in params.items() if key in ARGUMENTS}
    env = gymnasium.make(name, disable_env_checker=True, **arguments, **settings)
    for key in params.keys() - ARGUMENTS:
        attribute = ATTRIBUTES.get(key, key)
        # A misspelt name would leave the constant as it was.
        assert hasattr(env.unwrapped, attribute)
        setattr(env.unwrapped, attribute, params[key])
    if name == "CartPole-v1":
        # Derived from the others when it was made.
        env.unwrapped.total_mass = env.unwrapped.masspole + env.unwrapped.masscart
        env.unwrapped.polemass_length = env.unwrapped.masspole * env.unwrapped.length
    return env


def set_states(env: VecEnv, states: np.ndarray) -> None:
    for column, values in zip(env.state, states.T, strict=True):
        column.copy_(torch.from_numpy(values.copy()))
