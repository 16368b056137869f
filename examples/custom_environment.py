"""GridWalk from nothing to a trained policy: walk to a random goal on a grid.

The environment is the part above the line of dashes. `docs/custom_environments.md` explains each step.
"""

from __future__ import annotations

from typing import NamedTuple

from gymnasium import spaces

from operant_gpu import Environment, InvalidConfig, register
from operant_gpu.lang import jit, tl
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.random import integers


class State(NamedTuple):
    x: tl.int32
    y: tl.int32
    goal_x: tl.int32
    goal_y: tl.int32


class Params(NamedTuple):
    grid_size: int = 10


@jit
def reset(rng, params):
    n = params.grid_size
    # The goal lies 1 to n - 1 cells to the side of the start, around the edge: never on it.
    x = integers(rng, 0, 0, n)
    return State(x, integers(rng, 1, 0, n), (x + integers(rng, 2, 1, n)) % n, integers(rng, 3, 0, n))


@jit
def step(state, action, rng, params):
    right = (action == 3).to(tl.int32) - (action == 2).to(tl.int32)
    down = (action == 1).to(tl.int32) - (action == 0).to(tl.int32)
    x = tl.minimum(tl.maximum(state.x + right, 0), params.grid_size - 1)
    y = tl.minimum(tl.maximum(state.y + down, 0), params.grid_size - 1)
    arrived = (x == state.goal_x) & (y == state.goal_y)
    return State(x, y, state.goal_x, state.goal_y), tl.where(arrived, 1.0, -0.01), arrived


@jit
def observe(state, params):
    scale = 2.0 / (params.grid_size - 1)
    return state.x * scale - 1.0, state.y * scale - 1.0, state.goal_x * scale - 1.0, state.goal_y * scale - 1.0


def validate(params: Params) -> None:
    if params.grid_size < 2:
        raise InvalidConfig("grid_size", f"expected at least 2, got {params.grid_size}")


GridWalk = Environment(
    id="MyGridWalk-v0",
    state=State,
    params=Params,
    reset=reset,
    step=step,
    observe=observe,
    observation_space=spaces.Box(-1.0, 1.0, (4,)),
    action_space=spaces.Discrete(4),
    max_episode_steps=100,
    validate=validate,
)

# ----------------------------------------------------------------------------------------------------------------------


def main(total_timesteps: int = 300_000) -> float:
    """Train PPO until it walks nearly straight; return the mean return it reached."""
    env = register(GridWalk)(num_envs=128, grid_size=8)
    reached = float("nan")

    def report(metrics: dict[str, float]) -> bool:
        nonlocal reached
        reached = metrics["episodic_return"]
        print(f"{metrics['timesteps']:>8,} steps  mean return {reached:6.3f}  length {metrics['episodic_length']:5.1f}")
        # The first few episodes to end are the shortest: they prove nothing.
        return metrics["episodes"] < 100 or reached < 0.9

    learner = PPO(env, PPOConfig(ent_coef=0.01)).learn(total_timesteps, callback=report)
    obs, _ = env.reset(seed=1)
    print("actions of the first four walkers:", learner.predict(obs)[:4].tolist())
    return reached


if __name__ == "__main__":
    main()
