"""A run's directory: what is in it, who may write there, and how others read it."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from here import ROOT
from records import RECORD

import operant_gpu
from operant_gpu import InvalidConfig, TrainingError
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.monitor import JSONLines, Run, RunReader, TensorBoard, View, draw_curve
from operant_gpu.monitor import run as run_module
from operant_gpu.monitor.dashboard import dashboard
from operant_gpu.monitor.reader import latest_run
from operant_gpu.monitor.run import free_folder

EventAccumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator


def make(env: str = "CartPole-v1", **changes: Any) -> PPO:
    settings: dict[str, Any] = {"n_steps": 8, "batch_size": 32, "n_epochs": 2, "hidden_sizes": (16,), **changes}
    return PPO(operant_gpu.make(env, 16, device="cpu"), PPOConfig(**settings))


def train(folder: Path, timesteps: int = 512, **changes: Any) -> PPO:
    learner = make(**changes)
    with Run(learner, folder) as run:
        learner.learn(timesteps, callback=run)
    return learner


def readings(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_what_is_in_the_directory(tmp_path: Path) -> None:
    learner = train(tmp_path / "run", checkpoint_keep=2, checkpoint_interval=1)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        *("checkpoints", "config.toml", "curve.png", "lock", "metrics.jsonl", "run.json", "tensorboard")
    ]
    assert PPOConfig.from_toml(tmp_path / "run" / "config.toml") == learner.config
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-000000000384.pt", "step-000000000512.pt"]
    assert (tmp_path / "run" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_after_a_run_the_learner_writes_there_no_more(tmp_path: Path) -> None:
    learner = train(tmp_path)
    learner.learn(512)
    assert PPO.load(tmp_path).timesteps == 512


def test_the_description_says_what_ran_where_and_with_what(tmp_path: Path) -> None:
    train(tmp_path)
    description = json.loads((tmp_path / "run.json").read_text())
    assert description["env"] == "CartPole-v1"
    assert description["params"]["gravity"] == 9.8
    assert (description["state"], description["start"], description["target"]) == ("finished", 0, 512)
    (session,) = description["sessions"]
    assert session["pid"] == os.getpid()
    assert session["host"] == socket.gethostname()
    assert session["versions"]["torch"] == torch.__version__
    assert session["machine"]
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert session["git"]["revision"] == head.stdout.strip()


def test_the_metrics_are_the_callbacks_with_times_and_use_of_the_machine(tmp_path: Path) -> None:
    learner, seen = make(), list[dict[str, float]]()
    with Run(learner, tmp_path) as run:
        learner.learn(512, lambda metrics: seen.append(metrics) or run(metrics))
    kept = readings(tmp_path)
    assert len(kept) == 4
    for one, other in zip(kept, seen, strict=True):
        for name, value in other.items():
            assert one[name] == (value if math.isfinite(value) else None)
        assert {"time", "cpu_percent", "ram_gib"} <= one.keys()
        assert 0.01 < one["ram_gib"] < 100


def test_tensorboard_reads_its_events(tmp_path: Path) -> None:
    train(tmp_path, 1280)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    kept = readings(tmp_path)
    for tag, name in (("losses/value_loss", "value_loss"), ("time/sps", "sps"), ("update/approx_kl", "approx_kl")):
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [reading["timesteps"] for reading in kept]
        assert [scalar.value for scalar in scalars] == pytest.approx([reading[name] for reading in kept])
    # Before the first episode ends there is none.
    assert len(events.Scalars("rollout/episodic_return")) == sum(kept_one["episodes"] > 0 for kept_one in kept)


@pytest.mark.parametrize("set_back", [0.0, 3600.0])
def test_a_run_that_goes_on_from_an_older_checkpoint_replaces_what_came_later(
    set_back: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, 1280, checkpoint_interval=5)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - set_back)
    (tmp_path / "checkpoints" / "step-000000001280.pt").unlink()
    learner = PPO.load(tmp_path)
    assert learner.timesteps == 640
    with Run(learner, tmp_path) as run:
        learner.resume(callback=run)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    # TensorBoard shows what was learned, and not what was lost.
    steps = [scalar.step for scalar in events.Scalars("time/sps")]
    assert steps == [128 * (iteration + 1) for iteration in range(10)]
    view = RunReader(tmp_path).refresh()
    assert [step for step, _ in view.returns][-5:] == [768, 896, 1024, 1152, 1280]
    assert [reading["timesteps"] for reading in readings(tmp_path)][10:] == [768, 896, 1024, 1152, 1280]


def test_long_trainings_keep_all_of_the_first_readings_and_then_some_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "_ALL_READINGS", 3)
    train(tmp_path, 2560)
    steps = [reading["timesteps"] for reading in readings(tmp_path)]
    assert steps[:3] == [128, 256, 384]
    # The last one always.
    assert steps[-1] == 2560
    assert len(steps) < 20


def test_a_clock_that_is_set_back_keeps_no_reading_from_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "_ALL_READINGS", 3)
    monkeypatch.setattr(run_module, "_INTERVAL", 0.0)
    clock = itertools.count(2e9, -600)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    train(tmp_path, 2560)
    assert len(readings(tmp_path)) == 20


def test_the_goal_ends_the_training(tmp_path: Path) -> None:
    learner = make()
    with Run(learner, tmp_path, goal=5.0) as run:
        learner.learn(100_000, callback=run)
    assert learner.timesteps < 100_000
    assert run.view.state == json.loads((tmp_path / "run.json").read_text())["state"] == "solved"


@pytest.mark.parametrize(
    ("error", "state"),
    [(TrainingError("not finite"), "failed"), (KeyboardInterrupt(), "stopped"), (ValueError("own"), "failed")],
)
def test_errors_are_noted_and_go_on_to_the_caller(error: BaseException, state: str, tmp_path: Path) -> None:
    def fail(metrics: dict[str, float]) -> None:
        raise error

    learner = make()
    with pytest.raises(type(error)), Run(learner, tmp_path):
        learner.learn(512, callback=fail)
    view = RunReader(tmp_path).refresh()
    assert view.state == state
    assert (state == "failed") is (str(error) in view.message and view.message != "")


def test_two_trainers_in_one_directory(tmp_path: Path) -> None:
    with Run(make(), tmp_path), pytest.raises(InvalidConfig, match=f"is in use by process {os.getpid()} on"):
        Run(make(), tmp_path).__enter__()
    # The first one's files are as they were, and the lock is free again.
    assert RunReader(tmp_path).refresh().state == "stopped"
    with Run(make(), tmp_path / "other"):
        pass


def test_a_run_is_open_within_its_with_alone(tmp_path: Path) -> None:
    learner = make()
    run = Run(learner, tmp_path)
    with pytest.raises(InvalidConfig, match="is not open: `with Run"):
        learner.learn(128, callback=run)
    with run:
        with pytest.raises(InvalidConfig, match="is open already"), run:
            pass
        learner.resume(256, callback=run)
    # Another session of the same one.
    with run:
        assert RunReader(tmp_path).refresh().state == "running"
        learner.resume(512, callback=run)
    assert [session["timesteps"] for session in json.loads((tmp_path / "run.json").read_text())["sessions"]] == [
        128,
        256,
    ]
    assert PPO.load(tmp_path).timesteps == 512


def test_trainings_of_something_else_are_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(InvalidConfig, match="has a training already: `operant-gpu train --resume"):
        Run(make(), tmp_path).__enter__()
    other = make("Pendulum-v1")
    other.learn(128)
    with pytest.raises(InvalidConfig, match="has a training of CartPole-v1, this one is of Pendulum-v1"):
        Run(other, tmp_path).__enter__()
    assert PPO.load(tmp_path).timesteps == 512


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def delivered() -> Iterator[list[int]]:
    """Signals that have come through to the program's own handlers, which a run leaves in place."""
    came: list[int] = []

    def handle(number: int, frame: Any) -> None:
        came.append(number)

    before = [signal.signal(number, handle) for number in SIGNALS]
    yield came
    assert [signal.signal(number, old) for number, old in zip(SIGNALS, before, strict=True)] == [handle] * 3


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_iteration_saves_and_goes_on(
    number: signal.Signals, tmp_path: Path, delivered: list[int]
) -> None:
    learner = make()

    def callback(metrics: dict[str, float]) -> None:
        run(metrics)
        if metrics["iterations"] == 3:
            os.kill(os.getpid(), number)

    with Run(learner, tmp_path) as run:
        learner.learn(100_000, callback=callback)
        assert delivered == []
    assert delivered == [run.signal] == [number]
    assert PPO.load(tmp_path).iterations == learner.iterations == 3
    assert RunReader(tmp_path).refresh().state == "stopped"


