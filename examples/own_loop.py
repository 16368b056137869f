"""PPO in one file, on CartPole-v1: a training loop of your own.

`by_steps` steps the environments from Python, with any PyTorch module as the policy.
`by_rollout` takes all steps of an iteration in one call, with an `MLPPolicy`.

    python examples/own_loop.py --collect steps
    python examples/own_loop.py --collect rollout
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.optim import Adam, Optimizer

import operant_gpu
from operant_gpu import VecEnv
from operant_gpu.models import MLPPolicy, PPOConfig

NUM_ENVS, NUM_STEPS, ITERATIONS = 64, 32, 50
EPOCHS, MINIBATCH, LR = 4, 512, 5e-3
GAMMA, GAE_LAMBDA, CLIP_EPS, MAX_GRAD_NORM = 0.98, 0.9, 0.2, 0.5
FLOATS = ("reward", "log_prob", "value", "final_value")
FLAGS = ("terminated", "truncated")

# Takes the steps of an iteration; returns what they gave, (NUM_STEPS, NUM_ENVS, ...) by name.
Collect = Callable[[], dict[str, Tensor]]


class Agent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = self._layers(2), self._layers(1)

    @staticmethod
    def _layers(outputs: int) -> nn.Module:
        hidden = nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()
        return nn.Sequential(*hidden, nn.Linear(64, outputs))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of actions, and values."""
        return self.actor(obs), self.critic(obs).squeeze(-1)

    def decide(self, obs: Tensor) -> tuple[Categorical, Tensor]:
        """Return the distribution of actions, and values."""
        logits, value = self(obs)
        # The checks of its arguments would wait for the GPU.
        return Categorical(logits=logits, validate_args=False), value

    def evaluate(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probabilities, entropies and values, as an `MLPPolicy` does."""
        actions, value = self.decide(obs)
        return actions.log_prob(action), actions.entropy(), value


def by_steps(env: VecEnv, obs: Tensor) -> tuple[Agent, Collect]:
    """Return a policy and what collects steps with it; `obs` are the first observations."""
    agent = Agent().to(env.device)
    zeros = torch.zeros(NUM_STEPS, NUM_ENVS, device=env.device)
    stored = {name: zeros.clone() for name in FLOATS}
    stored |= {name: zeros.bool() for name in FLAGS}
    stored["policy_action"] = zeros.long()
    # One row more: the observations that the next iteration begins with.
    rows = obs.repeat(NUM_STEPS + 1, 1, 1)
    stored["obs"], stored["final_obs"] = rows[:-1], torch.zeros_like(rows[:-1])

    @torch.no_grad()
    def collect() -> dict[str, Tensor]:
        rows[0] = rows[-1]
        for t in range(NUM_STEPS):
            actions, stored["value"][t] = agent.decide(rows[t])
            action = actions.sample()
            stored["policy_action"][t] = action
            stored["log_prob"][t] = actions.log_prob(action)
            # Without `out`, each step overwrites what the last one returned.
            out = {name: stored[name][t] for name in ("reward", "final_obs", *FLAGS)}
            env.step(action, out={**out, "obs": rows[t + 1]})
        # The time limit and the end of the iteration cut episodes that would have gone on.
        # What follows is worth the value of `final_obs`: `obs` may be of another episode.
        # A step can be truncated and terminated: then nothing follows.
        is_cut = stored["truncated"].clone()
        is_cut[-1] = True
        _, value = agent(stored["final_obs"])
        stored["final_value"].copy_(value * (is_cut & ~stored["terminated"]))
        return stored

    return agent, collect


def by_rollout(env: VecEnv, seed: int) -> tuple[MLPPolicy, Collect]:
    """Do as `by_steps`, with an `MLPPolicy`: the rollout draws, and gives `final_value` too."""
    config = PPOConfig(hidden_sizes=(64, 64), seed=seed)
    policy = MLPPolicy(env.single_observation_space, env.single_action_space, config)
    policy.to(env.device)
    names = ["obs", "policy_action", *FLOATS, *FLAGS]
    return policy, lambda: env.rollout(NUM_STEPS, policy, out=names)


def advantages(stored: dict[str, Tensor]) -> Tensor:
    """Return generalised advantage estimates; Schulman et al., 2016."""
    value, final_value = stored["value"], stored["final_value"]
    ended = stored["terminated"] | stored["truncated"]
    following = torch.cat([value[1:], final_value[-1:]])
    following = torch.where(ended, final_value, following)
    delta = stored["reward"] + GAMMA * following - value
    result, estimate = torch.zeros_like(value), torch.zeros_like(value[0])
    for t in reversed(range(len(value))):
        estimate = delta[t] + GAMMA * GAE_LAMBDA * ~ended[t] * estimate
        result[t] = estimate
    return result


def update(policy: Agent | MLPPolicy, optimizer: Optimizer, stored: dict[str, Tensor]) -> None:
    """Learn from the steps of one iteration; Schulman et al., 2017."""
    gains = advantages(stored)
    kept = [stored[name] for name in ("obs", "policy_action", "log_prob")]
    columns = [column.flatten(0, 1) for column in (*kept, gains, gains + stored["value"])]
    for _ in range(EPOCHS):
        order = torch.randperm(NUM_STEPS * NUM_ENVS, device=gains.device)
        for rows in order.view(-1, MINIBATCH):
            obs, action, old_log_prob, gain, target = (column[rows] for column in columns)
            log_prob, _, value = policy.evaluate(obs, action)
            ratio = (log_prob - old_log_prob).exp()
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            clipped = ratio.clamp(1 - CLIP_EPS, 1 + CLIP_EPS)
            policy_loss = -torch.minimum(ratio * gain, clipped * gain).mean()
            loss = policy_loss + 0.5 * (value - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), MAX_GRAD_NORM)
            optimizer.step()


def main(how: str, seed: int = 0) -> float:
    """Train; return the mean return of the episodes that ended in the last ten iterations."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # more do not help networks as small as these
    env = operant_gpu.make("CartPole-v1", NUM_ENVS)
    obs, _ = env.reset(seed=seed)
    policy, collect = by_steps(env, obs) if how == "steps" else by_rollout(env, seed)
    optimizer = Adam(policy.parameters(), lr=LR)
    for iteration in range(1, ITERATIONS + 1):
        update(policy, optimizer, collect())
        optimizer.param_groups[0]["lr"] = LR * (1 - iteration / ITERATIONS)
        if iteration % 10 == 0:
            mean = env.get_logs(clear=True)["mean_reward"]
            print(f"{iteration * NUM_STEPS * NUM_ENVS:>7,} steps: mean return {mean:.1f}")
    return mean


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collect", choices=["steps", "rollout"], default="steps")
    main(parser.parse_args().collect)
