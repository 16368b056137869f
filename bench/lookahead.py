"""Let a policy look ahead: it tries every action in copies of the environment, and plays on in them.

    python bench/lookahead.py --policy build/policies/Game2048-v0.pt --json bench/results/lookahead.json

Of each legal action so many samples are taken, in copies with other draws, followed by so many steps of the policy's
likeliest actions and by what the critic expects of the rest. The action with the best mean is played. Nothing more is
learned: this is what the same network reaches where there is time to simulate. The policy alone plays as well.
Copies have no time limit: what it would cut off counts as if it went on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from levels import half_interval
from machine import RESULTS, append, command, refuse_below
from page import table
from pqn import Act, play
from torch import Tensor

import operant_gpu
from operant_gpu import VecEnv
from operant_gpu.models import PPO
from operant_gpu.models.presets import mean_with, millions

DATA = RESULTS / "lookahead.json"
# Of the game in the table, of which is told how many games have them.
GAME, TILES = "Game2048-v0", range(9, 14)


@dataclass(frozen=True)
class Settings:
    """Let a policy look ahead."""

    policy: Path
    """Policy of PPO, without memory, for discrete actions."""
    env: str = GAME
    """Environment that it plays."""
    games: int = 100
    """Episodes, played side by side."""
    samples: int = 8
    """Copies for each action."""
    steps: int = 0
    """Steps that the policy takes in each copy, after the action."""
    seed: int = 1
    """Seed of the environments."""
    json: Path | None = None
    """Where to add what was measured, if anywhere."""


class Lookahead:
    """Chooses the action whose copies fare best.

    Args:
        learner: Its policy plays in the copies, and its critic values where they end.
        env: Id of the environment.
        games: How many environments are to be acted in.
        samples: Copies for each action.
        steps: Steps that the policy takes in each copy, after the action.

    Raises:
        SystemExit: If it cannot look ahead with this policy in this environment.
    """

    def __init__(self, learner: PPO, env: str, games: int, samples: int, steps: int) -> None:
        actions, gamma = learner.env.single_action_space, learner.config.gamma
        if not isinstance(actions, spaces.Discrete) or not isinstance(gamma, float):
            raise SystemExit(f"--policy: expected discrete actions and a gamma that stays, got {actions} and {gamma}")
        self._learner, self._samples, self._steps, self._gamma = learner, samples, steps, gamma
        self._choices = int(actions.n)
        self._sources = torch.arange(games).repeat_interleave(self._choices * samples)
        self._first = torch.arange(self._choices).repeat_interleave(samples).repeat(games)
        copies = len(self._sources)
        self._copies = operant_gpu.make(env, copies, device="cpu", autoreset_mode="disabled", max_episode_steps=-1)
        # The critic values scaled rewards.
        scaler = learner.reward_normalizer
        self._scale = 1.0 if scaler is None else 1.0 / float(scaler.scale)

    def __call__(self, env: VecEnv) -> Tensor:
        """Return actions (games,)."""
        copies, gamma = self._copies, self._gamma
        copies.restore(env.snapshot(self._sources), new_streams=True)
        total, running, actions = torch.zeros(copies.num_envs), torch.ones(copies.num_envs), self._first
        for step in range(self._steps + 1):
            obs, reward, terminated, _, _ = copies.step(actions)
            total += gamma**step * running * reward
            running = running * ~terminated
            if step < self._steps:
                actions = self._learner.predict(obs, action_mask=copies.action_mask)
        with torch.no_grad():
            rest = self._learner.policy.value(obs, None, None) * self._scale
        total += gamma ** (self._steps + 1) * running * rest
        means = total.reshape(env.num_envs, self._choices, self._samples).mean(2)
        if env.action_mask is not None:
            means = means.masked_fill(~env.action_mask, -torch.inf)
        return means.argmax(1)


def main(settings: Settings) -> None:
    """Play with and without looking ahead; write."""
    refuse_below(settings, games=2, samples=1, steps=0)
    torch.set_num_threads(1)
    env = operant_gpu.make(settings.env, settings.games, device="cpu", autoreset_mode="disabled")
    learner = PPO.load(settings.policy, operant_gpu.make(settings.env, 1, device="cpu"))
    ahead = Lookahead(learner, settings.env, settings.games, settings.samples, settings.steps)
    ways: dict[str, Act] = {
        "policy": lambda env: learner.predict(env.observe(), action_mask=env.action_mask),
        "lookahead": ahead,
    }
    about = {name: value for name, value in asdict(settings).items() if name not in ("policy", "json")}
    measured: dict[str, Any] = {"settings": about, "timesteps": learner.timesteps}
    for name, act in ways.items():
        begun = time.process_time()
        returns = play(env, act, settings.seed)
        seconds = time.process_time() - begun
        half = half_interval(returns.tolist())
        measured[name] = {"mean": float(returns.mean()), "half_interval": half, "seconds": seconds}
        if settings.env == GAME:
            highest = env.state[0].flatten(1).amax(1)
            measured[name]["tiles"] = {str(2**power): int((highest >= power).sum()) for power in TILES}
        print(name, measured[name], flush=True)
    if settings.json:
        append(measured, settings.json)


def table_of(runs: Sequence[dict[str, Any]]) -> str:
    """Return a row for each way of playing 2048: policies, each without and with a look ahead.

    Args:
        runs: On record.
    """
    rows: dict[tuple[int, ...], list[str]] = {}
    for run in runs:
        about, timesteps, games = run["settings"], run["timesteps"], run["settings"]["games"]
        if about["env"] != GAME:
            continue
        for name, ahead, copies in (("policy", 0, 0), ("lookahead", about["steps"] + 1, about["samples"])):
            played = run[name]
            # Each run plays without a look ahead as well; of runs that did the same the last is shown.
            rows[timesteps, ahead, copies, games] = [
                millions(timesteps),
                str(ahead),
                str(copies or ""),
                str(games),
                mean_with(played["mean"], played["half_interval"]),
                *(f"{count / games:.0%}" for count in list(played["tiles"].values())[1:]),
                f"{played['seconds'] / games:,.1f}",
            ]
    tiles = [f"tile {2**power:,}" for power in TILES[1:]]
    headings = ("steps learned", "steps ahead", "copies", "games", "mean return", *tiles, "seconds a game")
    return table(headings, [rows[key] for key in sorted(rows)])


if __name__ == "__main__":
    command(main, Settings)
