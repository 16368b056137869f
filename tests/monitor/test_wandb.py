"""Weights & Biases, with a stand-in for its package."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import operant_gpu
from operant_gpu import BackendError
from operant_gpu.cli import main
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.monitor import Run, WeightsAndBiases


class Service:
    """What `wandb.init` was given, and what was logged."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []
        self.defined: list[tuple[str, str]] = []
        self.finished = 0

    def init(self, **arguments: Any) -> Any:
        self.begun.append(arguments)
        return SimpleNamespace(log=self.logged.append, finish=self._finish, define_metric=self._define)

    def _define(self, name: str, step_metric: str) -> None:
        self.defined.append((name, step_metric))

    def _finish(self) -> None:
        self.finished += 1


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    made = Service()
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=made.init))
    return made


def test_a_run_and_its_resumption_are_one_there(service: Service, tmp_path: Path) -> None:
    config = PPOConfig(n_steps=8, batch_size=32, hidden_sizes=(16,))
    learner = PPO(operant_gpu.make("CartPole-v1", 16, device="cpu"), config)
    with Run(learner, tmp_path / "run", writers=[WeightsAndBiases("games", tags=["a"])]) as run:
        learner.learn(256, callback=run)
    learner = PPO.load(tmp_path / "run")
    with Run(learner, tmp_path / "run", writers=[WeightsAndBiases("games")]) as run:
        learner.resume(512, callback=run)
    first, second = service.begun
    assert first["id"] == second["id"]
    assert (first["project"], first["name"], first["resume"], first["tags"]) == ("games", "run", "allow", ["a"])
    assert first["config"]["env"] == "CartPole-v1"
    assert first["config"]["lr"] == config.lr
    # By a metric of its own: the service's steps never go back.
    assert [values["timesteps"] for values in service.logged] == [128, 256, 384, 512]
    assert service.defined == [("*", "timesteps")] * 2
    assert "losses/value_loss" in service.logged[0]
    assert service.finished == 2


def test_a_service_that_refuses_is_an_error_and_leaves_the_directory_free(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**arguments: Any) -> None:
        raise PermissionError("not logged in")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    options = ["--run", str(tmp_path / "run"), "--no-video", "--num-envs", "16", "--total-timesteps", "512"]
    assert main(["train", "CartPole-v1", *options, "--wandb", "games"]) == 2
    assert "does not begin a run: not logged in; `wandb login`" in capsys.readouterr().err
    assert main(["train", "CartPole-v1", *options]) == 0


def test_the_command_line_takes_a_project(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--run", str(tmp_path / "run"), "--no-video", "--num-envs", "16", "--total-timesteps", "512"]
    assert main(["train", "CartPole-v1", *options, "--wandb", "games"]) == 0
    assert service.begun[0]["project"] == "games"
    assert (tmp_path / "run" / "tensorboard").is_dir()
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(["train", "CartPole-v1", *options, "--wandb", "games"]) == 2
    assert "Weights & Biases needs wandb" in capsys.readouterr().err
    with pytest.raises(BackendError, match=r'pip install -e "\.\[wandb\]"'):
        WeightsAndBiases("games")
