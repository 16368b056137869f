"""Several seeds on the command line: `train --seeds`, and what is done with the runs."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from made_runs import make_run

from operant_gpu.cli import main, seeds
from operant_gpu.cli import train as train_module
from operant_gpu.cli.seeds import Training, train_all
from operant_gpu.models import PPO
from operant_gpu.monitor import RunReader

SMALL = [
    "--num-envs",
    "16",
    "--n-steps",
    "8",
    "--batch-size",
    "32",
    "--device",
    "cpu",
    "--no-video",
    "--env.length",
    "0.6",
]
SHORT = [*SMALL, "--total-timesteps", "512"]
# Long enough to be interrupted.
LONG = [*SMALL, "--total-timesteps", "100000000", "--goal", "inf"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


def test_seeds_are_trained_as_each_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "CartPole-v1", "--seeds", "2", "--seed", "5", *SHORT]) == 0
    printed = capsys.readouterr().out
    assert "2 seeds in runs/CartPole-v1-1" in printed
    assert all(f"seed-{seed}   finished" in printed for seed in (5, 6))
    assert "CartPole-v1: 2 runs, 2 over: 0 solved, interquartile mean of the returns" in printed
    assert "operant-gpu compare runs/CartPole-v1-1 --against OTHER" in printed
    assert main(["train", "CartPole-v1", "--seed", "6", "--run", "alone", *SHORT]) == 0
    one, alone = (PPO.load(path).policy.state_dict() for path in ("runs/CartPole-v1-1/seed-6", "alone"))
    assert all(torch.equal(one[name], alone[name]) for name in alone)
    assert json.loads(Path("runs/CartPole-v1-1/seed-6/run.json").read_text())["params"]["length"] == 0.6
    assert "operant-gpu train CartPole-v1" not in Path("runs/CartPole-v1-1/seed-6.log").read_text()
    # What is done with them afterwards.
    capsys.readouterr()
    assert main(["eval", "runs/CartPole-v1-1", "--episodes", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["run"] for run in found["runs"]] == [f"runs/CartPole-v1-1/seed-{seed}" for seed in (5, 6)]
    means = [run["deterministic"]["mean"] for run in found["runs"]]
    assert found["over_runs"]["CartPole-v1"]["deterministic"]["iqm"] == pytest.approx(sum(means) / 2)
    # What rich would take for markup.
    Path("alone").rename("alone[red]:smile:")
    assert main(["eval", "runs/CartPole-v1-1", "alone[red]:smile:", "--episodes", "4"]) == 0
    printed = capsys.readouterr().out
    assert "deterministic: interquartile mean over 3 runs" in printed
    assert "alone[red]:smile:" in printed
    assert main(["eval", "runs/CartPole-v1-1", "runs/CartPole-v1-1/seed-5"]) == 2
    assert "eval: 'runs/CartPole-v1-1/seed-5' is given twice" in capsys.readouterr().err
    assert main(["monitor", "runs/CartPole-v1-1", "alone[red]:smile:", "--curve", "curve.png"]) == 0
    assert "runs/CartPole-v1-1: 2 runs, 2 over" in capsys.readouterr().out
    assert Path("curve.png").exists()


def test_two_sets_of_runs_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    for side, end in (("a", 500.0), ("b", 200.0)):
        for seed in range(5):
            make_run(Path(side) / f"seed-{seed}", [(0, 0.0), (12_000, end + seed)], goal=450.0)
    assert main(["compare", "a", "--against", "b", "--out", "curves.png"]) == 0
    printed = capsys.readouterr().out
    assert "CartPole-v1: 5 runs against 5" in printed
    rows = {line.split("  ")[0].strip(): " ".join(line.split()) for line in printed.splitlines()}
    assert rows["return at 12,000 steps"].startswith("return at 12,000 steps 502 (")
    assert rows["return at 12,000 steps"].endswith("100 % (100 to 100 %)")
    assert rows["steps until 450"].startswith("steps until 450 12,000 (12,000 to 12,000) never (never to never)")
    assert Path("curves.png").exists()
    assert main(["compare", "a", "--against", "b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["environments"]["CartPole-v1"]["return"]["runs"]["value"] == 502.0
    for wrong, message in (
        (["compare", "a", "--against", "a"], "is on both sides"),
        (["compare", "a", "--against", "b", "--out", "curves.pdf"], "expected a file that ends in .png"),
        (["compare", "a", "--against", "b", "--goal", "nan"], "goal: expected a finite number"),
        (["compare", "a", "--against", "c"], "'c' is not a run's directory"),
        (["eval"], "expected directories of runs or checkpoints' files, got none"),
    ):
        with pytest.raises(SystemExit) as caught:
            sys.exit(main(wrong))
        assert caught.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--seeds", "2"], "env: expected an environment, such as CartPole-v1, before --seeds, got none"),
        (["train", "CartPole-v1", "--seeds", "0"], "seeds: expected an integer from 1 to 10000, got 0"),
        (["train", "CartPole-v1", "--seeds", "1e12"], "seeds: expected an integer from 1 to 10000, got 1000000000000"),
        (["train", "CartPole-v1", "--seeds", "2", "--seed", "-1"], "seed: expected an integer from 0 to"),
        (["train", "CartPole-v1", "--seeds", "2", "--seed", str(2**63 - 1)], "seed: expected an integer from 0 to"),
        (["train", "CartPole-v1", "--seeds", "2", "--run", "a" * 300], "a...': File name too long"),
        (["train", "--resume", "a" * 300], "resume: cannot use the path 'aaaa"),
        (["compare", "a" * 300, "--against", "old"], "run: cannot use the path 'aaaa"),
        (["eval", "a" * 300], "path: cannot use the path 'aaaa"),
        (["train", "CartPole-v1", "--seeds", "2", "--run", "logs", *SHORT], "run: cannot begin seed-1, whose log is"),
        (["train", "Pendulum-v1", "--resume", "set"], "env: 'set' has runs of CartPole-v1, got Pendulum-v1"),
        (["train", "--resume", "set", "--seed", "3"], "seed: runs go on with their seeds: leave --seed out"),
        (["train", "--resume", "twice"], "its seeds are none, or not different"),
        (["train", "--resume", "none"], "its seeds are none, or not different"),
        (["train", "--resume", "other"], "its arguments are not those of train"),
        (["train", "CartPol-v1", "--seeds", "2"], "did you mean 'CartPole-v1'"),
        (
            ["train", "CartPole-v1", "--seeds", "2", "--run", "old"],
            "run: 'old' has runs already: give another, or go on",
        ),
        (["train", "CartPole-v1", "--seeds", "2", "--run", "old/seed-0"], "run: 'old/seed-0' has runs already"),
        (["train", "CartPole-v1", "--seeds", "2", "--run", "/dev/null/x"], "run: cannot write in the folder"),
        (["train", "--resume", "damaged"], "resume: cannot read 'damaged/seeds.json'"),
        (["train", "--resume", "damaged", "--seeds", "2"], "seeds: runs go on with their seeds"),
        (["train", "--resume", "damaged", "--run", "x"], "run: runs go on with their seeds, in their directories"),
        (["train", "CartPole-v1", "--seeds", "3", "--gamma", "2"], "gamma: expected a number in [0, 1]"),
        # What only the trainings find out, and all of them.
        (["train", "CartPole-v1", "--seeds", "2", "--engine", "graph", "--device", "cpu"], "engine: 'graph'"),
    ],
)
def test_a_mistake_with_seeds_is_said_once(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(Path("old") / "seed-0", [(0, 0.0)])
    Path("damaged").mkdir()
    Path("damaged/seeds.json").write_text('{"format": 1, "seeds": 3}')
    Path("logs/seed-1.log").mkdir(parents=True)
    train = ["train", "CartPole-v1"]
    for name, plan in {
        "set": {"arguments": train, "seeds": [0]},
        "twice": {"arguments": train, "seeds": [0, 0]},
        "none": {"arguments": train, "seeds": []},
        "other": {"arguments": ["eval", "x"], "seeds": [0]},
    }.items():
        Path(name).mkdir()
        Path(name, "seeds.json").write_text(json.dumps({"format": 1, **plan}))
    assert main(arguments) == 2
    assert capsys.readouterr().err.count(message) == 1


def test_an_environment_of_ones_own_goes_on_too(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text(
        "from dataclasses import replace\nfrom operant_gpu.envs import CartPole\n"
        'Own = replace(CartPole, id="OwnOfSeeds-v0")\n'
    )
    assert main(["train", "own.py:Own", "--seeds", "2", "--run", "set", *SHORT]) == 0
    assert "operant-gpu eval set --env own.py:Own" in capsys.readouterr().out
    # One had not begun, and the file has moved.
    shutil.rmtree("set/seed-1")
    Path("own.py").rename("moved.py")
    assert main(["train", "moved.py:Own", "--resume", "set", "--total-timesteps", "640"]) == 0
    assert [RunReader(f"set/seed-{seed}").refresh().latest["timesteps"] for seed in range(2)] == [640, 640]
    Path("moved.py").rename("own.py")
    assert main(["train", "--resume", "set", "--total-timesteps", "768"]) == 0
    assert [RunReader(f"set/seed-{seed}").refresh().latest["timesteps"] for seed in range(2)] == [768, 768]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_behind_the_output_is_said_in_a_line() -> None:
    for side in ("a", "b"):
        make_run(Path(side), [(1, 1.0)])
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "operant_gpu", "compare", "a", "--against", "b"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert ended.stderr == "operant-gpu: [Errno 28] No space left on device\n"


def test_last_words_are_of_this_time(tmp_path: Path) -> None:
    training = Training(tmp_path / "seed-0", ["--no-such-option"])
    training.log.write_text("An error of the last time.\n")
    assert training.last_words() == "it printed nothing"
    training.begin()
    assert training.process is not None
    training.process.wait()
    assert training.last_words() == f"what it printed is in {training.log}"


def program(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "operant_gpu", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def until_they_learn(folders: Sequence[Path]) -> None:
    until = time.monotonic() + 300
    while not all((folder / "run.json").exists() and RunReader(folder).refresh().latest for folder in folders):
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, *(pytest.param(one, marks=pytest.mark.thorough) for one in (signal.SIGTERM, signal.SIGHUP))],
)
def test_a_signal_saves_all_and_resume_goes_on_with_all(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # More seeds than can go on at once: some never begin.
    count = seeds.usable_cores() + 1
    runs = [Path("set") / f"seed-{seed}" for seed in range(count)]
    with program("train", "CartPole-v1", "--seeds", str(count), "--run", "set", *LONG) as process:
        try:
            until_they_learn(runs[:-1])
            process.send_signal(number)
            output, _ = process.communicate(timeout=300)
        finally:
            process.terminate()
    assert process.returncode == 128 + number
    assert "operant-gpu train --resume set" in output
    assert not runs[-1].exists()
    steps = [PPO.load(run).timesteps for run in runs[:-1]]
    assert all(step > 0 for step in steps)
    assert main(["train", "--resume", "set", "--total-timesteps", str(max(steps) + 1000)]) == 0
    assert [RunReader(run).refresh().state for run in runs] == ["finished"] * count
    assert all(PPO.load(run).timesteps > step for run, step in zip(runs, [*steps, 0], strict=True))


def test_no_more_go_on_at_once_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = []
    monkeypatch.setattr(train_module, "train_all", lambda trainings, number, console: at_once.append(number) or 0)
    monkeypatch.setattr(train_module, "usable_cores", lambda: 3)
    for count in ("2", "10"):
        assert main(["train", "CartPole-v1", "--seeds", count, "--run", f"of-{count}", "--device", "cpu"]) == 0
    # Trainings that share a GPU only wait for each other.
    assert main(["train", "CartPole-v1", "--seeds", "10", "--run", "gpu", "--device", "cuda"]) == 0
    assert at_once == [2, 3, 1]


def test_trainings_begin_as_others_end(monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = [Training(Path(f"seed-{seed}"), []) for seed in range(5)]
    running: list[int] = []

    class Process:
        """Ends at the third look."""

        def __init__(self) -> None:
            self.looks = 0

        def poll(self) -> int | None:
            self.looks += 1
            return 0 if self.looks > 3 else None

    def begin(one: Training) -> None:
        one.process = Process()  # type: ignore[assignment]
        running.append(sum(other.is_running for other in trainings))

    monkeypatch.setattr(Training, "begin", begin)
    monkeypatch.setattr(seeds, "_PAUSE", 0.0)
    monkeypatch.setattr(seeds, "_report", lambda trainings, console: None)
    assert train_all(trainings, 2, None) == 0  # type: ignore[arg-type]
    assert len(running) == 5
    assert max(running) <= 2
