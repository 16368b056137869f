"""Compare ten seeds of CartPole's preset with ten of a lower learning rate, and ask how far intervals can be trusted.

    python bench/seeds.py [--seeds 10]

Writes the picture and the tables of docs/seeds.md, one of which says how far intervals can be trusted, and the raw data
to results/seeds.json. Four minutes on two cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from machine import command, describe, refuse_below, write
from page import fill, table
from run_pictures import in_temporary_folder

from operant_gpu.cli import main as operant_gpu_command
from operant_gpu.cli.compare import said, share
from operant_gpu.monitor import Measure, compare

DOCS = Path(__file__).resolve().parents[1] / "docs"
COMMON = ("--goal", "inf", "--total-timesteps", "150000", "--device", "cpu", "--no-video")
SIDES = {"preset": (), "slow": ("--lr", "1e-3", "0")}
# Numbers of runs a side, and of the simulated comparisons.
RUNS, TRIALS = (3, 5, 10), 1000


@dataclass(frozen=True)
class Settings:
    """How much is trained."""

    seeds: int = 10
    """Of each setting."""


def main(settings: Settings) -> None:
    """Train, compare and write."""
    refuse_below(settings, seeds=2)
    with in_temporary_folder():
        for name, options in SIDES.items():
            words = ["train", "CartPole-v1", "--seeds", str(settings.seeds), "--run", name, *COMMON, *options]
            if status := operant_gpu_command(words):
                raise SystemExit(status)
        preset, slow = SIDES
        found = compare([preset], [slow], goal=475)
        found.draw(DOCS / "images" / "compare.png")
    write({**describe(), **found.numbers()}, None, "seeds")
    rows = [
        (one.label, *map(said, one.middle()), share(one.chance()))
        for measures in found.measures.values()
        for one in measures
        # Two trainings at once disturb each other.
        if one.name != "seconds"
    ]
    fill(DOCS / "seeds.md", "compared", table(("interquartile mean", "preset", "lr 0.001", "preset better"), rows))
    fill(DOCS / "seeds.md", "coverage", table(("runs a side", "interval holds the truth", "seems better"), coverage()))


def coverage() -> list[tuple[str, str, str]]:
    """Return how often intervals hold the truth, and how often one of two equal settings seems better, by simulation.

    Returns are drawn from a normal distribution, whose interquartile mean is its mean.
    """
    rng, rows = np.random.default_rng(0), []
    for runs in RUNS:
        held = seemed = 0
        for _ in range(TRIALS):
            measure = Measure("return", "", rng.normal(size=runs), rng.normal(size=runs))
            (_, low, high), _ = measure.middle()
            held += low <= 0 <= high
            chance = measure.chance()
            seemed += chance.low > 0.5 or chance.high < 0.5
        rows.append((str(runs), f"{held / TRIALS:.0%}", f"{seemed / TRIALS:.0%}"))
    return rows


if __name__ == "__main__":
    command(main, Settings)
