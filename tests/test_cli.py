"""The command line as a user meets it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from operant_gpu.cli import main
from operant_gpu.models import PPO, PPOConfig

QUICK = ["--num-envs", "16", "--total-timesteps", "512", "--n-steps", "8", "--batch-size", "32"]
SMALL = PPOConfig(num_envs=16, total_timesteps=512, n_steps=8, batch_size=32, gamma=0.5)


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
        (["train", "CartPole-v1", "--num-envs", "0"], "num_envs: expected an integer of at least 1, got 0"),
        (["train", "CartPole-v1", "--gamma", "2"], "gamma: expected a number in [0, 1]"),
        (["train", "CartPole-v1", "--device", "abacus"], "device: expected 'auto'"),
        (["train", "CartPole-v1", "--out", "."], "out: expected a file"),
        (["train", "CartPole-v1", "--out", "/dev/null/policy.pt"], "out: cannot write in the folder '/dev/null'"),
        (["train", "CartPole-v1", "--config", "missing.toml"], "config: cannot read settings from 'missing.toml'"),
        (["train", "CartPole-v1", "--gru-size", "8", "--n-steps", "1"], "n_steps: a GRU learns nothing"),
    ],
)
def test_a_mistake_gets_its_reason_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        sys.exit(main(arguments))
    assert caught.value.code == 2
    # Some messages come in a frame, broken into lines.
    error = " ".join(re.sub("[─-╿]", " ", capsys.readouterr().err).split())
    assert message in error
    assert "Traceback" not in error


def test_a_settings_file_replaces_the_tuned_settings_and_options_replace_both(tmp_path: Path) -> None:
    SMALL.to_toml(tmp_path / "small.toml")
    for name, arguments in (("file", []), ("option", ["--gamma", "0.75", "--hidden-sizes", "8", "8", "8"])):
        out = tmp_path / f"{name}.pt"
        options = ["--config", str(tmp_path / "small.toml"), "--out", str(out), "--device", "cpu", *arguments]
        assert main(["train", "Pendulum-v1", *options]) == 0
    assert PPO.load(tmp_path / "file.pt").config == SMALL
    changed = PPO.load(tmp_path / "option.pt").config
    assert (changed.gamma, changed.hidden_sizes, changed.num_envs) == (0.75, (8, 8, 8), 16)


def test_the_tuned_settings_of_the_environment_are_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    printed = {}
    for env in ("Pendulum-v1", "CartPole-v1"):
        with pytest.raises(SystemExit):
            main(["train", env, "--help"])
        printed[env] = capsys.readouterr().out
        assert f"(default: {PPOConfig.for_env(env).gamma:g})" in " ".join(printed[env].split())
    assert printed["Pendulum-v1"] != printed["CartPole-v1"]


def test_a_training_that_fails_keeps_the_last_good_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "policy.pt"
    assert main(["train", "CartPole-v1", "--out", str(out), "--device", "cpu", "--lr", "1e30", *QUICK]) == 1
    assert "a number is not finite" in capsys.readouterr().err
    assert all(parameter.isfinite().all() for parameter in PPO.load(out).policy.parameters())


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
