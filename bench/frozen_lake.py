"""Train the presets of FrozenLake, and hold what is learned against the best that there is.

    python bench/frozen_lake.py [--seeds 10] [--episodes 10000]

The best is worked out from Gymnasium's table of transitions: the chance to arrive in time of a walker who knows how
many steps are left. Writes bench/results/frozen-lake.json and the section of docs/results.md.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
import tyro
from machine import RESULTS, describe, write
from page import table

import operant_gpu
from operant_gpu.models import PPO, PPOConfig, evaluate

LAKES = ("FrozenLake-v1", "FrozenLake8x8-v1")


@dataclass
class Settings:
    """How much is measured."""

    seeds: int = 10
    """Of each map."""
    episodes: int = 10_000
    """Of each evaluation."""


def main(settings: Settings) -> None:
    """Train, write the raw data, write the section."""
    torch.set_num_threads(1)
    lakes = {name: [trained(name, seed, settings.episodes) for seed in range(settings.seeds)] for name in LAKES}
    report = {**describe(), "episodes": settings.episodes, "lakes": lakes}
    print(f"written to {write(report, None, 'frozen-lake')}")
    (RESULTS / "frozen-lake.md").write_text(section(report))


def trained(name: str, seed: int, episodes: int) -> dict[str, float]:
    """Return how often a policy of the preset arrives, and the seconds and steps that it took to train."""
    config = PPOConfig.for_env(name, seed=seed)
    learner = PPO(operant_gpu.make(name, config.num_envs, device="cpu"), config)
    started = time.perf_counter()
    learner.learn()
    seconds = time.perf_counter() - started
    share = evaluate(learner, episodes).mean
    print(f"{name} seed {seed}: {share:.4f} in {seconds:.1f} s", flush=True)
    return {"share": share, "seconds": seconds, "timesteps": learner.timesteps}


def best(name: str) -> float:
    """Return the greatest chance to arrive within the limit, by backward induction."""
    spec = gymnasium.spec(name)
    transitions = gymnasium.make(name).unwrapped.P  # type: ignore[attr-defined]
    values = [0.0] * len(transitions)
    for _ in range(spec.max_episode_steps or 0):
        values = [
            max(
                sum(chance * (reward + (0.0 if over else values[place])) for chance, place, reward, over in moves)
                for moves in transitions[state].values()
            )
            for state in transitions
        ]
    return values[0]


def section(report: dict[str, Any]) -> str:
    """Return the part of docs/results.md."""
    rows = []
    for name, runs in report["lakes"].items():
        shares, seconds = [run["share"] for run in runs], [run["seconds"] for run in runs]
        rows.append(
            [
                f"`{name}`",
                f"{int(runs[0]['timesteps']):,}",
                f"{statistics.mean(shares):.3f} [{min(shares):.3f}, {max(shares):.3f}]",
                f"{best(name):.3f}",
                f"{statistics.median(seconds):.1f}",
            ]
        )
    headings = ["map", "steps", "ours", "best", "seconds"]
    seeds = len(report["lakes"][LAKES[0]])
    texts = (
        "## FrozenLake\n",
        "[`bench/frozen_lake.py`](../bench/frozen_lake.py) trains the presets on slippery ice. This is how often their",
        f"policies arrive in time, in {report['episodes']:,} episodes: means of {seeds} seeds, with [least, most]. The",
        "best walker there is knows how many steps are left; the policy does not. Seconds are medians on one core.\n",
        table(headings, rows),
    )
    return "\n".join(texts) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Settings))
