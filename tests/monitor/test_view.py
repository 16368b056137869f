"""What is known of a run, and how a terminal shows it."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import pytest
from records import RECORD
from rich.console import Console

import operant_gpu
from operant_gpu import TrainingError
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.monitor.dashboard import comparison, dashboard, line, short, sparkline
from operant_gpu.monitor.view import Curve, View


def shown(renderable: Any, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def view(**changes: Any) -> View:
    made = View(title="CartPole-v1", folder="runs/[1]", target=10_000, **changes)
    made.add(RECORD)
    return made


def test_a_curve_keeps_its_shape_as_it_grows() -> None:
    curve = Curve()
    for step in range(100_000):
        curve.add(step, step**2)
    points = list(curve)
    assert 1_000 <= len(points) <= 2_048
    assert all(value == steps**2 for steps, value in points)
    assert points[-1][0] > 99_000
    steps = [step for step, _ in points]
    assert steps == sorted(steps)


def test_a_curve_that_goes_back_in_time_drops_what_was_later() -> None:
    curve = Curve()
    for steps, value in [(1, 1.0), (2, 2.0), (3, 3.0), (2, 20.0), (3, math.nan), (4, 40.0)]:
        curve.add(steps, value)
    assert list(curve) == [(1, 1.0), (2, 20.0), (4, 40.0)]


def test_progress_and_time_left() -> None:
    assert view().progress == 0.25
    assert view().seconds_left == 7.5
    assert View(title="x").progress == 0.0
    assert View(title="x").seconds_left is None
    assert view(state="killed").seconds_left is None
    resumed = View(title="x", start=2_000, target=4_000)
    resumed.add(RECORD)
    assert resumed.progress == 0.25


@pytest.mark.parametrize(
    ("goal", "error", "timesteps", "state"),
    [
        (None, None, 10_000, "finished"),
        (None, None, 2_500, "stopped"),
        (48.0, None, 2_500, "solved"),
        (49.0, None, 2_500, "stopped"),
        (None, KeyboardInterrupt(), 2_500, "stopped"),
        (None, TrainingError("a number is not finite"), 2_500, "failed"),
        (48.0, OSError("gone"), 2_500, "failed"),
    ],
)
def test_how_a_training_ended(goal: float | None, error: BaseException | None, timesteps: int, state: str) -> None:
    run = view(goal=goal)
    run.end(timesteps, error)
    assert run.state == state
    assert (error is not None and str(error) in run.message) or not run.message


def test_the_first_episodes_prove_nothing() -> None:
    run = View(title="x", goal=10.0)
    run.add({**RECORD, "episodes": 99.0})
    assert not run.is_solved
    run.add({**RECORD, "timesteps": 3_000.0, "episodes": 100.0})
    assert run.is_solved
    # Of many environments not even a hundred.
    run.begin(PPO(operant_gpu.make("CartPole-v1", 101, device="cpu")))
    assert not run.is_solved
    run.add({**RECORD, "timesteps": 4_000.0, "episodes": 101.0})
    assert run.is_solved


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_the_dashboard_fits_its_terminal(width: int) -> None:
    lines = shown(dashboard(view(goal=475.0), width), width).splitlines()
    assert {len(text) for text in lines} == {width}
    # In narrow ones the steps have a row of their own.
    assert len(lines) == (8 if width >= 80 else 9)
    assert lines[0].startswith("╭─ CartPole-v1  runs/[1] ─")


@pytest.mark.parametrize("width", [40, 50, 60])
def test_a_narrow_dashboard_leaves_out_the_machine_before_the_steps_and_the_time_left(width: int) -> None:
    run = View(title="CartPole-v1", target=500_000, details="64 environments, numba on cpu, fused engine")
    run.add({**RECORD, "timesteps": 24_576.0, "cpu_percent": 99.0})
    text = shown(dashboard(run, width), width)
    assert "machine" not in text
    assert "24.6 k of 500 k" in text
    assert ("0:07:55 left" in text) is (width >= 50)
    assert "5%" in text
    # The foot, too, has whole parts alone.
    foot = text.splitlines()[-1]
    assert ("numba on cpu" in foot, "engine" in foot) == (width >= 50, width >= 60)
    assert re.search(r"( running|environments|cpu|engine) ─+╯$", foot)
    assert "machine" in shown(dashboard(run, 80), 80)


def test_the_best_mean_return_is_shown_beside_the_goal() -> None:
    run = View(title="CartPole-v1", target=10_000, goal=475.0)
    for value in (math.nan, 12.0, 99.5, 48.0, math.nan):
        run.add({**RECORD, "episodic_return": value})
    assert "goal 475  best 99.5  120 episodes" in shown(dashboard(run, 120), 120)


def test_of_a_long_path_the_end_is_shown() -> None:
    run = View(title="CartPole-v1", folder=f"/home/{'deep/' * 40}runs/2", target=1)
    first = shown(dashboard(run, 80), 80).splitlines()[0]
    assert len(first) == 80
    assert re.fullmatch(r"╭─ CartPole-v1  …\S*deep/runs/2 ─+╮", first)


def test_the_dashboard_shows_what_a_trainer_wants_to_know() -> None:
    run = view(goal=475.0, details="128 environments, triton on cuda:0, fused engine")
    run.add({**RECORD, "timesteps": 3_000.0, "gpu_percent": 71.0, "gpu_memory_gib": 3.14, "gpu_temperature": 62.0})
    text = shown(dashboard(run, 120), 120)
    for part in (
        *("30%  3,000 of 10,000 steps  0:00:07 left", "48.25", "goal 475", "120 episodes of 48 steps", "1 k steps/s"),
        *("act 25%", "learn 50%", "rest 25%", "policy -0.0123", "explained 0.97", "approx_kl 0.004", "lr 0.001"),
        *("GPU 71 %", "3.1 GiB", "62 °C", "running", "triton on cuda:0"),
    ):
        assert part in text, part


@pytest.mark.parametrize("width", [40, 60, 80])
def test_what_does_not_fit_is_left_out_as_a_whole(width: int) -> None:
    run = view(goal=475.0)
    run.add({**RECORD, "timesteps": 3_000.0, "policy_loss": -0.000812, "value_loss": 8.63e-05, "lr": 0.000908})
    text = shown(dashboard(run, width), width)
    assert "…" not in text
    # Each that is named has its number.
    assert not re.search(r"(policy|value|entropy|explained|approx_kl|clip_frac|grad_norm|lr|alone) *│", text)
    if width == 80:
        assert all(name in text for name in ("explained 0.97", "lr 0.000908", "learner alone 2 k", "rest 25%"))


def test_a_dashboard_before_the_first_metrics_and_after_a_failure() -> None:
    text = shown(dashboard(View(title="CartPole-v1", target=10), 80), 80)
    assert "0%  0 of 10 steps  starting" in text
    failed = View(title="CartPole-v1", target=10, state="failed", message="a number is not finite")
    assert "a number is not finite" in shown(dashboard(failed, 80), 80)


def test_before_the_first_episode_ends_there_is_no_return() -> None:
    run = View(title="CartPole-v1", target=10_000)
    run.add({**RECORD, "episodes": 0.0, "episodic_return": math.nan, "episodic_length": math.nan})
    assert "return     - " in shown(dashboard(run, 100), 100)
    assert "no episode finished yet" in line(run)


def test_lines_are_complete_by_themselves() -> None:
    expected = "CartPole-v1        2,500 steps  return 48.25 of 475  1 k steps/s  0:00:08 left"
    assert line(view(goal=475.0)) == expected


@pytest.mark.parametrize("width", [30, 40, 50, 60])
def test_a_comparison_cuts_no_number(width: int) -> None:
    run = View(title="CartPole-v1", folder="runs/CartPole-v1-1", target=1_000_000, state="finished")
    run.add({**RECORD, "episodic_return": -1104.8, "timesteps": 400_000.0})
    text = shown(comparison([[run], [run]], width), width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("-1105") == 2
    assert ("finished" in text, "40%" in text) == (width >= 40, width >= 50)
    assert "…" not in text.replace("…", "", 2)


@pytest.mark.parametrize("width", [50, 80, 120])
def test_a_comparison_has_a_row_for_each_run(width: int) -> None:
    deep = View(title="new", folder=f"/home/{'deep/' * 40}runs/2", state="killed")
    text = shown(comparison([[view()], [deep]], width), width)
    assert all(len(row) <= width for row in text.splitlines())
    assert re.search(r"runs/\[1\] +running +48\.25", text)
    assert re.search(r"…\S*runs/2 +killed +- ", text)
    assert ("left" in text, "steps/s" in text) == (width >= 120, width >= 80)


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        ([], 5, ""),
        ([math.nan], 5, ""),
        ([3.0], 5, "▁"),
        ([0.0, 1.0], 5, "▁█"),
        ([2.0, 2.0, 2.0], 5, "▁▁▁"),
        (range(8), 8, "▁▂▃▄▅▆▇█"),
        # Means of pairs: 0.5, 2.5, 4.5, 6.5.
        (range(8), 4, "▁▃▆█"),
        ([0.0, math.inf, 7.0], 8, "▁█"),
    ],
)
def test_sparklines(values: Any, width: int, expected: str) -> None:
    assert sparkline(values, width) == expected


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0"), (999.0, "999"), (1_234.0, "1.23 k"), (5.5e6, "5.5 M"), (7e10, "70 G"), (math.nan, "-")],
)
def test_short_numbers(number: float, text: str) -> None:
    assert short(number) == text


def test_python_users_get_the_dashboard_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Where the output is no terminal, lines that come once a second: none in a training this short."""
    config = PPOConfig(n_steps=8, batch_size=32, hidden_sizes=(16,))
    seen: list[dict[str, float]] = []
    learner = PPO(operant_gpu.make("CartPole-v1", 16, device="cpu"), config)
    learner.learn(512, seen.append, progress=True)
    assert len(seen) == 4
    assert capsys.readouterr().out == ""
