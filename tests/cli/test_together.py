"""Commands in several processes, as torchrun starts them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import commands_together as program
import psutil
import pytest
from together import results

from operant_gpu.models import PPO, Processes
from operant_gpu.monitor.reader import read_description

QUICK = ("--num-envs", "16", "--n-steps", "8", "--batch-size", "32", "--device", "cpu", "--no-video")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "operant_gpu")


def test_the_first_process_prints_and_writes_for_all(tmp_path: Path) -> None:
    train = ("train", "CartPole-v1", *QUICK, "--total-timesteps", "1024")
    play = ("eval", "runs/CartPole-v1-1", "--episodes", "7", "--json", "--device", "cpu")
    bench = ("bench", "CartPole-v1", "--num-envs", "16", "--device", "cpu", "--seconds", "0.02")
    go_on = ("train", "--resume", "runs/CartPole-v1-1", "--device", "cpu", "--no-video", "--total-timesteps", "2048")
    first, second = results(program.commands, str(tmp_path), train, play, bench, go_on)
    assert [status for status, _, _ in first] == [status for status, _, _ in second] == [0] * 4
    assert [printed for _, *printed in second] == [["", ""]] * 4
    trained, played, measured, resumed = (out for _, out, _ in first)
    assert "CartPole-v1 in runs/CartPole-v1-1: 2 processes of 16 environments on cpu" in trained
    assert "1,024 steps in" in trained
    assert "in each of 2 processes, whose speeds are summed up" in " ".join(measured.split())
    assert "going on from 1,024 steps" in resumed
    assert "2,048 steps in" in resumed
    run = tmp_path / "runs" / "CartPole-v1-1"
    description = read_description(run)
    assert description["details"].startswith("2 processes of 16 environments, ")
    assert [session["processes"] for session in description["sessions"]] == [2, 2]
    assert (run / "config.toml").read_text().startswith("num_envs = 16\n")
    # For one process, it is a training in all the environments.
    learner = PPO.load(run, processes=Processes())
    assert (learner.env.num_envs, learner.config.num_envs, learner.config.batch_size) == (32, 32, 64)
    status, alone, _ = results(program.commands, str(tmp_path), play, size=1)[0][0]
    assert status == 0
    # Before the run went on.
    assert json.loads(played)["timesteps"] == 1024
    assert json.loads(alone)["timesteps"] == 2048
    assert json.loads(played)["deterministic"]["episodes"] == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "CartPol-v1"), "did you mean 'CartPole-v1'"),
        (("train", "CartPole-v1", "--run", "/dev/null/run"), "run: cannot write in the folder '/dev/null/run'"),
        (("train", "--resume", "nowhere"), "nowhere"),
    ],
)
def test_a_mistake_ends_all(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (status, out, err), other = results(program.command, str(tmp_path), *arguments, joins=False)
    assert status == 2
    assert "CartPole-v1 in" not in out
    assert message in err
    # One is enough.
    assert other == (2, "", "")


def test_a_run_that_is_in_use_is_refused_by_all(tmp_path: Path) -> None:
    train = ("train", "CartPole-v1", *QUICK, "--total-timesteps", "256", "--run", "mine")
    assert results(program.command, str(tmp_path), *train, joins=False)[0][0] == 0
    (status, _, err), other = results(program.command, str(tmp_path), *train, joins=False)
    assert status == other[0] == 2
    assert "'mine' has a training already" in err


@pytest.mark.thorough
def test_a_process_that_is_killed_ends_a_run_that_can_be_resumed(tmp_path: Path) -> None:
    train = ("train", "CartPole-v1", *QUICK, "--run-dir", "mine", "--goal", "inf", "--checkpoint-interval", "5")
    command = [*TORCHRUN, *train, "--total-timesteps", "1000000000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    with subprocess.Popen(command, **pipes) as torchrun:  # type: ignore[call-overload]
        checkpoints = tmp_path / "mine" / "checkpoints"
        _wait_until(lambda: len([*checkpoints.glob("step-*.pt")]) > 1)
        workers = psutil.Process(torchrun.pid).children()
        ranks = {int(worker.environ()["RANK"]): worker for worker in workers if "RANK" in worker.environ()}
        killed = time.monotonic()
        ranks[1].kill()
        _, err = torchrun.communicate(timeout=60.0)
        assert torchrun.returncode
        assert time.monotonic() - killed < 60.0
    assert "rank 1 does not answer: its process was killed or does not run, or its machine is gone" in err
    assert read_description(tmp_path / "mine")["state"] == "failed"
    newest = max(int(path.stem.removeprefix("step-")) for path in checkpoints.glob("step-*.pt"))
    assert newest
    for size in (2, 1):
        steps = str(newest + 1024 * (3 - size))
        again = ("train", "--resume", "mine", "--device", "cpu", "--no-video", "--total-timesteps", steps)
        first = results(program.command, str(tmp_path), *again, size=size, joins=False)[0]
        assert first[0] == 0, first
        assert ("environments dealt out anew: 32, of 2 processes before, to 1 now" in first[2]) == (size == 1)
    assert read_description(tmp_path / "mine")["state"] == "finished"


def _wait_until(condition: object, seconds: float = 60.0) -> None:
    assert callable(condition)
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
