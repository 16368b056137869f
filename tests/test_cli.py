"""The command line as a user meets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from operant_gpu.cli import main
from operant_gpu.models import PPO

QUICK = ["--num-envs", "16", "--total-timesteps", "512", "--n-steps", "8", "--batch-size", "32"]


def test_train_reports_what_it_reached_and_saves_the_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "policy.pt"
    assert main(["train", "CartPole-v1", "--out", str(out), "--device", "cpu", *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "Trained CartPole-v1: mean return" in printed
    assert "512 steps in" in printed
    assert f"Policy saved to {out}" in printed
    assert PPO.load(out).timesteps == 512


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "CartPol-v1"], "did you mean 'CartPole-v1'"),
        (["train", "CartPole-v1", "--num-envs", "0"], "num_envs: expected 1 to"),
        (["train", "CartPole-v1", "--gamma", "2"], "gamma: expected a number in [0, 1]"),
        (["train", "CartPole-v1", "--device", "abacus"], "device: expected 'auto'"),
        (["train", "CartPole-v1", "--out", "."], "out: expected a file"),
    ],
)
def test_a_mistake_gets_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        sys.exit(main(arguments))
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_help_names_the_options() -> None:
    command = [sys.executable, "-m", "operant_gpu.cli", "train", "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(option in printed for option in ("--num-envs", "--total-timesteps", "--out", "--lr", "--gamma"))


def test_an_interruption_keeps_what_was_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("operant_gpu.cli._solved", interrupted)
    out = tmp_path / "policy.pt"
    monkeypatch.setattr("operant_gpu.cli._report", lambda *_: "Interrupted")
    assert main(["train", "CartPole-v1", "--out", str(out), "--device", "cpu", *QUICK]) == 130
    assert f"Policy saved to {out}" in capsys.readouterr().out
    assert PPO.load(out).timesteps == 128
