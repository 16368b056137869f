"""`operant-gpu replay`, and `train --on-fault`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from faulty_envs import Ball
from here import SUPPORT

import operant_gpu
from operant_gpu.cli import main, replay
from operant_gpu.registry import list_envs
from operant_gpu.vector import Faults

QUICK = ["--num-envs", "32", "--n-steps", "16", "--total-timesteps", "20000", "--device", "cpu", "--no-video"]
BALL = "faulty_envs.py:Ball"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(SUPPORT / "faulty_envs.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


def test_a_training_that_stops_leaves_what_replay_takes_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", BALL, "--run", "run", *QUICK, "--on-fault", "stop", "--env.kind", "0"]) == 1
    printed = capsys.readouterr()
    assert "went wrong, first environment " in printed.err
    assert f"  operant-gpu replay run --env {BALL}\n" in printed.out
    assert main(["replay", "run", "--env", BALL, "--row", "1"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    faults = Faults.load("run/faults.pt")
    assert first == f"0: {faults[0]}"
    assert f"{len(faults)} kept; number 1:" in lines
    assert lines[-1].endswith(": share = 1.0 / state.height")
    assert any(line.startswith("> ") and line.endswith("share = 1.0 / state.height") for line in lines)


def test_a_training_that_skips_goes_on_and_is_gone_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["train", BALL, "--run", "run", *QUICK, "--on-fault", "skip", "--env.kind", "1"]
    assert main(given) == 0
    assert f"  operant-gpu replay run --env {BALL}\n" in capsys.readouterr().out
    assert main(["train", BALL, "--resume", "run", "--total-timesteps", "22000", "--device", "cpu", "--no-video"]) == 0
    # The second session has a file of its own.
    assert len(list(Path("run").glob("faults*.pt"))) == 2
    assert main(["replay", "run", "--env", BALL]) == 0
    assert "root = tl.sqrt(speed + 1.0)" in capsys.readouterr().out.splitlines()[-1]


def test_a_refused_action_of_the_librarys_own_is_replayed(capsys: pytest.CaptureFixture[str]) -> None:
    env = operant_gpu.make("CartPole-v1", 3, device="cpu", debug="faults")
    env.reset(seed=1)
    env.step(torch.tensor([0, 2, -1]))
    env.save_faults("faults.pt")
    assert main(["replay", "faults.pt", "--row", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "refused: the action -1 is out of range: it may be 0 to 1"


def test_what_cannot_be_replayed_is_refused_in_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = Ball(4, device="cpu", debug="faults", kind=2)
    env.reset(seed=1)
    env.save_faults("none.pt")
    env.rollout(5)
    env.save_faults("faults.pt")
    env.snapshot().save("snapshot.pt")
    for arguments, message in (
        (["faults.pt"], "env: 'faults.pt' is of 'Ball-v0', which is none of the library's: give --env FILE.py:NAME"),
        (["faults.pt", "--env", BALL, "--row", "4"], "row: expected a number from 0 to 3, got 4"),
        (
            ["faults.pt", "--env", "CartPole-v1"],
            "env: the faults are of Ball-v0, got CartPole-v1: give its own",
        ),
        (["none.pt", "--env", BALL], "faults: 'none.pt' has no faults: nothing went wrong"),
        (["there.pt"], "path: there is no file 'there.pt'"),
        (["snapshot.pt"], "'snapshot.pt' is damaged: it lacks actions"),
        (["."], "faults: there are no files faults*.pt in the folder '.'"),
    ):
        if arguments == ["."]:
            Path("faults.pt").unlink()
        # Other tests of this process have registered it.
        monkeypatch.setattr(replay, "list_envs", lambda arguments=arguments: [] if len(arguments) == 1 else list_envs())
        assert main(["replay", *arguments]) == 2
        assert message in capsys.readouterr().err
