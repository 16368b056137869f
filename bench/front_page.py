"""Write what pages say of speed from raw data: the charts of README and of the site's first page, and tables.

    python bench/front_page.py

Nothing is measured. It reads bench/results and writes docs/images/speed-*.svg and steps-*.svg, and the tables between
marks in docs/performance.md, docs/own_loop.md, docs/games.md and docs/triton_or_cuda.md. It prints the text that goes
with the first page's chart.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from machine import RESULTS
from matplotlib import pyplot, ticker
from page import fill, table
from plots import Ink, save_pair

DOCS = Path(__file__).parents[1] / "docs"
MACHINE = "intel-r-xeon-r-processor"
SIZE = "4096"
# Of `env_throughput.py`: what pages call each contender.
CONTENDERS = {
    "step, numba": "single steps, numba",
    "step, numpy": "single steps, NumPy",
    "rollout random, numba": "rollouts of random actions, numba",
    "rollout given, numba": "rollouts of given actions, numba",
    "step, gymnasium vector": "Gymnasium vector, single steps",
    "rollout random, gymnax on cpu": "gymnax (JAX), rollouts of random actions",
    "step, envpool": "EnvPool, single steps",
}
BARS = {
    "rollout random, numba": "operant_gpu, rollout",
    "step, numba": "operant_gpu, step",
    "step, gymnasium vector": "Gymnasium vector, step",
    "rollout random, gymnax on cpu": "gymnax, rollout",
    "step, envpool": "EnvPool, step",
}
# Of `policy_steps.py`, the slower one first.
POLICY_WAYS = {"steps": "`env.step`, a policy in PyTorch", "rollout": "`env.rollout`, an `MLPPolicy`"}
# Of `training.py`.
LEARNERS = {"fused": "operant_gpu", "jax": "JAX, same settings", "sb3": "Stable-Baselines3"}
GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
WAYS = {
    "step": "single steps",
    "rollout with obs": "rollouts that store observations",
    "rollout": "rollouts of given actions, nothing stored",
    "rollout random": "rollouts of random actions",
}


def read(name: str) -> dict[str, Any]:
    """Return raw data."""
    report: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return report


def rates_of(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return millions of steps a second by contender."""
    return {row["contender"]: row["per_second"] / 1e6 for row in rows}


def medians_of(env: str, quantity: str = "seconds") -> dict[str, float]:
    """Return medians over the seeds of `training.py`, by contender."""
    runs = read(f"{MACHINE}-training")["environments"][env]["runs"]
    return {name: float(statistics.median(run[quantity] for run in those)) for name, those in runs.items()}


def draw_speed(ink: Ink) -> Any:
    """Return the chart of the first page: steps a second beside others, and seconds until CartPole is solved."""
    rates, seconds = rates_of(read(MACHINE)["sizes"][SIZE]), medians_of("CartPole-v1")
    figure = pyplot.figure(figsize=(7.2, 6.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(len(BARS) + 1, len(LEARNERS) + 1))
    above.suptitle("Million CartPole steps per second, random actions\n4,096 environments, 2 CPU cores", x=0, ha="left")
    bars(above.subplots(), {label: rates[name] for name, label in BARS.items()}, ink, number)
    title = "Seconds until PPO has solved CartPole\nwithout imports and compilation, 2 CPU cores"
    below.suptitle(title, x=0, ha="left")
    bars(below.subplots(), {label: seconds[name] for name, label in LEARNERS.items()}, ink, seconds_of)
    return figure


def description() -> str:
    """Return in words what the chart of the first page shows, for who cannot see it."""
    rates, seconds = rates_of(read(MACHINE)["sizes"][SIZE]), medians_of("CartPole-v1")
    speeds = (f"{label} {number(rates[name])}" for name, label in BARS.items())
    times = (f"{label} {seconds_of(seconds[name])}" for name, label in LEARNERS.items())
    title = "Million CartPole steps per second, random actions"
    return f"{title}: {'; '.join(speeds)}. Seconds to solve CartPole: {'; '.join(times)}."


def bars(axes: Any, values: dict[str, float], ink: Ink, said: Callable[[float], str]) -> None:
    """Draw bars from top to bottom, with their numbers at their ends."""
    colours = [ink["ours" if name.startswith("operant_gpu") else "others"] for name in values]
    drawn = axes.barh(list(values), list(values.values()), color=colours, height=0.7)
    axes.bar_label(drawn, [said(value) for value in values.values()], padding=5, fontweight="bold")
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)


def number(value: float) -> str:
    """Return a number with three digits, and three behind the point below 1."""
    return f"{value:,.{max(0, 3 - len(str(int(value)))) if value >= 1 else 3}f}"


