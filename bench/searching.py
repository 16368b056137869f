"""Search games with `examples/search.py` and train from hard starts with `examples/hard_starts.py`, several seeds each.

    python bench/searching.py                  # all games and trainings; about half an hour on one core
    python bench/searching.py --games MinAtar-Breakout-v1 --trainings 0
    python bench/searching.py --table          # the guide's tables anew, of what is on record

Beside each game's search stand random play with as many steps, and the level of PPO's preset on record. The two are not
alike: the search looks for one lucky episode in a simulator, PPO's level is the mean of episodes that a policy played.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from levels import half_interval
from machine import RESULTS, command, describe, refuse_below, write
from page import fill, table
from PIL import Image

import operant_gpu
from operant_gpu import Snapshot
from operant_gpu.models.presets import LEVELS, Level, mean_with

ROOT = Path(__file__).parent.parent
DATA, PAGE = RESULTS / "search.json", ROOT / "docs" / "branch_restore_replay.md"
MINATAR = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
GAMES = ("Game2048-v0", *(f"MinAtar-{name}-v1" for name in MINATAR))
# Environments of the trainings, and their steps.
STARTS = {"Bridge-v0": 400_000, "FrozenLake8x8-v1": 500_000, "MinAtar-Breakout-v1": 500_000}
# Games whose best states are drawn, and the files.
PICTURES = {"Game2048-v0": "search-game2048.png", "MinAtar-Breakout-v1": "search-breakout.png"}


@dataclass(frozen=True)
class Settings:
    """Search games, and train from hard starts."""

    games: tuple[str, ...] = GAMES
    """Games to search."""
    seeds: int = 3
    """Searches of each game."""
    trainings: int = 10
    """Seeds of trainings with and without hard starts; 0 for none."""
    rows: int = 4096
    """Environments to search with."""
    steps: int = 3000
    """Most steps of an episode."""
    images: Path | None = None
    """Where to draw the best states found, if anywhere."""
    json: Path = DATA
    """Where to write what was measured; what was not measured now stays."""
    table: bool = False
    """Whether to write the guide's tables of what is on record, and measure nothing."""


def example(name: str) -> Any:
    """Return the module of an example."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def searched(game: str, seed: int, settings: Settings) -> tuple[dict[str, Any], Snapshot]:
    """Return what random play and a search reach with one seed, and the best state found."""
    searching = example("search")
    env = operant_gpu.make(game, settings.rows, device="cpu", autoreset_mode="disabled")
    env.reset(seed=seed)
    mean, highest = searching.random_play(env, settings.steps)
    env.reset(seed=seed)
    begun = time.process_time()
    best = searching.search(env, settings.steps)
    seconds = time.process_time() - begun
    found = {"best": float(best.clock["episode_return"]), "length": int(best.clock["elapsed"]), "seconds": seconds}
    return {"seed": seed, "random_mean": mean, "random_best": highest, **found}, best


def draw(game: str, best: Snapshot, path: Path) -> None:
    """Write a picture of a state."""
    env = operant_gpu.make(game, len(best), device="cpu", autoreset_mode="disabled", render_mode="rgb_array")
    env.restore(best)
    (frame,) = env.render() or ()
    Image.fromarray(frame).quantize(32).save(path, optimize=True)


def main(settings: Settings) -> None:
    """Search, train, write; or write the tables alone."""
    refuse_below(settings, seeds=1, trainings=0, rows=1, steps=1)
    report = json.loads(settings.json.read_text()) if settings.json.exists() else {"search": {}, "hard_starts": {}}
    if settings.table:
        render(report, settings.json)
        return
    torch.set_num_threads(1)
    for game in settings.games:
        runs: list[dict[str, Any]] = []
        report["search"][game] = {"rows": settings.rows, "steps": settings.steps, "runs": runs}
        pictured = -1.0
        for seed in range(settings.seeds):
            run, best = searched(game, seed, settings)
            print(game, run, flush=True)
            runs.append(run)
            if settings.images and game in PICTURES and run["best"] > pictured:
                pictured = run["best"]
                draw(game, best, settings.images / PICTURES[game])
        write(report | describe(), settings.json)
    for env, steps in STARTS.items() if settings.trainings else ():
        runs = []
        report["hard_starts"][env] = {"steps": steps, "runs": runs}
        train = example("hard_starts").train
        for seed in range(settings.trainings):
            run = {"seed": seed, "with": train(seed, True, env, steps), "without": train(seed, False, env, steps)}
            print(env, run, flush=True)
            runs.append(run)
        write(report | describe(), settings.json)
    render(report, settings.json)


def render(report: dict[str, Any], path: Path) -> None:
    """Print the tables; write those of the record into the guide."""
    texts = {"search": table_of(report, LEVELS), "hard_starts": hard_starts_table(report["hard_starts"])}
    print(*texts.values(), sep="\n\n")
    for mark, text in texts.items() if path == DATA else ():
        fill(PAGE, mark, text)


def table_of(report: dict[str, Any], levels: Mapping[str, Level]) -> str:
    """Return a row for each game: random play, each seed's search, its seconds, and PPO's level.

    Args:
        report: On record.
        levels: Of PPO's presets.
    """
    rows = []
    for game, entry in report["search"].items():
        runs, level = entry["runs"], levels[game]
        seconds = statistics.mean(run["seconds"] for run in runs)
        rate = entry["rows"] * sum(run["length"] for run in runs) / sum(run["seconds"] for run in runs)
        mean, highest = statistics.mean(run["random_mean"] for run in runs), max(run["random_best"] for run in runs)
        found = ", ".join(f"{run['best']:,.0f}" for run in runs)
        cells = (f"{mean:,.1f}", f"{highest:,.0f}", found, f"{seconds:.1f}", f"{rate / 1e6:.2f}")
        rows.append((f"`{game}`", *cells, mean_with(level.mean_return, level.half_interval)))
    measures = ("random, mean", "random, best", "search, best by seed", "seconds", "M steps/s", "PPO, mean")
    return table(("environment", *measures), rows)


def hard_starts_table(entries: Mapping[str, Any]) -> str:
    """Return the mean return after training with and without hard starts, and of the difference seed by seed.

    Args:
        entries: On record, by environment.
    """
    rows = []
    for env, entry in entries.items():
        own = {name: [run[name] for run in entry["runs"]] for name in ("with", "without")}
        own["difference"] = [more - less for more, less in zip(own["with"], own["without"], strict=True)]
        for name, values in own.items():
            each = ", ".join(f"{value:.2f}" for value in values)
            rows.append((f"`{env}`", name, mean_with(statistics.mean(values), half_interval(values)), each))
    return table(("environment", "hard starts", "mean return", "by seed"), rows, left=2)


if __name__ == "__main__":
    command(main, Settings)
