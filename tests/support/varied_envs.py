"""Environments whose parameters are in memory: given for all or for each environment, and drawn for each episode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from gymnasium import spaces

from operant_gpu import Environment, VecEnv
from operant_gpu.arrays import beside, cells, count
from operant_gpu.environment import Definition
from operant_gpu.lang import Array, jit, tl
from operant_gpu.random import integers
from operant_gpu.randomization import Choice, LogUniform, Normal, Uniform


class TilesState(NamedTuple):
    heights: Array(tl.float32, (2, 3))
    place: tl.int32


class TilesParams(NamedTuple):
    growth: float = 0.5
    level: int = 3
    leaks: bool = False
    weight: float = 1.0


@jit
def tiles_reset(rng, params):
    place = integers(rng, 0, 0, 6)
    return TilesState(tl.where(cells(6) == place[:, None], beside(params.growth), 0.0), place)


@jit
def tiles_step(state, action, rng, params):
    place = (state.place + action + integers(rng, 0, 0, 2)) % 6
    heights = state.heights + tl.where(cells(6) == place[:, None], beside(params.growth) * beside(params.weight), 0.0)
    heights = tl.where(beside(params.leaks), heights * 0.75, heights)
    filled = count((heights >= 1.0) & (cells(6) < 6))
    return TilesState(heights, place), filled * params.weight, filled >= params.level


@jit
def tiles_observe(state, params):
    return state.heights, state.heights * beside(params.weight)


# Arrays that parameters meet.
Tiles = Environment(
    id="Tiles-v0",
    state=TilesState,
    params=TilesParams,
    reset=tiles_reset,
    step=tiles_step,
    observe=tiles_observe,
    observation_space=spaces.Box(0.0, 1e6, (2, 2, 3)),
    action_space=spaces.Discrete(3),
)


class Own(NamedTuple):
    """A parameter for each environment: values in turn, by the environment's id."""

    values: tuple[Any, ...]


def varied(definition: Definition, **params: Any) -> Callable[..., VecEnv]:
    """Return a maker of environments with these parameters: they are the same in any part of a batch."""

    def make(num_envs: int, *, first_env_id: int = 0, **settings: Any) -> VecEnv:
        own = given(params, num_envs, first_env_id)
        return definition(num_envs, first_env_id=first_env_id, **{**own, **settings})

    return make


def given(params: dict[str, Any], num_envs: int, first_env_id: int = 0) -> dict[str, Any]:
    """Return parameters with tensors for so many environments."""
    ids = torch.arange(first_env_id, first_env_id + num_envs)
    return {
        name: torch.tensor(value.values)[ids % len(value.values)] if isinstance(value, Own) else value
        for name, value in params.items()
    }


CARTPOLE = {
    "gravity": Own((1.0, 5.0, 9.8, 20.0, 12.5)),
    "masscart": Normal(1.0, 0.2),
    "masspole": LogUniform(0.05, 0.5),
    "length": Choice(0.4, 0.5, 0.6),
    "force_mag": Uniform(5.0, 15.0),
    "tau": torch.tensor(0.02),
}
# What is drawn is observed too: `final_obs` has that of the episode that has ended, `obs` that of the next.
DRIFT = {"noise": Own((0.05, 0.1, 0.5)), "period": "5..11"}
TILES = {
    "growth": torch.tensor(0.25),
    "level": Own((1, 2, 3, 4)),
    "leaks": Choice(True, False),
    "weight": Choice(0.5, 1.0, 2.0),
}
# And masks are made of it.
LEDGE = {"width": Uniform(3, 5)}
