"""Swing a pendulum up without learning: try action sequences in the simulator and keep what the best have in common.

The cross-entropy method: draw sequences from normals, one a step, take them all in one rollout from the present state,
and fit the normals to the best of them. After a few such iterations the first mean is the action; then plan anew.

    python examples/plan_with_rollouts.py --sequences 100000
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Generator, Tensor

import operant_gpu
from operant_gpu import VecEnv

STRONGEST = 2.0  # N m, the limits of Pendulum's torque


class Planner:
    """Finds the next action for the one environment `env`, in `sequences` copies of it.

    Args:
        env: A Pendulum-v1 of one environment.
        sequences: Action sequences an iteration.
        horizon: Steps that a sequence looks ahead.
        iterations: How often the normals are fitted.
        best: Share of the sequences to which they are fitted.
    """

    def __init__(self, env: VecEnv, sequences: int, horizon: int = 25, iterations: int = 4, best: float = 0.02) -> None:
        self._env, self._iterations = env, iterations
        self._plan = operant_gpu.make("Pendulum-v1", sequences, device=env.device, max_episode_steps=-1)
        self._present = torch.zeros(sequences, dtype=torch.int64, device=env.device)
        self._best = max(2, int(best * sequences))
        self._actions = torch.empty(horizon, sequences, 1, device=env.device)
        self._reward = {"reward": torch.empty(horizon, sequences, device=env.device)}
        self._mean = torch.zeros(horizon, 1, 1, device=env.device)
        self._generator = Generator(env.device).manual_seed(0)

    def returns(self) -> Tensor:
        """Return what each of the present sequences earns from the present state, (sequences,)."""
        self._plan.restore(self._env.snapshot(self._present))
        self._plan.rollout(len(self._actions), self._actions, out=self._reward)
        return self._reward["reward"].sum(0)

    def act(self) -> Tensor:
        """Return the next action, (1, 1)."""
        deviation = torch.full_like(self._mean, STRONGEST)
        for _ in range(self._iterations):
            torch.randn(self._actions.shape, out=self._actions, generator=self._generator)
            self._actions.mul_(deviation).add_(self._mean).clamp_(-STRONGEST, STRONGEST)
            chosen = self._actions[:, self.returns().topk(self._best).indices]
            self._mean, deviation = chosen.mean(1, keepdim=True), chosen.std(1, keepdim=True)
        action = self._mean[0].clone()
        # The next plan begins with the rest of this one.
        self._mean = torch.cat([self._mean[1:], torch.zeros_like(self._mean[:1])])
        return action


def main(sequences: int, steps: int) -> float:
    """Plan `steps` steps and return the sum of rewards."""
    env = operant_gpu.make("Pendulum-v1", 1)
    env.reset(seed=3)
    planner = Planner(env, sequences)
    total, begin = 0.0, time.perf_counter()
    for step in range(steps):
        _, reward, *_ = env.step(planner.act())
        total += float(reward)
        if (step + 1) % 20 == 0:
            cosine, _, speed = env.observe()[0].tolist()
            print(f"step {step + 1:3}: height {cosine:5.2f}, speed {speed:5.2f} rad/s, sum of rewards {total:8.1f}")
    print(f"{(time.perf_counter() - begin) / steps * 1e3:.1f} ms a decision, {sequences:,} sequences an iteration")
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=100_000, help="action sequences an iteration (100000)")
    parser.add_argument("--steps", type=int, default=200, help="steps to take (200)")
    arguments = parser.parse_args()
    main(arguments.sequences, arguments.steps)
