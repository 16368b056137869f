"""Catch from nothing to a trained policy: a game in CUDA C++ (`catch.cu`), with its definition here.

`docs/cuda_environments.md` explains each step. On a GPU NVRTC compiles the source, on a CPU the machine's C++ compiler.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from gymnasium import spaces

from operant_gpu import Array, CudaEnvironment, register
from operant_gpu.lang import tl
from operant_gpu.models import PPO, PPOConfig


class State(NamedTuple):
    basket: tl.int32
    missed: tl.int32
    wait: tl.int32  # steps until the next fruit falls
    fruit_x: Array(tl.int8, (4,))
    fruit_y: Array(tl.int8, (4,))  # -1 where there is none


class Params(NamedTuple):
    interval: int = 4  # steps between two fruits
    lives: int = 2


Catch = CudaEnvironment(
    id="Catch-v0",
    source=Path(__file__).with_name("catch.cu"),
    state=State,
    params=Params,
    observation_space=spaces.MultiBinary((2, 10, 10)),
    action_space=spaces.Discrete(3),
    max_episode_steps=100,
    keys={"none": 0, "left": 1, "right": 2},
)

# ----------------------------------------------------------------------------------------------------------------------


def main(timesteps: int = 400_000) -> float:
    """Train until most of the fruit is caught; return the mean return of the last 100 episodes."""
    register(Catch)
    config = PPOConfig(
        total_timesteps=timesteps, lr=5e-3, ent_coef=0.01, cnn_channels=(16,), shared_trunk=True, activation="relu"
    )
    env = Catch(config.num_envs)
    print(env)
    reached = {}

    def after_iteration(metrics: dict[str, float]) -> bool:
        reached.update(metrics)
        # Of the 23 that fall far enough in a hundred steps.
        return metrics["episodes"] < 100 or metrics["episodic_return"] < 15

    PPO(env, config).learn(callback=after_iteration)
    print(f"mean return {reached['episodic_return']:.1f} after {reached['timesteps']:,} steps")
    return reached["episodic_return"]


if __name__ == "__main__":
    main()
