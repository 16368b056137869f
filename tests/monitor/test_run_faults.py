"""What a run survives: kills, full and read-only disks, rivals, watchers that die, terminals that change or go away."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from here import SUPPORT

import operant_gpu
from operant_gpu import BackendError
from operant_gpu.cli import main
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.monitor import Run, RunReader

CLI = [sys.executable, "-m", "operant_gpu"]
# An iteration takes some milliseconds: the training would go on for minutes.
ENDLESS = ["CartPole-v1", "--device", "cpu", "--goal", "inf", "--total-timesteps", "100000000", "--no-video"]
SMALL = ["--num-envs", "16", "--n-steps", "8", "--batch-size", "32", "--lr", "2.5e-3"]
SECONDS = 60


def wait_for(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.02)


def timesteps(run: Path) -> float:
    """Return how far a run has come, as its files tell."""
    if not (run / "run.json").exists():
        return 0
    return RunReader(run).refresh().latest.get("timesteps", 0)


@contextlib.contextmanager
def started(*arguments: str, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **settings}
    with subprocess.Popen([*CLI, *arguments], **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module", autouse=True)
def heeded_signals() -> Iterator[None]:
    """Undo that a shell's background ignores Ctrl-C, `nohup` a closed terminal: what tests start would inherit it."""
    heeds = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in heeds.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


SCRIPT = """
import sys, time, operant_gpu
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.monitor import Run
learner = PPO(operant_gpu.make("CartPole-v1", 16, device="cpu"), PPOConfig(n_steps=8, batch_size=32))
with Run(learner, sys.argv[1]) as run:
    def callback(metrics):
        time.sleep(float(sys.argv[2]))
        return run(metrics)
    learner.learn(10**8, callback=callback)
print("went on")
"""


@contextlib.contextmanager
def script(run: Path, pause: float = 0.0) -> Iterator[subprocess.Popen[str]]:
    """Train without an end in a script of the user's own, with a pause after each iteration."""
    command = [sys.executable, "-c", SCRIPT, str(run), str(pause)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: timesteps(run) > 1_000)
            yield process
        finally:
            process.kill()


class Training(NamedTuple):
    """A training that goes on, at leisure."""

    process: subprocess.Popen[str]
    run: Path

    def assert_goes_on(self) -> None:
        before = timesteps(self.run)
        wait_for(lambda: timesteps(self.run) > before)
        assert self.process.poll() is None


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Training]:
    run = tmp_path_factory.mktemp("training") / "run"
    with script(run, pause=0.1) as process:
        yield Training(process, run)
        process.terminate()
        assert process.communicate(timeout=SECONDS) == ("", "")
    view = RunReader(run).refresh()
    assert process.returncode == -signal.SIGTERM
    assert (view.state, view.latest["timesteps"]) == ("stopped", PPO.load(run).timesteps)


