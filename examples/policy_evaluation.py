"""Train CartPole, then judge the policy by a million episodes: mean, deviation, quantiles and a histogram.

Every episode has an environment of its own, which waits once it ended. So all episodes count alike; counting those that
end in a given time would favour the short ones.

    python examples/policy_evaluation.py --episodes 1000000
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import operant_gpu
from operant_gpu import AutoresetMode
from operant_gpu.models import PPO, MLPPolicy, Policy, PPOConfig

ENV = "CartPole-v1"
MAX_STEPS = 500
CHUNK = 20  # steps a rollout: what is stored of a million environments at a time takes 80 MB


def train(is_done: Callable[[dict[str, Any]], bool]) -> Policy:
    """Return a policy trained until `is_done` says so of an iteration's metrics."""
    config = PPOConfig.for_env(ENV, seed=1)
    learner = PPO(operant_gpu.make(ENV, config.num_envs), config)
    learner.learn(callback=lambda metrics: not is_done(metrics))
    return learner.policy


def episode_returns(policy: Policy, episodes: int) -> Tensor:
    """Return the sum of rewards of each episode, (episodes,)."""
    env = operant_gpu.make(ENV, episodes, max_episode_steps=MAX_STEPS, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=2)
    reward = torch.empty(CHUNK, episodes, device=env.device)
    returns = torch.zeros(episodes, device=env.device)
    for _ in range(0, MAX_STEPS, CHUNK):
        # An environment that ended waits, with reward 0.
        env.rollout(CHUNK, policy, {"reward": reward})
        returns += reward.sum(0)
    return returns


def histogram(values: Tensor, bins: int = 20, width: int = 60) -> str:
    """Return one line a bin: where it begins, how many values it has, and a bar of that length."""
    low, high = float(values.min()), float(values.max())
    counts = torch.histc(values, bins, low, high).long().tolist()
    edges = torch.linspace(low, high, bins + 1).tolist()
    rows = zip(edges, counts, strict=False)
    return "\n".join(f"{edge:8.1f} {count:9,} {'█' * round(width * count / max(counts))}" for edge, count in rows)


def main(episodes: int, is_done: Callable[[dict[str, Any]], bool]) -> Tensor:
    """Train, evaluate, print; return the returns, (episodes,)."""
    policy = train(is_done)
    assert isinstance(policy, MLPPolicy)
    # Products as exact as PyTorch's; "tf32" is faster.
    policy.precision = "ieee"
    begin = time.perf_counter()
    returns = episode_returns(policy, episodes).cpu()
    seconds = time.perf_counter() - begin
    steps = int(returns.sum())  # CartPole's reward is 1 a step.
    print(f"{episodes:,} episodes, {steps:,} steps in {seconds:.2f} s ({steps / seconds / 1e6:.1f} M steps/s)")
    quantiles = torch.quantile(returns[: 2**24], torch.tensor([0.01, 0.25, 0.5, 0.75])).tolist()
    error = float(returns.std()) / episodes**0.5
    print(f"mean {returns.mean():.2f} ± {error:.2f}, deviation {returns.std():.2f}, least {returns.min():.0f}")
    print("quantiles: " + ", ".join(f"{q}: {v:.0f}" for q, v in zip(("1 %", "25 %", "50 %", "75 %"), quantiles)))
    print(histogram(returns))
    return returns


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = 1_000_000 if torch.cuda.is_available() else 4_096
    parser.add_argument("--episodes", type=int, default=default, help=f"episodes to evaluate ({default} here)")
    arguments = parser.parse_args()
    main(arguments.episodes, lambda metrics: metrics["episodes"] >= 100 and metrics["episodic_return"] >= 475)
