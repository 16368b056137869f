"""A training's directory: settings, machine, metrics, checkpoints and curve, in files that outlive any end."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shlex
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from operant_gpu.errors import CheckpointError, InvalidConfig, one_line
from operant_gpu.files import as_path, remove_partials, try_to_write, write_whole
from operant_gpu.machine import Usage, describe, process_since
from operant_gpu.models.evaluation import check_learner
from operant_gpu.models.ppo.checkpoint import FOLDER, has_checkpoints
from operant_gpu.models.ppo.learner import PPO
from operant_gpu.models.ppo.telemetry import Metrics
from operant_gpu.monitor.curve import draw_curve
from operant_gpu.monitor.reader import FILE, FORMAT, RunReader, read_description
from operant_gpu.monitor.view import View
from operant_gpu.monitor.writers import JSONLines, Patient, TensorBoard, Writer
from operant_gpu.parameters import described
from operant_gpu.vector import VecEnv

# The first readings are all kept, later ones at most so often (seconds): an hour is then some 6 MB.
_ALL_READINGS, _INTERVAL = 300, 0.25
_LOCK = "lock"
# Files of steps that went wrong in environments.
FAULTS = "faults*.pt"
# How a disk, such as one of a network, says that it does not lock files.
_LOCKLESS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
# Seconds in which a signal may come twice, where there are several processes.
_HANDED_ON = 5.0
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Run:
    """A directory that holds a training and everything that is known of it; a context manager, and a callback.

        with Run(PPO(env, config), "runs/mine") as run:
            run.learner.learn(callback=run, progress=True)

    Within it, the first SIGINT (Ctrl-C), SIGTERM or SIGHUP lets the iteration under way end, and saves; at the end of
    the `with` it then does what it does otherwise, such as raise KeyboardInterrupt. A second one interrupts at once.
    The directory has:

    - `run.json`: environment, state, and for each session machine, versions, git revision and command;
    - `config.toml`: PPO's settings;
    - `metrics.jsonl`, and `tensorboard/`: the metrics (see `writers`), all of the first 300 readings and then four a
      second;
    - `checkpoints/`: `config.checkpoint_keep` of them, each `config.checkpoint_interval` iterations;
    - `curve.png`: the mean return, once the training is over;
    - `faults.pt`: steps of environments that went wrong, for `operant-gpu replay`, if the environments keep them; of a
      session that goes on after 5,120 steps `faults-after-5120.pt`, and of a process of rank 1 `faults-rank-1.pt`.

    Of several processes that train together all make one, and the first one writes.

    Args:
        learner: What trains; one that goes on with the training in the directory if it was loaded from there.
        folder: The directory, made if there is none.
        goal: Mean return of 100 episodes at which the training ends; None for none.
        writers: Where the metrics go beside `metrics.jsonl`; TensorBoard if None.

    Attributes:
        learner: As given.
        folder: Likewise.
        view: The run as it stands, for displays.
        signal: Number of the signal that stopped it, or None.

    Raises:
        InvalidConfig: If the directory cannot be written, is in use by another process, or has another training.
    """

    learner: PPO
    folder: Path
    view: View
    signal: signal.Signals | None

    def __init__(
        self,
        learner: PPO,
        folder: str | os.PathLike[str],
        *,
        goal: float | None = None,
        writers: Sequence[Writer] | None = None,
    ) -> None:
        _check(learner, goal, writers)
        self.learner, self.folder = learner, as_path("run", folder)
        self.signal = None
        self._signalled = 0.0
        self.view = View.of(learner, folder=str(self.folder), goal=None if goal is None else float(goal))
        self._processes = learner.processes
        others = [TensorBoard()] if writers is None else writers
        self._writers = [] if self._processes.rank else [Patient(writer) for writer in (JSONLines(), *others)]
        self._lock = FileLock(self.folder / _LOCK, timeout=0, thread_local=False)
        self._opened: contextlib.ExitStack | None = None
        self._usage = Usage(learner.env.device)
        self._sessions: list[dict[str, Any]] = []
        self._readings, self._due, self._faults = 0, 0.0, 0
        self._unwritten: dict[str, float] | None = None

    def __enter__(self) -> Run:
        if self._opened is not None:
            raise InvalidConfig("run", f"{str(self.folder)!r} is open already: one `with` at a time")
        with contextlib.ExitStack() as opened:
            opened.callback(self._lock.release)
            self._open(opened)
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_ending = True
        opened, self._opened = self._opened, None
        assert opened is not None
        with opened:
            self._end(error)
        if self.signal is not None and error is None:
            # All is saved: now it does what it does otherwise, as end the program.
            signal.raise_signal(self.signal)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, state={self.view.state!r}, timesteps={self.learner.timesteps})"

    def __call__(self, metrics: Metrics) -> bool:
        """Keep the metrics; return whether the goal is still ahead.

        Raises:
            InvalidConfig: Outside of a `with` statement, where no file is open.
        """
        if self._opened is None:
            raise InvalidConfig("run", f"{str(self.folder)!r} is not open: `with Run(...) as run:` around the training")
        record = {**metrics, **self._usage.read(), "time": time.time()}
        view = self.view
        view.begin(self.learner)
        view.add(record)
        self._keep_faults()
        if self._processes.rank == 0 and self._described != (view.start, view.target, view.details):
            self._describe(patient=True)
        self._readings, self._unwritten = self._readings + 1, record
        if self._readings <= _ALL_READINGS or time.monotonic() >= self._due:
            self._write()
        return not view.is_solved

    def _write(self) -> None:
        if self._unwritten is None:
            return
        for writer in self._writers:
            writer.write(self._unwritten)
        # The clock that stamps readings may be set back.
        self._due, self._unwritten = time.monotonic() + _INTERVAL, None

    def _open(self, opened: contextlib.ExitStack) -> None:
        """Lock the directory and begin; where that fails, a directory that is new, or was empty, is removed again."""
        made: list[bool] = []

        def take() -> None:
            was_empty = not self.folder.is_dir() or not any(self.folder.iterdir())
            try:
                try_to_write(self.folder)
                self._acquire()
            finally:
                # Once it is locked, no other process begins a run in it.
                made.append(was_empty and self._has_lock_alone())

        try:
            self._by_the_first(take)
            self._begin(opened)
        except BaseException:
            if any(made):
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _by_the_first(self, function: Callable[[], None]) -> None:
        """Let the first process do what others would do once more; what goes wrong is raised in all."""

        def do() -> None:
            try:
                function()
            except Timeout:
                raise InvalidConfig("run", f"{str(self.folder)!r} is in use by {self._owner()}: give another") from None
            except OSError as error:
                raise InvalidConfig("run", f"cannot write in the folder {str(self.folder)!r}: {error}") from error

        self._processes.first(do)

    def _has_lock_alone(self) -> bool:
        """Tell whether nothing but the lock is in the directory."""
        return self.folder.is_dir() and {path.name for path in self.folder.iterdir()} <= {_LOCK}

    def _acquire(self) -> None:
        """Lock the directory, where its disk can."""
        try:
            self._lock.acquire()
        except (OSError, NotImplementedError) as error:
            # The latter is how older releases of filelock say ENOSYS.
            if isinstance(error, OSError) and error.errno not in _LOCKLESS:
                raise
            message = f"the disk of {str(self.folder)!r} has no locks ({one_line(error)}). Training goes on, but"
            warnings.warn(
                f"{message} a second one in this directory would not be noticed", RuntimeWarning, stacklevel=3
            )

    def _begin(self, opened: contextlib.ExitStack) -> None:
        """Open everything; what is opened is closed in the reverse order."""
        learner = self.learner
        self.signal, self._is_ending = None, False
        rank, before = self._processes.rank, learner.timesteps
        name = f"faults{f'-after-{before}' if before else ''}{f'-rank-{rank}' if rank else ''}.pt"
        self._faults_file = self.folder / name
        self.view.begin(learner)
        self._by_the_first(self._go_on_with_what_is_there)
        learner.keep_checkpoints(self.folder / FOLDER)
        # What it learns afterwards is no part of this run.
        opened.callback(learner.keep_checkpoints, None)
        self._install_handlers(opened)
        self._by_the_first(lambda: self._begin_files(opened))

    def _begin_files(self, opened: contextlib.ExitStack) -> None:
        learner = self.learner
        remove_partials(self.folder, (FILE, "config.toml", "curve.png"))
        settings = {"env": learner.env.environment.id, **_params(learner.env), **vars(learner.config)}
        for writer in self._writers:
            writer.begin(self.folder, settings, learner.timesteps)
            opened.callback(writer.close)
        learner.config.to_toml(self.folder / "config.toml")
        self._sessions.append(_session(learner))
        self._describe()

    def _go_on_with_what_is_there(self) -> None:
        if not (self.folder / FILE).exists():
            return
        before, own = read_description(self.folder), self.learner.env.environment.id
        if before["env"] != own:
            message = f"{str(self.folder)!r} has a training of {before['env']}, this one is of {own}: give another"
            raise InvalidConfig("run", message)
        if not self.learner.target and has_checkpoints(self.folder / FOLDER):
            advice = f"`operant-gpu train --resume {self.folder}` or PPO.load go on with it"
            raise InvalidConfig("run", f"{str(self.folder)!r} has a training already: {advice}; or give another")
        self._sessions = before["sessions"]
        if self.learner.timesteps:
            self.view.returns = RunReader(self.folder).refresh().returns

    def _keep_faults(self) -> None:
        """Write the steps of environments that went wrong, each time when there are more."""
        env = self.learner.env
        count = 0 if env.fault_count is None else int(env.fault_count)
        if count > self._faults:
            self._faults = count
            with self._patience(CheckpointError):
                env.save_faults(self._faults_file)

    def _end(self, error: BaseException | None) -> None:
        with self._patience(Exception):
            self._keep_faults()
        view = self.view
        view.end(self.learner.timesteps, error)
        if self._processes.rank:
            return
        self._write()
        self._describe(patient=True)
        with self._patience(Exception):
            draw_curve([view], self.folder / "curve.png")

    @contextlib.contextmanager
    def _patience(self, kind: type[Exception] = OSError) -> Iterator[None]:
        """Turn a disk's failure, or another kind, into a warning."""
        try:
            yield
        except kind as error:
            warnings.warn(f"cannot write in {str(self.folder)!r}: {error}", RuntimeWarning, stacklevel=4)

    def _describe(self, patient: bool = False) -> None:
        """Write what the run is and how it stands; `patient` with a disk that is full or away for now."""
        view, env = self.view, self.learner.env
        self._described = view.start, view.target, view.details
        description = {
            "format": FORMAT,
            "env": env.environment.id,
            "params": _params(env),
            "max_episode_steps": env.max_episode_steps,
            "details": view.details,
            "engine": self.learner.engine_reason,
            "slow_paths": self.learner.slow_paths,
            "goal": view.goal,
            "start": view.start,
            "target": view.target,
            "state": view.state,
            "message": view.message,
            "sessions": self._sessions,
        }
        with self._patience() if patient else contextlib.nullcontext():
            write_whole(self.folder / FILE, json.dumps(description, indent=2) + "\n")

    def _owner(self) -> str:
        """Return who has the lock."""
        try:
            session = read_description(self.folder)["sessions"][-1]
            return f"process {session['pid']} on {session['host']}"
        except InvalidConfig:
            return "another process"

    def _install_handlers(self, opened: contextlib.ExitStack) -> None:
        # Signals are the main thread's; elsewhere `learner.stop()` does the same.
        if threading.current_thread() is not threading.main_thread():
            return
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            # What is ignored, as by nohup, stays ignored.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                opened.callback(signal.signal, number, signal.signal(number, self._handle))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # The training is over, and all but saved.
        if self._is_ending:
            return
        if self.signal is not None:
            # torchrun hands on to its processes what a terminal has sent them too.
            if self._processes.size > 1 and time.monotonic() < self._signalled + _HANDED_ON:
                return
            raise KeyboardInterrupt
        self.signal, self._signalled = signal.Signals(number), time.monotonic()
        self.learner.stop()