def test_kill_9_at_random_moments_loses_at_most_one_interval_and_no_bit(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "killed", tmp_path, "20"]
    finished = subprocess.run(program, cwd=SUPPORT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout.splitlines()[-1])
    assert len(report["lost"]) >= 15
    # Intervals are of one iteration.
    assert set(report["lost"]) <= {0, 1}
    assert report["damaged"] == report["partials"] == []
    assert report["reached"] > 5 * 128
    assert report["same"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_run_that_can_be_resumed(number: signal.Signals, status: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started("train", *ENDLESS, *SMALL, "--run", str(run)) as process:
        wait_for(lambda: timesteps(run) > 1_000)
        process.send_signal(number)
        printed, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (status, "")
    assert f"Run: {run}\n  operant-gpu train --resume {run}\n" in printed
    view = RunReader(run).refresh()
    assert view.state == "stopped"
    # What was learned is saved to the last iteration.
    assert PPO.load(run).timesteps == view.latest["timesteps"] > 1_000
    reached = int(view.latest["timesteps"])
    assert main(["train", "--resume", str(run), "--total-timesteps", str(reached + 256), "--no-video"]) == 0
    assert PPO.load(run).timesteps == reached + 256


def test_two_trainers_on_one_run(training: Training, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(training.run)
    for arguments in (["--resume", run], [*ENDLESS, *SMALL, "--run", run]):
        assert main(["train", *arguments]) == 2
        assert f"is in use by process {training.process.pid} on" in capsys.readouterr().err
    training.assert_goes_on()


def test_a_monitor_that_is_killed_does_not_touch_the_training(training: Training) -> None:
    with in_terminal("monitor", str(training.run)) as monitor:
        wait_for(lambda: "of 100,000,000 steps" in monitor.text())
        monitor.process.kill()
        monitor.process.wait()
    training.assert_goes_on()


class Terminal:
    """A process in a terminal of its own, and what it has written there."""

    def __init__(self, arguments: tuple[str, ...], columns: int, rows: int) -> None:
        self.own, other = pty.openpty()
        self.resize(columns, rows)
        environment = {**os.environ, "TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [*CLI, *arguments],
            stdin=other,
            stdout=other,
            stderr=other,
            env=environment,
            start_new_session=True,
            # Makes it the terminal that the process's keys and hang-up come from.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(other)
        self._parts: list[bytes] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        # Linux says so with an error when the other side is closed.
        with contextlib.suppress(OSError):
            while part := os.read(self.own, 65536):
                self._parts.append(part)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.own, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def text(self) -> str:
        """Return what was written so far, without colours."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(self._parts).decode(errors="replace"))

    def wait(self) -> int:
        status = self.process.wait(SECONDS)
        self._thread.join(SECONDS)
        return status


@contextlib.contextmanager
def in_terminal(*arguments: str, columns: int = 100, rows: int = 30) -> Iterator[Terminal]:
    terminal = Terminal(arguments, columns, rows)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()
        with contextlib.suppress(OSError):
            os.close(terminal.own)


def widths(text: str) -> list[int]:
    return [len(frame) for frame in re.findall(r"╭[^╮\r\n]*╮", text)]


def test_a_terminal_that_is_resized(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with in_terminal("train", *ENDLESS, *SMALL, "--run", str(run)) as terminal:
        wait_for(lambda: widths(terminal.text())[-1:] == [100])
        for columns, rows in ((60, 12), (160, 50), (30, 5)):
            terminal.resize(columns, rows)
            wait_for(lambda columns=columns: widths(terminal.text())[-1:] == [columns])
        os.kill(terminal.process.pid, signal.SIGTERM)
        assert terminal.wait() == 143
        assert "Traceback" not in terminal.text()
        # The cursor is shown again.
        assert b"".join(terminal._parts).rindex(b"\x1b[?25h") > b"".join(terminal._parts).rindex(b"\x1b[?25l")
    assert RunReader(run).refresh().state == "stopped"


def test_ctrl_c_in_a_terminal_saves_and_leaves_no_trace_in_the_picture(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with in_terminal("train", *ENDLESS, *SMALL, "--run", str(run)) as terminal:
        wait_for(lambda: timesteps(run) > 0 and widths(terminal.text()))
        before = termios.tcgetattr(terminal.own)[3]
        # As the key does: the terminal makes a signal of it.
        os.write(terminal.own, b"\x03")
        wait_for(lambda: "stopped" in terminal.text())
        assert "^C" not in terminal.text()
        terminal.wait()
        assert f"operant-gpu train --resume {run}" in terminal.text()
    assert not before & termios.ECHOCTL
    assert RunReader(run).refresh().state == "stopped"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_script_of_the_users_own_ends_by_the_signal_once_all_is_saved(number: signal.Signals, tmp_path: Path) -> None:
    with script(tmp_path) as process:
        process.send_signal(number)
        printed, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, printed) == (-number, "")
    assert ("KeyboardInterrupt" in errors) is (number == signal.SIGINT)
    view = RunReader(tmp_path).refresh()
    assert (view.state, view.latest["timesteps"]) == ("stopped", PPO.load(tmp_path).timesteps)


def test_a_terminal_that_is_closed_ends_the_run_as_a_signal_does(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with in_terminal("train", *ENDLESS, *SMALL, "--run", str(run)) as terminal:
        wait_for(lambda: timesteps(run) > 0 and widths(terminal.text()))
        os.close(terminal.own)
        terminal.process.wait(SECONDS)
    view = RunReader(run).refresh()
    assert view.state == "stopped"
    assert PPO.load(run).timesteps == view.latest["timesteps"]


def test_monitors_show_runs_live_and_end_with_them(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    with script(run, pause=0.1) as trainer:
        with Run(PPO(operant_gpu.make("CartPole-v1", 16, device="cpu"), PPOConfig(batch_size=32)), other):
            pass
        with in_terminal("monitor", str(run)) as one, in_terminal("monitor", str(run), str(other)) as both:
            wait_for(lambda: "running" in one.text() and "running" in both.text())
            trainer.terminate()
            assert one.wait() == both.wait() == 0
            assert one.text().rindex("stopped") > one.text().rindex("running")
            assert "other" in both.text()
        with in_terminal("monitor", str(run)) as late:
            assert late.wait() == 0
            assert "stopped" in late.text()


def test_ctrl_c_ends_a_monitor_quietly(training: Training) -> None:
    with in_terminal("monitor", str(training.run)) as monitor:
        wait_for(lambda: "running" in monitor.text())
        os.kill(monitor.process.pid, signal.SIGINT)
        assert monitor.wait() == 130
        assert "Traceback" not in monitor.text()


def test_an_output_that_nobody_reads_any_more(tmp_path: Path) -> None:
    """As `train | head -1`, and `train | true`."""
    run = tmp_path / "run"
    short = [*ENDLESS[:5], "--total-timesteps", "40000", "--no-video"]
    with started("train", *short, *SMALL, "--run", str(run)) as process:
        process.stdout.close()
        errors = process.stderr.read()
        assert (process.wait(SECONDS), errors) == (0, "")
    assert RunReader(run).refresh().state == "finished"


def test_an_output_in_a_pipe_is_plain_lines(tmp_path: Path) -> None:
    with started("train", *ENDLESS, *SMALL, "--run", str(tmp_path / "run")) as process:
        preset, where, *readings = [process.stdout.readline() for _ in range(4)]
    assert preset == "Settings: the usual preset; the training is on a CPU\n"
    assert where == f"CartPole-v1 in {tmp_path / 'run'}: 16 environments on cpu (numba)\n"
    assert all(re.fullmatch(r"CartPole-v1 +[\d,]+ steps .* steps/s  \d+:\d\d:\d\d left\n", text) for text in readings)


@contextlib.contextmanager
def small_disk(kibibytes: int) -> Iterator[Path]:
    """Mount a disk of so many KiB, where that is allowed."""
    folder = tempfile.mkdtemp()
    options = ["-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", folder]
    if os.geteuid() or subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield Path(folder)
    finally:
        subprocess.run(["umount", folder], check=True)
        os.rmdir(folder)


def test_a_disk_that_is_full_for_a_while_loses_no_reading_and_no_checkpoint() -> None:
    learner = PPO(
        operant_gpu.make("CartPole-v1", 16, device="cpu"),
        PPOConfig(n_steps=8, batch_size=32, hidden_sizes=(16,), checkpoint_interval=1),
    )
    with small_disk(1024) as disk:
        ballast = disk / "ballast"

        def callback(metrics: dict[str, float]) -> None:
            if metrics["iterations"] == 5:
                with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                    while file.write(b"x" * 4096):
                        pass
            if metrics["iterations"] == 10:
                ballast.unlink()
            run(metrics)

        with pytest.warns(RuntimeWarning, match="No space left on device") as caught, Run(learner, disk / "r") as run:
            learner.learn(128 * 20, callback=callback)
        messages = {str(warning.message).split("/")[0] for warning in caught}
        assert any("cannot write the checkpoint" in message for message in messages)
        readings = [json.loads(line) for line in (disk / "r" / "metrics.jsonl").read_text().splitlines()]
        assert [reading["iterations"] for reading in readings] == list(range(1, 21))
        assert PPO.load(disk / "r").iterations == 20
        assert RunReader(disk / "r").refresh().state == "finished"


def test_a_disk_that_is_full_at_the_end_is_an_error_and_keeps_what_was_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with small_disk(400) as disk:
        run = disk / "run"
        assert main(["train", "CartPole-v1", "--run", str(run), *SMALL, "--total-timesteps", "256", "--no-video"]) == 0
        with (disk / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 1024):
                pass
        capsys.readouterr()
        status = main(["train", "--resume", str(run), "--total-timesteps", "1024", "--no-video"])
        errors = capsys.readouterr().err
        assert status in (1, 2), errors
        assert "No space left on device" in errors
        assert "Traceback" not in errors
        assert PPO.load(run).timesteps == 256


@pytest.fixture
def flock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that lets locks fail with an error's number."""

    def fail(code: int) -> None:
        def fails(file: int, operation: int) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(fcntl, "flock", fails)

    return fail


# Newer releases of filelock lock by a file's being there where there is no such call.
@pytest.mark.filterwarnings("ignore:flock not supported:UserWarning")
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_disk_without_locks_is_trained_on_with_a_warning(
    code: int, flock: Callable[[int], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flock(code)
    run = str(tmp_path / "run")
    small = [*SMALL, "--no-video"]
    assert main(["train", "CartPole-v1", "--run", run, *small, "--total-timesteps", "256"]) == 0
    if code != errno.ENOSYS:
        told = f"^warning: the disk of '{run}' has no locks .* would not be noticed$"
        assert re.search(told, capsys.readouterr().err, re.MULTILINE)
    assert main(["train", "--resume", run, "--total-timesteps", "512", "--no-video"]) == 0
    assert PPO.load(run).timesteps == 512


def test_a_run_that_does_not_begin_leaves_nothing(
    flock: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flock(errno.EIO)
    assert main(["train", "CartPole-v1", *SMALL]) == 2
    assert "cannot write in the folder 'runs/CartPole-v1-1': [Errno 5]" in capsys.readouterr().err
    monkeypatch.undo()
    learner = PPO(operant_gpu.make("CartPole-v1", 16, device="cpu"), PPOConfig(batch_size=32))

    class Refusing:
        begin = write = close = refuse

    with pytest.raises(BackendError), Run(learner, tmp_path / "runs" / "new", writers=[Refusing()]):
        pass
    assert list((tmp_path / "runs").iterdir()) == []
    # What was there stays.
    (tmp_path / "runs" / "notes").touch()
    with pytest.raises(BackendError), Run(learner, tmp_path / "runs", writers=[Refusing()]):
        pass
    assert (tmp_path / "runs" / "notes").exists()
    with Run(learner, tmp_path / "runs" / "new"):
        pass


def refuse(*_: Any) -> None:
    raise BackendError("the service refuses")


def test_a_directory_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if os.geteuid():
        folder = tmp_path
    else:
        # Root may write everywhere: become nobody for a while, in a folder that everyone can reach.
        folder = Path(tempfile.mkdtemp(dir="/tmp"))
        folder.chmod(0o755)
    run = folder / "run"
    assert main(["train", "CartPole-v1", "--run", str(run), *SMALL, "--total-timesteps", "256", "--no-video"]) == 0
    for path in (run, run / "checkpoints"):
        path.chmod(0o555)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    if not os.geteuid():
        os.seteuid(65534)
    try:
        status = main(["train", "--resume", str(run), "--total-timesteps", "512", "--no-video"])
        watched = main(["monitor", str(run)])
        judged = main(["eval", str(run), "--episodes", "4"])
    finally:
        if not os.getuid():
            os.seteuid(0)
    assert (status, watched, judged) == (2, 0, 0)
    printed = capsys.readouterr()
    assert f"run: cannot write in the folder '{run}'" in printed.err
    assert "Permission denied" in printed.err
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
