"""Figures that pages say in words are those of the raw data, and the same on every page."""

from __future__ import annotations

import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from here import ROOT

RESULTS, MACHINE = ROOT / "bench" / "results", "intel-r-xeon-r-processor"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def rates(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return millions of steps a second by contender."""
    return {row["contender"]: row["per_second"] / 1e6 for row in rows}


def first_training() -> tuple[str, ...]:
    """Return what `operant-gpu train CartPole-v1` prints: its seed is 0."""
    runs = read(f"learning-{MACHINE}")["environments"]["CartPole-v1"]["runs"]
    (run,) = [run for run in runs if (run["contender"], run["seed"]) == ("operant_gpu", 0)]
    return f"{run['mean_return']:.1f}", f"{run['timesteps']:,}", f"{run['seconds']:.1f}"


def steps_to_solve() -> tuple[str, ...]:
    runs = read(f"learning-{MACHINE}")["environments"]["CartPole-v1"]["runs"]
    return (f"{statistics.median(run['timesteps'] for run in runs if run['contender'] == 'operant_gpu'):,.0f}",)


def beside_gymnasium() -> tuple[str, ...]:
    found = rates(read(MACHINE)["sizes"]["4096"])
    times = {name: found[name] / found["step, gymnasium vector"] for name in found}
    several = (f"{times[name]:.0f}" for name in ("rollout random, numba", "rollout given, numba"))
    return f"{times['step, numba']:.1f}", *several


def with_a_policy() -> tuple[str, ...]:
    return (f"{read('policy-steps')['sizes']['4096']['rollout']['per_second'] / 1e6:.2f}",)


def newest_seconds() -> tuple[str, ...]:
    """Return the median seconds until CartPole is solved, of ours and of Stable-Baselines3."""
    runs = read(f"learning-{MACHINE}")["environments"]["CartPole-v1"]["runs"]
    each = ([run["seconds"] for run in runs if run["contender"] == name] for name in ("operant_gpu", "sb3"))
    return tuple(f"{statistics.median(one):.1f}" for one in each)


def on_gpu() -> dict[str, Any]:
    return {row["what"]: row["data"] for rows in read("gpu-nvidia-h200")["stages"].values() for row in rows}


def trained_on_gpu() -> tuple[str, ...]:
    return (f"{on_gpu()['trains: fused, 16,384 x 32, by 65,536']['steps_per_second'] / 1e6:.0f}",)


def passed_on_gpu() -> tuple[str, ...]:
    return (str(sum("::" in row["what"] for row in read("gpu-nvidia-h200")["stages"]["f"])),)


def breakout_on_gpu() -> tuple[str, ...]:
    return (f"{on_gpu()['MinAtar-Breakout-v1 65,536: rollout random, cuda']['per_second'] / 1e6:,.0f}",)


def twins(env: str, fast: str, slow: str, places: int) -> tuple[str, ...]:
    """Return the least and the most times that one language is as fast as the other."""
    found = rates(read(f"games-{MACHINE}")["twins"][env])
    ways = {name.split(", ")[0] for name in found}
    times = sorted(found[f"{way}, {fast}"] / found[f"{way}, {slow}"] for way in ways)
    return f"{times[0]:.{places}f}", f"{times[-1]:.{places}f}"


def eager_speed() -> tuple[str, ...]:
    found = {row["num_envs"]: row for row in read(f"{MACHINE}-ppo-cartpole-v1")["rows"] if row["engine"] == "eager"}
    few, many = (found[size] for size in (64, 4096))
    speeds = (few["steps_per_second"], many["steps_per_second"], many["slowest"], many["fastest"])
    return tuple(f"{speed / 1e6:.3f}" for speed in speeds)


def same_settings(env: str) -> tuple[str, ...]:
    runs = read(f"{MACHINE}-training")["environments"][env]["runs"]
    ours, jax = (statistics.median(run["seconds"] for run in runs[name]) for name in ("fused", "jax"))
    return (f"{jax / ours:.1f}",)


def lines_of_the_example() -> tuple[str, ...]:
    """Return the lines of code of the environment that the guide builds; the learner is imported for what follows."""
    source = (ROOT / "examples" / "custom_environment.py").read_text().split('"""')[2].split("# ---")[0]
    lines = [line.strip() for line in source.splitlines()]
    return (str(len([line for line in lines if line and line[0] != "#" and "operant_gpu.models" not in line])),)


# A regular expression of what pages say, whose groups are the figures.
SAID = [
    (r"mean return ([\d.]+) over the last 100 episodes \(goal 475\), ([\d,]+) steps in ([\d.]+) s", first_training()),
    (
        r"goal is reached after ([\d,]+) steps. With minibatches of 512",
        steps_to_solve(),
    ),
    (
        r"numba is ([\d.]+) times as fast as Gymnasium's [^.]* steps, (\d+) times [^.]* and (\d+) times",
        beside_gymnasium(),
    ),
    (r"stores what PPO needs does ([\d.]+) million steps", with_a_policy()),
    (r"newer presets \(([\d.]+) s and ([\d.]+) s for CartPole\)", newest_seconds()),
    (r"trained on ([\d,.]+) million steps (?:a|per) second", trained_on_gpu()),
    (r"[Aa]ll (\d+) tests|\| (\d+) tests, `doctor", passed_on_gpu()),
    (r"([\d,]+) M steps/s\]\(\S*performance.md#on-a-gpu\)", breakout_on_gpu()),
    (r"numba is ([\d.]+) to ([\d.]+) times as fast as C", twins("CartPole-v1", "Triton on numba", "CUDA on cpp", 1)),
    (r"C\+\+ is (\d+) to (\d+) times as fast as Triton", twins("Snake-v0", "CUDA on cpp", "Triton on numpy", 0)),
    (r"trains on ([\d.]+) M steps a second at 64 [^.]* on ([\d.]+) M \(([\d.]+)-([\d.]+) over", eager_speed()),
    (r"([\d.]+) times as long for CartPole-v1", same_settings("CartPole-v1")),
    (r"(\d+) lines of (?:plain )?(?:code|Python)", lines_of_the_example()),
]


@pytest.mark.quick
@pytest.mark.parametrize(("pattern", "expected"), SAID, ids=[pattern for pattern, _ in SAID])
def test_what_pages_say_is_what_was_measured(pattern: str, expected: tuple[str, ...]) -> None:
    said = [
        (page.name, tuple(group for group in found.groups() if group))
        for page in PAGES
        # A sentence may go over several lines.
        for found in re.finditer(pattern, " ".join(page.read_text().split()))
    ]
    assert said, "no page says this any more: take it out of the list"
    assert said == [(name, expected) for name, _ in said]


def test_the_chart_of_speed_is_described_by_its_figures(bench: Any) -> None:
    pages = [page for page in PAGES if "images/speed-" in page.read_text()]
    assert [page.name for page in pages if bench("front_page").description() not in page.read_text()] == []


def test_charts_are_drawn_for_a_light_and_a_dark_page(bench: Any, tmp_path: Path) -> None:
    bench("plots").save_pair(bench("front_page").draw_speed, tmp_path / "speed.svg")
    # A seed that was not solved has no place on the axis.
    rows = {"Some-v0": {"operant_gpu": [0.5, 0.6, 0.7], "sb3": [20.0, 30.0, math.inf]}}
    bench("learning_plot").draw_seconds(rows, tmp_path / "seconds.svg")
    for chart in ("speed", "seconds"):
        for ground, ink in bench("plots").INKS.items():
            colours = set(re.findall(r"#[0-9a-f]{6}", (tmp_path / f"{chart}-{ground}.svg").read_text()))
            assert {ink["text"], ink["ours"], ink["others"]} <= colours <= set(ink.values()) | {"#000000"}


def test_tables_of_speed_are_what_the_raw_data_says(bench: Any) -> None:
    for page, mark, text in bench("front_page").tables():
        assert bench("page").between(mark, text) in (ROOT / "docs" / page).read_text(), (page, mark)
