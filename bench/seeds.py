"""What `train --seeds` and `compare` show: the preset of CartPole beside a lower learning rate, ten seeds of each.

    python bench/seeds.py [--seeds 10]

Writes the picture and the table of docs/seeds.md, and the raw data to results/seeds.json. Two minutes on two cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from machine import command, describe, refuse_below, write
from page import fill, table
from run_pictures import in_temporary_folder

from operant_gpu.cli import main as operant_gpu_command
from operant_gpu.cli.compare import said, share
from operant_gpu.monitor import compare

DOCS = Path(__file__).resolve().parents[1] / "docs"
COMMON = ("--goal", "inf", "--total-timesteps", "150000", "--device", "cpu", "--no-video")
SIDES = {"preset": (), "slow": ("--lr", "1e-3")}


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


if __name__ == "__main__":
    command(main, Settings)
