"""Storage of one iteration's steps, written in place by the environments, and their advantages."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from operant_gpu.vector import VecEnv


class Rollout:
    """Buffers of `n_steps` steps of every environment, time first.

    Attributes:
        obs: (n_steps + 1, num_envs, *shape), the last row what follows the last step.
        final_obs: (n_steps, num_envs, *shape), the observation after each step and before any reset.
        actions: (n_steps, num_envs, ...) as the policy drew them.
        log_probs, values, rewards: (n_steps, num_envs) float32.
        terminated, truncated: (n_steps, num_envs) bool.
        episode_return, episode_length: (n_steps, num_envs) of the episode so far.
    """

    def __init__(self, env: VecEnv, n_steps: int, action: Tensor) -> None:
        shape = env.single_observation_space.shape or ()
        size = int(torch.Size(shape).numel())

        def observations(steps: int) -> Tensor:
            # Component by component, as the environments store them.
            flat = torch.zeros(steps, size, env.num_envs, device=env.device).transpose(1, 2)
            return flat.view(steps, env.num_envs, *shape)

        def column(dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(n_steps, env.num_envs, dtype=dtype, device=env.device)

        self.obs, self.final_obs = observations(n_steps + 1), observations(n_steps)
        self.actions = torch.zeros(n_steps, *action.shape, dtype=action.dtype, device=env.device)
        self.log_probs, self.values, self.rewards = column(), column(), column()
        self.terminated, self.truncated = column(torch.bool), column(torch.bool)
        self.episode_return, self.episode_length = column(), column(torch.int32)

    def outputs(self, step: int) -> dict[str, Tensor]:
        """Return where the environments write step number `step`."""
        return {
            "obs": self.obs[step + 1],
            "final_obs": self.final_obs[step],
            "reward": self.rewards[step],
            "terminated": self.terminated[step],
            "truncated": self.truncated[step],
        }


class Batch(NamedTuple):
    """Steps to learn from: tensors whose first axis is the step."""

    obs: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Return generalized advantage estimates (Schulman et al., 2016, equation 16).

    A terminated episode is worth nothing further; a truncated one is worth the value of its final observation.
    Neither lets the advantages of the next episode through.

    Args:
        rewards: (n_steps, num_envs), as are all the others.
        values: Of the observations before each step.
        next_values: Of the observations after each step, before any reset.
        terminated: Whether the step ended its episode for good.
        truncated: Whether the time limit cut its episode.
        gamma: Discount factor.
        lam: Weight of longer returns.
    """
    deltas = rewards + gamma * next_values * ~terminated - values
    carries = gamma * lam * ~(terminated | truncated)
    advantages = torch.empty_like(rewards)
    running = torch.zeros_like(rewards[0])
    for step in reversed(range(len(rewards))):
        running = deltas[step] + carries[step] * running
        advantages[step] = running
    return advantages
