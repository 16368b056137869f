"""The examples run, and a new environment stays as short as the guide says."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
import torch
from here import ROOT

EXAMPLES = ROOT / "examples"
MAX_LINES = 45


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_custom_environment_trains() -> None:
    assert load("custom_environment").main(200_000) >= 0.9


def test_cartpole_from_nothing_to_solved(capsys: pytest.CaptureFixture[str]) -> None:
    assert load("train_fast").main() >= 450
    printed = capsys.readouterr().out
    assert "engine: fused, since fused kernels" in printed
    assert "s  training, " in printed


def test_a_game_in_cuda_trains() -> None:
    # A basket that stands still catches three fruits of ten, and loses after the third miss.
    assert load("cuda_environment").main(250_000) >= 6


def test_trading_earns_on_prices_that_it_has_not_seen(capsys: pytest.CaptureFixture[str]) -> None:
    # Whoever holds one unit all the time gains nothing but the drift.
    assert load("trading").main(150_000) >= 1.0
    assert "fees of a year" in capsys.readouterr().out


def test_planning_swings_the_pendulum_up() -> None:
    """Random torques earn about -1,200 in 200 steps; one swing up and standing still costs 120 to 400."""
    assert load("plan_with_rollouts").main(sequences=500, steps=100) > -450


def test_evaluation_counts_every_episode_once() -> None:
    example = load("policy_evaluation")
    returns = example.main(300, lambda metrics: metrics["timesteps"] >= 20_000)
    assert returns.shape == (300,)
    assert ((returns >= 8) & (returns <= 500)).all()
    policy = example.train(lambda metrics: metrics["timesteps"] >= 20_000)
    # What an environment does depends on its own streams alone: the same episodes in another batch.
    torch.testing.assert_close(example.episode_returns(policy, 20), returns[:20], rtol=0, atol=0)


def test_the_histogram_holds_every_value() -> None:
    lines = load("policy_evaluation").histogram(torch.tensor([0.0, 1.0, 1.0, 4.0]), bins=4, width=2).splitlines()
    assert [line.split() for line in lines] == [
        ["0.0", "1", "█"], ["1.0", "2", "██"], ["2.0", "0"], ["3.0", "1", "█"]
    ]  # fmt: skip


def test_a_new_environment_takes_at_most_45_lines_of_code() -> None:
    source = (EXAMPLES / "custom_environment.py").read_text()
    environment = source.split('"""')[2].split("# ---")[0]
    lines = [line.strip() for line in environment.splitlines()]
    # The learner is imported for the part below.
    code = [line for line in lines if line and not line.startswith("#") and "operant_gpu.models" not in line]
    assert 20 < len(code) <= MAX_LINES