def test_a_second_signal_interrupts_at_once(tmp_path: Path, delivered: list[int]) -> None:
    def callback(metrics: dict[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    learner = make()
    with pytest.raises(KeyboardInterrupt), Run(learner, tmp_path):
        learner.learn(100_000, callback=callback)
    assert PPO.load(tmp_path).timesteps == 0


@pytest.mark.usefixtures("delivered")
def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Run(make(), tmp_path):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("delivered")
def test_a_signal_while_a_run_is_closed_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(run_module, "draw_curve", draw)
    learner = make()
    with Run(learner, tmp_path) as run:
        learner.learn(256, callback=run)
    assert (run.signal, run.view.state) == (None, "finished")
    assert learner.learn(128).timesteps == 384


def test_a_run_that_was_opened_elsewhere_can_be_trained_in_a_thread(tmp_path: Path) -> None:
    learner = make()
    with Run(learner, tmp_path) as run:
        thread = threading.Thread(target=learner.learn, args=(256, run))
        thread.start()
        thread.join()
    assert len(readings(tmp_path)) == 2


def test_a_second_training_in_the_same_run_is_running_again(tmp_path: Path) -> None:
    learner, states = make(), list[str]()
    with Run(learner, tmp_path) as run:
        learner.learn(256, callback=run, progress=True)
        learner.learn(256, lambda metrics: run(metrics) and states.append(RunReader(tmp_path).refresh().state))
    assert states == ["running", "running"]


def test_a_thread_has_no_signals_and_trains_all_the_same(tmp_path: Path) -> None:
    thread = threading.Thread(target=train, args=(tmp_path,))
    thread.start()
    thread.join()
    assert PPO.load(tmp_path).timesteps == 512


def test_free_folders_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [str(free_folder("CartPole-v1")) for _ in range(3)]
    assert names == ["runs/CartPole-v1-1", "runs/CartPole-v1-2", "runs/CartPole-v1-3"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    Path("runs").write_text("")
    with pytest.raises(InvalidConfig, match="run: cannot make the folder"):
        free_folder("CartPole-v1")


def test_a_reader_follows_what_is_appended(tmp_path: Path) -> None:
    learner = make()
    steps: list[float] = []
    with Run(learner, tmp_path) as run:
        reader = RunReader(tmp_path)
        assert reader.refresh().state == "running"

        def callback(metrics: dict[str, float]) -> None:
            run(metrics)
            steps.append(reader.refresh().latest["timesteps"])

        learner.learn(512, callback=callback)
    assert steps == [128, 256, 384, 512]
    view = reader.refresh()
    assert (view.state, view.progress, view.title) == ("finished", 1.0, "CartPole-v1")


def test_a_reader_leaves_half_lines_and_damage_alone(tmp_path: Path) -> None:
    train(tmp_path)
    file = tmp_path / "metrics.jsonl"
    whole = file.read_bytes()
    file.write_bytes(b'\xff\x00{nonsense\n[1]\n{}\n{"timesteps": ' + b"9" * 400 + b"}\n" + whole + b'{"timesteps": 9')
    view = RunReader(tmp_path).refresh()
    assert view.latest["timesteps"] == 512
    with file.open("ab") as appended:
        appended.write(b"99\n")
    # Complete now, but no reading.
    assert RunReader(tmp_path).refresh().latest["timesteps"] == 512


def test_a_writer_goes_on_after_half_a_line(tmp_path: Path) -> None:
    for timesteps in (1.0, 2.0):
        writer = JSONLines()
        writer.begin(tmp_path, {}, 0)
        writer.write({"timesteps": timesteps, "episodic_return": math.nan})
        writer.close()
        with (tmp_path / "metrics.jsonl").open("ab") as file:
            file.write(b'{"timest')
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines[:2]] == [
        {"timesteps": 1.0, "episodic_return": None},
        {"timesteps": 2.0, "episodic_return": None},
    ]
    assert lines[2:] == ['{"timest']


def test_a_process_that_is_gone_is_seen_to_be(tmp_path: Path) -> None:
    train(tmp_path)
    path = tmp_path / "run.json"
    description = json.loads(path.read_text())
    description["state"] = "running"
    path.write_text(json.dumps(description))
    assert RunReader(tmp_path).refresh().state == "running"
    session = description["sessions"][-1]
    for change, state in (
        # Another process has its number now.
        ({"pid_since": session["pid_since"] - 100}, "killed"),
        ({"pid": 2**22 + 1}, "killed"),
        # Who knows what goes on elsewhere.
        ({"pid": 2**22 + 1, "host": "elsewhere"}, "running"),
    ):
        description["sessions"] = [{**session, **change}]
        path.write_text(json.dumps(description))
        assert RunReader(tmp_path).refresh().state == state


def test_a_process_is_there_though_the_clock_was_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems say when it began by the clock that they have now."""
    train(tmp_path)
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "running"}))
    booted, began = psutil.boot_time, psutil.Process.create_time
    monkeypatch.setattr(psutil, "boot_time", lambda: booted() - 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: began(self) - 3600)
    assert RunReader(tmp_path).refresh().state == "running"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 99}', '{"format": 1}', "[" * 100_000])
def test_a_damaged_description_is_an_error_that_names_the_file(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InvalidConfig, match=r"run\.json"):
        RunReader(tmp_path)


def test_the_latest_run_is_that_in_which_something_happened_last(tmp_path: Path) -> None:
    for age, name in ((30, "a"), (10, "deep/b"), (20, "c")):
        train(tmp_path / name, 128)
        for file in ("run.json", "metrics.jsonl"):
            os.utime(tmp_path / name / file, (1_000_000 - age, 1_000_000 - age))
    assert latest_run(tmp_path) == tmp_path / "deep/b"
    os.utime(tmp_path / "a" / "metrics.jsonl")
    assert latest_run(tmp_path) == tmp_path / "a"


def test_writers_of_the_callers_own_and_their_failures(tmp_path: Path) -> None:
    class Own:
        def begin(self, folder: Path, settings: Any, timesteps: int) -> None:
            self.begun, self.records = (folder, settings["env"], settings["lr"], timesteps), list[Any]()

        def write(self, record: Any) -> None:
            self.records.append(record)
            if len(self.records) in (2, 3):
                raise ConnectionError("no network")

        def close(self) -> None:
            self.closed = True

    own, learner = Own(), make()
    message = r"Own cannot write metrics: no network\. Training goes on"
    with pytest.warns(RuntimeWarning, match=message) as caught, Run(learner, tmp_path, writers=[own]) as run:
        learner.learn(640, callback=run)
    # One for failures in a row.
    assert len(caught) == 1
    assert own.begun == (tmp_path, "CartPole-v1", learner.config.lr, 0)
    assert [record["timesteps"] for record in own.records] == [128, 256, 384, 512, 640]
    assert own.closed
    assert not (tmp_path / "tensorboard").exists()


def test_events_of_tensorboard_are_named_by_their_group(tmp_path: Path) -> None:
    writer = TensorBoard()
    writer.begin(tmp_path, {}, 0)
    writer.write({**RECORD, "time": 1.0, "gpu_percent": 50.0, "unknown": 1.0})
    writer.close()
    tags = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Tags()["scalars"]
    assert {"rollout/episodic_return", "update/lr", "time/env_sps", "machine/gpu_percent"} <= set(tags)
    assert not any("unknown" in tag for tag in tags)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("env", None),
        ("state", "asleep"),
        ("target", "far"),
        ("start", None),
        ("goal", "high"),
        ("sessions", []),
        ("sessions", [{"pid": 1}]),
        ("sessions", 5),
        ("details", 5),
        ("message", None),
    ],
)
def test_a_description_with_something_else_in_it_is_an_error(name: str, value: Any, tmp_path: Path) -> None:
    train(tmp_path, 128)
    description = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**description, name: value}))
    with pytest.raises(InvalidConfig, match=f"run.json' is damaged: {name} is "):
        RunReader(tmp_path)


def test_lines_that_are_no_readings_are_passed_over(tmp_path: Path) -> None:
    train(tmp_path)
    last = readings(tmp_path)[-1]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        for change in ({"episodes": None}, {"timesteps": None}, {"env_sps": 0}, {"sps": "fast"}, {"learner_sps": None}):
            file.write(json.dumps({**last, "timesteps": 9_999, **change}) + "\n")
        file.write(json.dumps({name: value for name, value in last.items() if name != "sps"}) + "\n")
    view = RunReader(tmp_path).refresh()
    assert view.latest["timesteps"] == 512
    dashboard(view, 80)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(InvalidConfig, match=r"cannot read .*metrics\.jsonl"):
        RunReader(tmp_path).refresh()


def test_a_run_takes_over_no_training_but_its_own(tmp_path: Path) -> None:
    train(tmp_path / "a", 256)
    train(tmp_path / "b", 512)
    before = {path.name: path.read_bytes() for path in (tmp_path / "b" / "checkpoints").iterdir()}
    with pytest.raises(InvalidConfig, match="has checkpoints of another training"):
        Run(PPO.load(tmp_path / "a"), tmp_path / "b").__enter__()
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "b" / "checkpoints").iterdir()}
    assert RunReader(tmp_path / "b").refresh().state == "finished"


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"learner": "x"}, "learner"),
        ({"folder": None}, "run"),
        ({"folder": ""}, "run"),
        ({"goal": "high"}, "goal"),
        ({"goal": math.nan}, "goal"),
        ({"goal": math.inf}, "goal"),
        ({"writers": 5}, "writers"),
        ({"writers": [5]}, "writers"),
    ],
)
def test_what_makes_no_run(arguments: dict[str, Any], param: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=f"^{param}: expected"):
        Run(**{"learner": make(), "folder": tmp_path, **arguments})


def test_names_that_matplotlib_takes_for_something_else(tmp_path: Path) -> None:
    for name in ("$\\frac{$", "_hidden", "\udcff"):
        view = View(title=name, folder=name, goal=1.0)
        view.add(RECORD)
        draw_curve([view, view], tmp_path / "curve.png")
        assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
