"""Distributions of parameters: what is drawn, and how they are written as text."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from here import BACKENDS
from varied_envs import Tiles

from operant_gpu import InvalidConfig
from operant_gpu.envs import CartPole
from operant_gpu.randomization import Choice, Distribution, LogUniform, Normal, Uniform, parse

pytestmark = pytest.mark.quick
N = 20_000
# Of the distance between a sample's distribution and the true one, in units of 1 / sqrt(N): passed by chance once in
# a million.
MOST_DISTANCE = 2.7


def drawn(distribution: Distribution, definition: Any = CartPole, name: str = "gravity") -> np.ndarray:
    env = definition(N, device="cpu", backend="numpy", **{name: distribution})
    env.reset(seed=5)
    return getattr(env.params, name).numpy().astype(np.float64)


def normal(mean: float, std: float, low: float, high: float) -> Callable[[float], float]:
    def share(x: float) -> float:
        return 0.0 if x < low else 1.0 if x >= high else 0.5 * (1 + math.erf((x - mean) / (std * math.sqrt(2))))

    return share


@pytest.mark.parametrize(
    ("distribution", "share"),
    [
        (Uniform(5, 15), lambda x: (x - 5) / 10),
        (Uniform(-3e38, 1e37), lambda x: (x + 3e38) / 3.1e38),
        (LogUniform(0.1, 10), lambda x: math.log(x / 0.1) / math.log(100)),
        (LogUniform(1e-30, 1e30), lambda x: math.log(x / 1e-30) / math.log(1e60)),
        (Normal(10, 2), normal(10, 2, 4, 16)),
        (Normal(10, 2, 9, 11), normal(10, 2, 9, 11)),
        (Normal(10, 2, high=12), normal(10, 2, 4, 12)),
    ],
    ids=lambda one: str(one) if isinstance(one, Distribution) else None,
)
def test_floats_are_drawn_as_the_distribution_says(distribution: Distribution, share: Callable[[float], float]) -> None:
    values = np.sort(drawn(distribution))
    low, high = distribution.ends
    assert values[0] >= np.float32(low)
    assert values[-1] <= np.float32(high)
    # Kolmogorov and Smirnov's distance, from above: where many are equal, as at the ends, the last of them counts.
    last = np.flatnonzero(np.diff(values, append=np.inf))
    distance = np.abs((last + 1) / N - np.array([min(1.0, share(values[i])) for i in last])).max()
    assert distance * math.sqrt(N) < MOST_DISTANCE


@pytest.mark.parametrize(
    ("distribution", "definition", "name", "values"),
    [
        (Uniform(1, 4), Tiles, "level", [1, 2, 3, 4]),
        (Uniform(3, 3), Tiles, "level", [3]),
        (Choice(1, 5), Tiles, "level", [1, 5]),
        (Choice(1, 1, 4), Tiles, "level", [1, 1, 4]),
        (Choice(True, False), Tiles, "leaks", [True, False]),
        (Choice(0.25, 0.5, 8), CartPole, "gravity", [0.25, 0.5, 8.0]),
        (Uniform(0.5, 0.5), CartPole, "gravity", [0.5]),
    ],
    ids=lambda one: str(one) if isinstance(one, Distribution) else None,
)
def test_values_are_drawn_as_often_as_one_another(
    distribution: Distribution, definition: Any, name: str, values: list[float]
) -> None:
    found, counts = np.unique(drawn(distribution, definition, name), return_counts=True)
    chances = {value: values.count(value) / len(values) for value in values}
    assert sorted(chances) == found.tolist()
    for value, count in zip(found, counts, strict=True):
        chance = chances[value]
        assert abs(count - N * chance) <= 5 * math.sqrt(N * chance * (1 - chance))


@pytest.mark.parametrize("backend", BACKENDS)
def test_draws_are_those_of_every_backend(backend: str) -> None:
    params = {"gravity": Uniform(5, 15), "length": Choice(0.4, 0.5, 0.6), "masspole": LogUniform(0.05, 0.5)}
    params["force_mag"] = Normal(10, 2)
    envs = [CartPole(64, device="cpu", backend=one, **params) for one in (backend, "numpy")]
    for env in envs:
        env.reset(seed=9)
        env.rollout(100)
    here, there = (env.params for env in envs)
    # By other mathematics, an episode may end a step sooner: those of the same episode are compared.
    same = envs[0].state_dict()["columns"]["episode"] == envs[1].state_dict()["columns"]["episode"]
    assert same.sum() > 32
    for name in ("gravity", "length"):
        assert torch.equal(getattr(here, name)[same], getattr(there, name)[same])
    for name in ("masspole", "force_mag"):
        torch.testing.assert_close(getattr(here, name)[same], getattr(there, name)[same], rtol=5e-6, atol=0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9.8", 9.8),
        (" -3 ", -3),
        ("1e-3", 1e-3),
        ("true", True),
        ("False", False),
        ("5..15", Uniform(5, 15)),
        (" -5.5 .. -1e-1 ", Uniform(-5.5, -0.1)),
        (".5...75", Uniform(0.5, 0.75)),
        ("log:0.1..10", LogUniform(0.1, 10)),
        ("Log: 1e-3..1", LogUniform(1e-3, 1)),
        ("normal:10,2", Normal(10, 2)),
        ("normal:10,2,5..15", Normal(10, 2, 5, 15)),
        ("0.4,0.5,0.6", Choice(0.4, 0.5, 0.6)),
        ("true,false", Choice(True, False)),
        ("3,", Choice(3)),
    ],
)
def test_what_a_text_means_and_the_text_of_what_it_means(text: str, value: Any) -> None:
    found = parse(text)
    assert (found, type(found)) == (value, type(value))
    assert parse(str(found)) == found


@pytest.mark.parametrize(
    "one",
    [
        Uniform(np.float32(0.1), np.int64(3)),
        Uniform(0.1 + 0.2, 1e30),
        LogUniform(2e-45, 1.0),
        Uniform(np.longdouble("0.1"), 2),
        Normal(np.int8(100), np.int8(50)),
        Choice(np.int8(-128), np.float16(2)),
        Normal(1, 0.1, low=0.95),
        Normal(-1, 2.5),
        Choice(np.float64(0.5)),
        Choice(np.bool_(True), False),
        Choice(1, 2.5),
    ],
    ids=repr,
)
def test_the_text_of_a_distribution_gives_it_again(one: Distribution) -> None:
    again = parse(str(one))
    assert (type(again), again.ends) == (type(one), one.ends)
    assert str(again) == str(one)


@pytest.mark.parametrize(
    "text",
    ["", " ", ",", ",1", "1,,2", "5..", "..5", "..", "1..2..3", "log:", "log:1", "normal:", "normal:1", "uniform:1..2"]
    + ["normal:1,2,3", "normal:1,2,3..4,5", "1..2,3", "five", "0x10", "1;2", "true..false", "log:1,2", "None"],
)
def test_a_text_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidConfig, match=r"expected a number, or a range such as 5\.\.15, log:0\.1\.\.10") as caught:
        parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform(5, 3), r"Uniform\(low=5, high=3\) is no range: give the lower end first"),
        (lambda: Uniform(-3e38, 3e38), "the upper one less than 3.4e38 above it"),
        (lambda: Uniform("5", 15), "has '5' where it needs a finite number of 32 bits"),
        (lambda: Uniform(0, 10**400), "where it needs a finite number of 32 bits"),
        (lambda: Uniform(0, float("nan")), "has nan where it needs a finite number"),
        (lambda: LogUniform(0, 1), "begins at or below 0, where there is no logarithm"),
        (lambda: LogUniform(2, 1), "is no range"),
        (lambda: LogUniform(1e-46, 1), "begins at or below 0"),
        (lambda: Uniform(True, 2), "has True where it needs a finite number"),
        (lambda: Choice(np.timedelta64(5)), "where it needs a finite number"),
        (lambda: Normal(0, 0), "has a standard deviation that is not above 0"),
        (lambda: Normal(0, -1), "has a standard deviation that is not above 0"),
        (lambda: Normal(float("inf"), 1), "has inf where it needs a finite number"),
        (lambda: Normal(0, 1, 2, 1), "is no range"),
        (lambda: Normal(0, 1, low=5), "is no range"),
        (lambda: Normal(0, 3e38), "is no range"),
        (lambda: Normal(3.3e38, 1e37), "is no range"),
        (lambda: Choice(), "has 0 values: give 1 to 64$"),
        (lambda: Choice(*range(65)), "has 65 values: give 1 to 64, or a tensor with one value for each environment"),
        (lambda: Choice(np.complex64(1)), "where it needs a finite number"),
        (lambda: Choice(1, None), "has None where it needs a finite number"),
        (lambda: Choice([1, 2]), r"has \[1, 2\] where it needs a finite number"),
    ],
)
def test_what_is_no_distribution_is_refused(make: Callable[[], Distribution], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        make()


def test_numbers_of_numpy_count_in_their_own_width() -> None:
    assert Normal(np.int8(100), np.int8(50)).ends == (-50, 250)
    assert Uniform(np.float32(0.5), np.uint8(3)) == Uniform(0.5, 3)
    assert type(Choice(np.bool_(True)).values[0]) is bool
