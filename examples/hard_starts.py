"""Restart training where the policy fails: PPO learns to cross a bridge at the far end of a corridor.

Most steps of an episode lead along the corridor, which is learned at once; the few on the bridge decide. A scout, a
second set of environments, plays the policy in chunks of a few steps, each from a snapshot. Where an episode ends in
failure within a chunk, its row of the snapshot is a hard start. Between iterations some rows of the learner's
environments are put to such starts (`restore`, with `new_streams=True`), and go on to ordinary episodes from there.

This bridge was made to show what that can do. Of 10 trainings of 400,000 steps, the scout's counted, 9 learn to cross
with hard starts and 2 without. With half the steps, or a corridor of half the length, the two are closer. In the
library's environments that were tried, FrozenLake8x8 and Breakout, the difference is within the noise: perhaps since
ordinary episodes meet what is hard there often enough (`bench/results/search.json`).

    python examples/hard_starts.py --seeds 5
    python examples/hard_starts.py --env FrozenLake8x8-v1
"""

from __future__ import annotations

import argparse
import statistics
from typing import NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor

import operant_gpu
from operant_gpu import Environment, Snapshot, VecEnv, register
from operant_gpu.lang import jit, tl
from operant_gpu.models import PPO, MLPPolicy, PPOConfig, evaluate
from operant_gpu.random import integers

CHUNK = 8  # steps that the scout takes from a snapshot, so the most before a failure
SCOUTS, LEARNERS, HARD = 64, 64, 32  # environments of the scout, of the learner, and of these from hard starts
POOL = 256  # hard starts that are kept, the latest


class State(NamedTuple):
    x: tl.int32
    sign: tl.int32  # what the next step on the bridge has to be


class Params(NamedTuple):
    corridor: int = 200  # cells before the bridge
    bridge: int = 10  # cells of the bridge


@jit
def reset(rng, params):
    return State(0, integers(rng, 0, 0, 4))


@jit
def step(state, action, rng, params):
    on_bridge = state.x >= params.corridor
    # In the corridor action 0 leads on and others stay; on the bridge the sign tells, and any other step falls.
    goes_on = tl.where(on_bridge, action == state.sign, action == 0)
    x = state.x + goes_on.to(tl.int32)
    across = x == params.corridor + params.bridge
    reward = tl.where(goes_on, tl.where(on_bridge, 0.1, 0.001), 0.0)
    return State(x, integers(rng, 0, 0, 4)), reward, across | (on_bridge & (action != state.sign))


@jit
def observe(state, params):
    on_bridge = state.x >= params.corridor
    shown = tl.where(on_bridge, state.sign, -1)
    return (
        on_bridge.to(tl.float32),
        (shown == 0).to(tl.float32),
        (shown == 1).to(tl.float32),
        (shown == 2).to(tl.float32),
        (shown == 3).to(tl.float32),
    )


Bridge = register(
    Environment(
        id="Bridge-v0",
        state=State,
        params=Params,
        reset=reset,
        step=step,
        observe=observe,
        observation_space=spaces.Box(0.0, 1.0, (5,)),
        action_space=spaces.Discrete(4),
        max_episode_steps=1_000,
    )
)


def failures(scout: VecEnv, policy: MLPPolicy) -> tuple[Snapshot, Tensor]:
    """Play a chunk; return the states before it, and the rows (failures,) whose episode ended there in failure.

    That is without a reward in the last step, and not by the time limit.
    """
    before = scout.snapshot()
    played = scout.rollout(CHUNK, policy, out=["reward", "terminated", "truncated"])
    ended = played["terminated"] | played["truncated"]
    # Steps after the first end are of another episode.
    last, rows = ended.int().argmax(0), torch.arange(scout.num_envs, device=scout.device)
    failed = played["terminated"][last, rows] & (played["reward"][last, rows] <= 0)
    return before, failed.nonzero()[:, 0]


def train(seed: int, hard: bool, env_id: str = "Bridge-v0", steps: int = 400_000) -> float:
    """Return what a policy earns after a training with or without hard starts: the mean return of ordinary episodes.

    Args:
        seed: Of the training; episodes of the evaluation are the same for all.
        hard: Whether to train from hard starts.
        env_id: Environment, for which PPO has to have an `MLPPolicy`.
        steps: Environment steps of learner and scout together.
    """
    config = PPOConfig(
        num_envs=LEARNERS, n_steps=32, batch_size=512, lr=1e-3, ent_coef=0.01, seed=seed, cnn_channels=()
    )
    learner = PPO(operant_gpu.make(env_id, LEARNERS), config)
    scout = operant_gpu.make(env_id, SCOUTS)
    scout.reset(seed=seed + 1_000)
    pool, generator, taken = scout.snapshot([]), torch.Generator().manual_seed(seed), 0
    assert isinstance(learner.policy, MLPPolicy)
    while taken < steps:
        if hard:
            before, rows = failures(scout, learner.policy)
            taken += SCOUTS * CHUNK
            pool = Snapshot.join([pool, before[rows]])[-POOL:]
            # The first call of `learn` resets.
            if learner.timesteps and len(pool):
                chosen = torch.randint(len(pool), (HARD,), generator=generator)
                learner.env.restore(pool[chosen], torch.arange(HARD), new_streams=True)
        learner.learn(LEARNERS * config.n_steps)
        taken += LEARNERS * config.n_steps
    return evaluate(learner, 500).mean


def main(env_id: str, steps: int, seeds: int) -> tuple[float, float]:
    """Train with and without hard starts, print; return the mean of both over the seeds."""
    means = []
    for hard in (True, False):
        returns = [train(seed, hard, env_id, steps) for seed in range(seeds)]
        means.append(statistics.mean(returns))
        each = ", ".join(f"{value:.3f}" for value in returns)
        print(f"{env_id}, {steps:,} steps, {'with' if hard else 'without'} hard starts: {means[-1]:.3f} ({each})")
    return means[0], means[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="Bridge-v0", help="id of the environment (Bridge-v0)")
    parser.add_argument("--steps", type=int, default=400_000, help="environment steps, those of scouts too (400000)")
    parser.add_argument("--seeds", type=int, default=5, help="trainings with and without (5)")
    arguments = parser.parse_args()
    main(arguments.env, arguments.steps, arguments.seeds)
