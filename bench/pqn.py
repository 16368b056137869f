"""Prototype of PQN (Gallici et al., 2024, arXiv:2407.04811), to see what a second learner would give on the games.

    python bench/pqn.py --env MinAtar-Seaquest-v1 --json bench/results/pqn.json

A network of values of actions with normalised layers, lambda-returns of a rollout as its targets, no replay and no
second network: so it fits environments that are stepped together. The published settings for MinAtar are the defaults;
what the convolution finds is normalised over all cells together. Nothing is fused: PyTorch on one core. At the end it
plays with its best actions.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from machine import RESULTS, append, command
from page import table
from torch import Tensor, nn

import operant_gpu
from operant_gpu import VecEnv
from operant_gpu.models.evaluation import STEP_LIMIT
from operant_gpu.models.presets import millions

DATA = RESULTS / "pqn.json"
Act = Callable[[VecEnv], Tensor]
# Points of the curve.
POINTS = 100


@dataclass(frozen=True)
class Settings:
    """Learn a game with PQN."""

    env: str = "MinAtar-Seaquest-v1"
    """Environment whose observations are channels of cells."""
    seed: int = 0
    """Of weights, environments and draws."""
    steps: int = 10_000_000
    """Environment steps."""
    num_envs: int = 128
    """Environments."""
    n_steps: int = 32
    """Steps of each in an iteration."""
    n_epochs: int = 2
    """Passes over an iteration's steps."""
    minibatches: int = 32
    """Minibatches of a pass."""
    lr: float = 5e-4
    """Of RAdam, falling to 0."""
    gamma: float = 0.99
    """Discount factor."""
    lambda_: float = 0.65
    """Weight of longer returns."""
    epsilon: float = 0.05
    """Probability of an action by chance, after it has fallen from 1."""
    fall: float = 0.1
    """Part of the training in which it falls."""
    max_grad_norm: float = 10.0
    """Norm to which gradients are clipped."""
    channels: int = 16
    """Channels of the convolution."""
    width: int = 128
    """Units of the hidden layer."""
    episodes: int = 500
    """Episodes that the best actions play at the end."""
    json: Path | None = None
    """Where to add what was measured, if anywhere."""


def main(settings: Settings) -> None:
    """Learn, play, write."""
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    env = operant_gpu.make(settings.env, settings.num_envs, device="cpu")
    network = network_of(env, settings)
    curve = learn(env, network, settings)
    others = operant_gpu.make(settings.env, settings.episodes, device="cpu")
    returns = play(others, lambda env: network(env.observe().float()).argmax(1), settings.seed + 1_000_000)
    print(f"{settings.env} seed {settings.seed}: the best actions play {returns.mean():.4g}")
    if settings.json:
        about = {name: value for name, value in asdict(settings).items() if name != "json"}
        run = {"settings": about, "evaluation": float(returns.mean()), "curve": curve}
        append(run, settings.json)


def network_of(env: VecEnv, settings: Settings) -> nn.Module:
    """Return a network from observations to the value of each action, normalised after each layer."""
    actions, shape = env.single_action_space, env.single_observation_space.shape or ()
    if not isinstance(actions, spaces.Discrete) or len(shape) != 3:
        raise SystemExit(f"--env: expected discrete actions and channels of cells to see, got {settings.env}")
    if env.action_mask is not None:
        raise SystemExit(f"--env: expected that every action may be taken, and {settings.env} masks some")
    planes, height, width = shape
    hidden = nn.Linear(settings.channels * (height - 2) * (width - 2), settings.width)
    return nn.Sequential(
        *(nn.Conv2d(planes, settings.channels, 3), nn.GroupNorm(1, settings.channels), nn.ReLU(), nn.Flatten()),
        *(hidden, nn.LayerNorm(settings.width), nn.ReLU(), nn.Linear(settings.width, int(actions.n))),
    )


