"""Two sets of runs side by side, with numbers worked out by hand."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import make_run

from operant_gpu import InvalidConfig
from operant_gpu.models.statistics import bootstrap
from operant_gpu.monitor import compare
from operant_gpu.monitor.reader import runs_in


def several(folder: Path, ends: list[float], **settings: Any) -> Path:
    """Make runs that rise in a straight line from 0 to these returns in 1,000 steps."""
    for seed, end in enumerate(ends):
        make_run(folder / f"seed-{seed}", [(0, 0.0), (500, end / 2), (1000, end)], seed=seed, **settings)
    return folder


@pytest.mark.quick
def test_what_two_sets_of_runs_came_to(tmp_path: Path) -> None:
    ours = several(tmp_path / "ours", [10.0, 20.0, 30.0, 40.0, 50.0], goal=20.0)
    theirs = several(tmp_path / "theirs", [10.0, 10.0, 20.0, 20.0, 20.0], goal=20.0, lr=0.5)
    found = compare([ours], [theirs])
    returns, steps, seconds = found.measures["CartPole-v1"]
    # A quarter of five is one: 20, 30, 40 and 10, 20, 20.
    assert [side.value for side in returns.middle()] == [30.0, pytest.approx(50 / 3)]
    # Of 25 pairs, the 10 ties with 2, the 20 ties with 3 and wins 2, the others win 15.
    assert returns.chance().value == pytest.approx((1.0 + 1.5 + 2 + 15) / 25)
    # Half way only the runs that end at 40 and 50 have reached 20.
    assert list(steps.runs) == [math.inf, 1000, 1000, 500, 500]
    assert list(steps.against) == [math.inf, math.inf, 1000, 1000, 1000]
    assert list(seconds.runs) == [math.inf, 10.0, 10.0, 5.0, 5.0]
    # One that never does ties with 2; those of 1,000 steps beat 2 and tie with 3; the others beat all 5.
    assert steps.chance().value == pytest.approx((1.0 + 2 * 3.5 + 2 * 5) / 25)
    assert found.differences == {"lr": ("(0.0025, 0.0)", "0.5")}
    assert found.notes == []
    for estimate in (*returns.middle(), returns.chance()):
        assert estimate.low <= estimate.value <= estimate.high


def test_returns_are_compared_at_the_steps_that_all_have(tmp_path: Path) -> None:
    several(tmp_path / "ours", [10.0, 20.0])
    make_run(tmp_path / "ours" / "seed-2", [(0, 0.0), (400, 8.0), (800, 40.0)], state="solved")
    found = compare([tmp_path / "ours"], [several(tmp_path / "theirs", [5.0])])
    (returns,) = found.measures["CartPole-v1"]
    assert found.steps == {"CartPole-v1": 800}
    assert returns.label == "return at 800 steps"
    assert list(returns.runs) == pytest.approx([8.0, 16.0, 40.0])
    assert list(returns.against) == pytest.approx([4.0])
    assert "1 runs of an environment are few" in found.notes[0]
    assert "runs that end at their goal are short" in found.notes[1]


def test_a_goal_that_some_do_not_reach_is_none_in_json(tmp_path: Path) -> None:
    ours, theirs = several(tmp_path / "ours", [40.0, 40.0]), several(tmp_path / "theirs", [10.0, 10.0])
    numbers = json.loads(json.dumps(compare([ours], [theirs], goal=30.0).numbers(), allow_nan=False))
    steps = numbers["environments"]["CartPole-v1"]["steps"]
    assert steps["runs"] == {"value": 1000, "low": 1000, "high": 1000}
    assert steps["against"] == {"value": None, "low": None, "high": None}
    assert steps["of_against"] == [None, None]
    assert steps["chance_that_runs_are_better"]["value"] == 1.0


def test_several_environments_count_alike(tmp_path: Path) -> None:
    for env, ends in (("CartPole-v1", ([100.0, 300.0], [200.0, 500.0])), ("Pendulum-v1", ([-2.0, -1.0], [-4.0, -3.0]))):
        for side, values in zip(("ours", "theirs"), ends, strict=True):
            for seed, end in enumerate(values):
                make_run(tmp_path / side / f"{env}-{seed}", [(0, end), (1000, end)], env=env)
    found = compare([tmp_path / "ours"], [tmp_path / "theirs"])
    overall = found.overall()
    assert overall is not None
    ours, theirs, chance = overall
    # Scaled by environment: 0, 0.5 and 2/3, 1 of ours; a quarter of four is one.
    assert ours.value == pytest.approx((0.5 + 2 / 3) / 2)
    assert theirs.value == pytest.approx((0.25 + 1 / 3) / 2)
    assert chance.value == pytest.approx((0.25 + 1.0) / 2)
    assert set(found.numbers()["all"]) == {"runs", "against", "chance_that_runs_are_better"}
    assert not any("count more" in note for note in found.notes)
    make_run(tmp_path / "ours" / "Pendulum-v1-2", [(0, -1.0), (1000, -1.0)], env="Pendulum-v1")
    assert any("count more" in note for note in compare([tmp_path / "ours"], [tmp_path / "theirs"]).notes)
    assert compare([tmp_path / "ours" / "CartPole-v1-0"], [tmp_path / "theirs" / "CartPole-v1-0"]).overall() is None


def test_what_a_resumed_run_did_twice_counts_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [(0, 0.0), (500, 90.0), (250, 5.0), (1000, 20.0)])
    returns = compare([run], [several(tmp_path / "others", [1.0])], goal=50.0).measures["CartPole-v1"]
    assert list(returns[0].runs) == [20.0]
    assert list(returns[1].runs) == [math.inf]


def test_the_goal_counts_after_as_many_episodes_as_there_are_environments(tmp_path: Path) -> None:
    # Episodes are as many as timesteps here; 100 are the least.
    run = make_run(tmp_path / "run", [(50, 90.0), (150, 90.0)])
    other = make_run(tmp_path / "other", [(120, 1.0), (200, 1.0)])
    steps = compare([run], [other], goal=50.0).measures["CartPole-v1"][1]
    assert list(steps.runs) == [150.0]
    # What has ended fewer is compared all the same, and never has reached a goal.
    late = make_run(tmp_path / "late", [(40, 1.0), (60, 1.0)])
    early = compare([make_run(tmp_path / "early", [(50, 90.0)])], [late], goal=50.0)
    assert list(early.measures["CartPole-v1"][0].runs) == [90.0]
    assert list(early.measures["CartPole-v1"][1].runs) == [math.inf]
    assert any(note.startswith("2 of the runs have ended fewer episodes") for note in early.notes)


def test_machines_and_parameters_that_differ_are_said(tmp_path: Path) -> None:
    ours = several(tmp_path / "ours", [1.0] * 5, params={"gravity": "5..15"}, state="running")
    theirs = several(tmp_path / "theirs", [1.0] * 5, params={"gravity": 9.8}, machine="a GPU")
    found = compare([ours], [theirs])
    assert found.differences == {"env.gravity": ("5..15", "9.8"), "machine": ("a CPU", "a GPU")}
    assert [note[:14] for note in found.notes] == ["5 of the runs ", "the runs are f", "the runs of Ca"]


def test_pictures_have_a_panel_for_each_environment(tmp_path: Path) -> None:
    one, other = (several(tmp_path / name, [1.0, 2.0, 3.0]) for name in ("a", "b"))
    compare([one], [other]).draw(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InvalidConfig, match=r"expected a file that ends in \.png"):
        compare([one], [other]).draw(tmp_path / "curves.pdf")


@pytest.mark.parametrize(
    ("runs", "against", "message"),
    [
        (["a"], ["a/seed-0"], "a/seed-0' is on both sides: leave it out on one"),
        (["a"], ["pendulum"], "is on one side only: give runs of it on both"),
        (["a"], [], "against: expected a list of directories of runs, got "),
        ("a", ["a"], "runs: expected a list of directories of runs, got 'a'"),
        (5, ["a"], "runs: expected a list of directories of runs, got 5"),
        (["a"], (name for name in "b"), "against: expected a list of directories of runs, got <generator"),
        (["a", "a/../a/seed-0"], ["new"], "runs: 'a/../a/seed-0' is given twice, and would count twice: leave it out"),
        (["a"], ["b", "link"], "against: 'link' is given twice"),
        (["a"], ["new"], "'new' has finished no episode yet"),
        (["a"], ["empty"], "'empty' is not a run's directory: it has no run.json, and no runs in it"),
        (["a"], ["nowhere"], "'nowhere' is not a run's directory: it is not there"),
    ],
)
def test_what_cannot_be_compared(
    runs: Any, against: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    several(Path("a"), [1.0])
    make_run(Path("pendulum"), [(1, 1.0)], env="Pendulum-v1")
    make_run(Path("new"), [(1, math.nan)])
    make_run(Path("b"), [(1, 1.0)])
    Path("link").symlink_to("b")
    Path("empty").mkdir()
    with pytest.raises(InvalidConfig, match=message):
        compare(runs, against)


def test_runs_that_have_no_steps_in_common_are_not_compared(tmp_path: Path) -> None:
    short, late = make_run(tmp_path / "a", [(100, 5.0), (512, 7.0)]), make_run(tmp_path / "b", [(9_000, 8.0)])
    with pytest.raises(InvalidConfig, match=r"a' ends at 512 steps, and .*b' has its first return at 9,000: train"):
        compare([short], [late])


@pytest.mark.parametrize("goal", [math.nan, math.inf, "5"])
def test_a_goal_is_a_number(goal: Any, tmp_path: Path) -> None:
    one, other = (several(tmp_path / name, [1.0]) for name in ("a", "b"))
    with pytest.raises(InvalidConfig, match=f"goal: expected a finite number, got {goal!r}"):
        compare([one], [other], goal=goal)


@pytest.mark.parametrize("name", ["$x^$", "_hidden", "[red]", os.fsdecode(b"\xff")])
def test_curves_of_folders_of_any_name_are_drawn(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    compare([several(Path(name), [1.0, 2.0])], [several(Path("b"), [1.0])]).draw("curves.png")
    assert Path("curves.png").exists()


def test_a_description_that_is_damaged_is_said(tmp_path: Path) -> None:
    run, other = make_run(tmp_path / "a", [(1, 1.0)]), make_run(tmp_path / "b", [(1, 1.0)])
    whole = json.loads((run / "run.json").read_text())
    for damage in ({"params": [1]}, {"sessions": [{**whole["sessions"][0], "processes": "two"}]}):
        (run / "run.json").write_text(json.dumps({**whole, **damage}))
        with pytest.raises(InvalidConfig, match=f"is damaged: {next(iter(damage))} is "):
            compare([run], [other])
    # As of a run without any.
    (run / "run.json").write_text(json.dumps({**whole, "params": None}))
    assert not compare([run], [other]).differences


def test_the_runs_in_a_directory_are_in_the_order_of_their_seeds(tmp_path: Path) -> None:
    several(tmp_path, [1.0] * 11)
    assert [run.name for run in runs_in(tmp_path)] == [f"seed-{seed}" for seed in range(11)]
    assert runs_in(tmp_path / "seed-3") == [tmp_path / "seed-3"]
    # A digit to Python, but no part of a number.
    (tmp_path / "seed-3").rename(tmp_path / "\u00b2")
    assert runs_in(tmp_path)[-1] == tmp_path / "\u00b2"


def test_each_stratum_is_sampled_by_itself() -> None:
    def apart(small: np.ndarray[Any, Any], large: np.ndarray[Any, Any]) -> float:
        assert (len(small), len(large)) == (3, 5)
        assert small.max() < 10 <= large.min()
        return float(large.mean() - small.mean())

    low, high = bootstrap([np.array([1.0, 2.0, 3.0]), np.arange(10.0, 15.0)], apart)
    assert 7 <= low < 10 < high <= 13