def seconds_of(value: float) -> str:
    """Return seconds to a hundredth, from 10 on to a tenth."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def draw_steps(ink: Ink) -> Any:
    """Return the chart of steps a second over the number of environments."""
    lines: dict[str, dict[int, float]] = {name: {} for name in CONTENDERS if name != "rollout given, numba"}
    for size, rows in read(MACHINE)["sizes"].items():
        for name, rate in rates_of(rows).items():
            if name in lines:
                lines[name][int(size)] = rate * 1e6
    figure, axes = pyplot.subplots(figsize=(7.2, 6.4), layout="constrained")
    for (name, points), marker in zip(lines.items(), "o^DsvX", strict=True):
        ours = name.endswith(("numba", "numpy"))
        style = {"color": ink["ours" if ours else "others"], "linestyle": "-" if ours else "--"}
        axes.plot(list(points), list(points.values()), marker=marker, label=CONTENDERS[name], **style)
    axes.set(xscale="log", yscale="log", xlabel="environments", ylabel="CartPole steps per second")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ticker.EngFormatter())
    axes.grid()
    figure.legend(loc="outside lower left", fontsize=14)
    return figure


def steps_table() -> str:
    """Return steps a second by contender and number of environments."""
    sizes = {size: rates_of(rows) for size, rows in read(MACHINE)["sizes"].items()}
    headings = ("environments", *(f"{int(size):,}" for size in sizes))
    rows = [
        (label, *(number(rates[name]) if name in rates else "-" for rates in sizes.values()))
        for name, label in CONTENDERS.items()
    ]
    return table(headings, rows)


def policy_table() -> str:
    """Return steps a second with a policy, of a loop in Python and of rollouts, by the number of environments."""
    sizes = read("policy-steps")["sizes"]
    rates = {way: [rates["per_second"] / 1e6 for rates in (one[way] for one in sizes.values())] for way in POLICY_WAYS}
    rows = [(label, *map(number, rates[way])) for way, label in POLICY_WAYS.items()]
    times = (f"{fast / slow:.1f}" for slow, fast in zip(*rates.values(), strict=True))
    headings = ("M steps/s, environments", *(f"{int(size):,}" for size in sizes))
    return table(headings, [*rows, ("times as fast", *times)])


def solve_table() -> str:
    """Return how long each engine and others train until an environment is solved."""
    report = read(f"{MACHINE}-training")["environments"]
    names = {"fused": "fused", "eager": "eager", "jax": "JAX", "sb3": "Stable-Baselines3"}
    rows: list[tuple[str, ...]] = []
    for env, entry in report.items():
        every = [[run["seconds"] for run in entry["runs"][name]] for name in names]
        rates = [
            sum(run["timesteps"] for run in entry["runs"][name]) / sum(run["seconds"] for run in entry["runs"][name])
            for name in names
        ]
        cold = [entry["cold"].get(name) for name in names]
        rows += [
            (f"{env} to {entry['goal']:g}, median", *(f"{seconds_of(statistics.median(one))} s" for one in every)),
            ("spread", *(f"{seconds_of(min(one))}-{seconds_of(max(one))} s" for one in every)),
            ("trained steps a second", *(f"{rate / 1e3:,.0f} k" for rate in rates)),
            (
                "first run, with all that is compiled",
                *(f"{one['seconds_with_construction']:.1f} s" if one else "" for one in cold),
            ),
        ]
    return table(("", *names.values()), rows)


def games_table(rows: dict[str, str]) -> str:
    """Return steps a second of the games in C++.

    Args:
        rows: Heading of each row, by contender.
    """
    games = {name: rates_of(read(f"games-{MACHINE}")["games"][f"MinAtar-{name}-v1"]) for name in GAMES}
    headings = ("M steps/s", *GAMES)
    return table(headings, [(label, *(number(games[name][one]) for name in GAMES)) for one, label in rows.items()])


def twins_table() -> str:
    """Return how many times as fast environments are in one language as in the other."""
    twins = {name: rates_of(rows) for name, rows in read(f"games-{MACHINE}")["twins"].items()}

    def times(env: str, way: str, fast: str, slow: str) -> str:
        return f"{twins[env][f'{way}, {fast}'] / twins[env][f'{way}, {slow}']:.1f}"

    cells = [
        (
            label,
            times("CartPole-v1", way, "Triton on numba", "CUDA on cpp"),
            times("CartPole-v1", way, "CUDA on cpp", "Triton on numpy"),
            times("Snake-v0", way, "CUDA on cpp", "Triton on numpy"),
        )
        for way, label in WAYS.items()
    ]
    return table(("times as fast", "CartPole: numba / C++", "CartPole: C++ / NumPy", "Snake: C++ / NumPy"), cells)


def tables() -> Iterator[tuple[str, str, str]]:
    """Yield page, mark and text of each table."""
    ours = {
        "step, cpp, 2 threads": WAYS["step"],
        "rollout with obs, cpp, 2 threads": WAYS["rollout with obs"],
        "rollout random, cpp, 2 threads": WAYS["rollout random"],
        "rollout, cpp, 2 threads": WAYS["rollout"],
        "rollout, cpp, 1 thread": "the same on one core",
    }
    package = {
        "MinAtar package": "MinAtar package, one core",
        "MinAtar package, with obs": "MinAtar package with its observation",
    }
    yield "performance.md", "steps", steps_table()
    for page in ("performance.md", "own_loop.md"):
        yield page, "policy", policy_table()
    yield "performance.md", "games", games_table(ours | package)
    few = ("step, cpp, 2 threads", "rollout with obs, cpp, 2 threads", "rollout random, cpp, 2 threads")
    yield "games.md", "speed", games_table({name: ours[name] for name in few} | package)
    yield "performance.md", "solve", solve_table()
    yield "triton_or_cuda.md", "twins", twins_table()


def main() -> None:
    """Write charts and tables."""
    save_pair(draw_speed, DOCS / "images" / "speed.svg")
    save_pair(draw_steps, DOCS / "images" / "steps.svg")
    for page, mark, text in tables():
        fill(DOCS / page, mark, text)
    print(description())


if __name__ == "__main__":
    main()
