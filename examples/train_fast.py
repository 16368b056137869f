"""CartPole from nothing to solved, and where the seconds go: `python examples/train_fast.py`.

The first run on a machine compiles the kernels; those after it find them on disk.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import torch  # noqa: E402

import operant_gpu  # noqa: E402
from operant_gpu.models import PPO, PPOConfig  # noqa: E402

EPISODES, OTHER_SEED = 100, 1


def main(goal: float = 475.0, seed: int = 0) -> float:
    """Train until the mean return of the last 100 episodes reaches the goal; return that of 100 new ones."""
    marks = {"imports": time.perf_counter() - STARTED}

    def mark(name: str) -> None:
        marks[name] = time.perf_counter() - STARTED - sum(marks.values())

    config = PPOConfig.for_env("CartPole-v1", seed=seed)
    env = operant_gpu.make("CartPole-v1", config.num_envs)
    learner = PPO(env, config)
    learner.learn(2 * config.n_steps * config.num_envs)
    mark("first two iterations, with compilation")
    learner.learn(callback=lambda now: not (now["episodes"] >= EPISODES and now["episodic_return"] >= goal))
    mark(f"training, {learner.timesteps:,} steps in all")
    mean = evaluate(learner)
    mark(f"evaluation, {EPISODES} episodes")

    print(f"{env}\nengine: {learner.engine}, since {learner.engine_reason}")
    for name, seconds in marks.items():
        print(f"{seconds:7.2f} s  {name}")
    print(f"mean return of {EPISODES} episodes in other environments: {mean:.1f} (goal {goal:g})")
    return mean


def evaluate(learner: PPO) -> float:
    """Return the mean return of the likeliest actions, over the first episode of each environment."""
    env = operant_gpu.make("CartPole-v1", EPISODES, device=learner.env.device)
    obs, _ = env.reset(seed=OTHER_SEED)
    act = learner.controller()
    total, goes_on = torch.zeros(EPISODES, device=env.device), torch.ones(EPISODES, device=env.device)
    while goes_on.any():
        obs, reward, terminated, truncated, _ = env.step(act(obs))
        total += goes_on * reward
        goes_on *= ~(terminated | truncated)
    return float(total.mean())


if __name__ == "__main__":
    main()