def _check(learner: Any, goal: Any, writers: Any) -> None:
    check_learner(learner)
    if goal is not None and not (isinstance(goal, int | float | np.number) and math.isfinite(goal)):
        raise InvalidConfig("goal", f"expected a finite number, or None for none, got {goal!r}")
    if writers is None:
        return
    if not isinstance(writers, Sequence):
        raise InvalidConfig("writers", f"expected a list of writers, got {writers!r}")
    for writer in writers:
        for name in ("begin", "write", "close"):
            if not callable(getattr(writer, name, None)):
                raise InvalidConfig("writers", f"expected a writer, with a method {name}, got {writer!r}")


def _params(env: VecEnv) -> dict[str, Any]:
    return described(env.parameters(env.num_envs))


def _session(learner: PPO) -> dict[str, Any]:
    """Return who trains, from when on, and with what."""
    return {
        "begun": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "timesteps": learner.timesteps,
        "pid": os.getpid(),
        "pid_since": process_since(os.getpid()),
        "command": shlex.join(sys.argv),
        "device": str(learner.env.device),
        "processes": learner.processes.size,
        **describe(learner.env.device),
    }


def free_folder(env: str) -> Path:
    """Make a new directory for a run of an environment, such as runs/CartPole-v1-3, and return it.

    Raises:
        InvalidConfig: If that is not possible.
    """
    number = 1
    while True:
        folder = Path("runs") / f"{env}-{number}"
        try:
            # Made at once, so that of two trainings that begin together each has its own.
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
        except OSError as error:
            raise InvalidConfig("run", f"cannot make the folder {str(folder)!r}: {error}") from error