def learn(env: VecEnv, network: nn.Module, settings: Settings) -> dict[str, list[float]]:
    """Train; return columns seconds, timesteps and mean_return (of the last 100 episodes).

    Where an episode is cut off it counts as over: the games have no time limit.
    """
    size = settings.n_steps * settings.num_envs
    iterations = max(1, settings.steps // size)
    optimizer = torch.optim.RAdam(network.parameters(), settings.lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, iterations)
    last: deque[float] = deque(maxlen=100)
    curve: dict[str, list[float]] = {"seconds": [], "timesteps": [], "mean_return": []}
    obs, _ = env.reset(seed=settings.seed)
    started = time.perf_counter()
    for iteration in range(iterations):
        fallen = min(1.0, iteration / max(1.0, settings.fall * iterations))
        epsilon = 1.0 + (settings.epsilon - 1.0) * fallen
        seen, acted, targets, obs = collect(env, network, obs, epsilon, last, settings)
        for _ in range(settings.n_epochs):
            for part in torch.randperm(size).chunk(settings.minibatches):
                values = network(seen[part].float()).gather(1, acted[part, None]).squeeze(1)
                optimizer.zero_grad()
                (0.5 * (values - targets[part]).square().mean()).backward()
                nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
                optimizer.step()
        schedule.step()
        due = (iteration + 1) % max(1, iterations // POINTS) == 0 or iteration + 1 == iterations
        if last and due:
            curve["seconds"].append(round(time.perf_counter() - started, 1))
            curve["timesteps"].append((iteration + 1) * size)
            curve["mean_return"].append(round(sum(last) / len(last), 3))
            print(*(f"{name} {column[-1]}" for name, column in curve.items()), flush=True)
    return curve


@torch.no_grad()
def collect(
    env: VecEnv, network: nn.Module, obs: Tensor, epsilon: float, last: deque[float], settings: Settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Step the environments; return observations, actions and their targets, and the observations now."""
    seen, acted, rewards, going, best = [], [], [], [], []
    for _ in range(settings.n_steps):
        values = network(obs.float())
        chosen, number = values.argmax(1), values.shape[1]
        by_chance = torch.rand(settings.num_envs) < epsilon
        actions = torch.where(by_chance, torch.randint(number, (settings.num_envs,)), chosen)
        seen.append(obs.clone())
        acted.append(actions)
        best.append(values.amax(1))
        obs, reward, terminated, truncated, info = env.step(actions)
        ended = terminated | truncated
        rewards.append(reward.clone())
        going.append(~ended)
        if ended.any():
            last.extend(info["episode"]["r"][ended].tolist())
    best.append(network(obs.float()).amax(1))
    targets = [rewards[-1] + settings.gamma * going[-1] * best[-1]]
    for step in reversed(range(settings.n_steps - 1)):
        ahead = settings.lambda_ * targets[-1] + (1.0 - settings.lambda_) * best[step + 1]
        targets.append(rewards[step] + settings.gamma * going[step] * ahead)
    return torch.cat(seen), torch.cat(acted), torch.cat(targets[::-1]), obs


def table_of(runs: Sequence[dict[str, Any]], ppo: Callable[[str, int], tuple[str, str]]) -> str:
    """Return a row for each MinAtar game on record, beside PPO after as many steps.

    Args:
        runs: On record; of two of a game with as many steps the later is shown.
        ppo: What PPO's policy plays and its mean return in training, of a game and a number of steps.
    """
    rows = {
        (env, steps): [
            f"`{env}`",
            millions(steps),
            f"{run['evaluation']:.1f}",
            f"{run['curve']['mean_return'][-1]:.1f}",
            *ppo(env, steps),
        ]
        for run in runs
        for env, steps in [(run["settings"]["env"], run["settings"]["steps"])]
        if env.startswith("MinAtar-")
    }
    headings = ("environment", "steps", "PQN, policy", "PQN, in training", "PPO, policy", "PPO, in training")
    return table(headings, [rows[key] for key in sorted(rows)])


@torch.no_grad()
def play(env: VecEnv, act: Act, seed: int) -> Tensor:
    """Return the return of the first episode in each environment, or of its first steps if it goes on for ever."""
    env.reset(seed=seed)
    returns, running = torch.zeros(env.num_envs), torch.ones(env.num_envs, dtype=torch.bool)
    for _ in range(STEP_LIMIT):
        _, reward, terminated, truncated, _ = env.step(act(env))
        returns += reward * running
        running &= ~(terminated | truncated)
        if not running.any():
            break
    return returns


if __name__ == "__main__":
    command(main, Settings)
