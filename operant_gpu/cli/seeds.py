"""Trainings of several seeds, each in a process of its own, as many at once as there are cores."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from operant_gpu.cli.common import USER_ERROR, Terminated, say
from operant_gpu.errors import InvalidConfig, whole
from operant_gpu.files import write_whole
from operant_gpu.monitor.dashboard import over_runs
from operant_gpu.monitor.display import is_lively
from operant_gpu.monitor.reader import FILE, RunReader
from operant_gpu.monitor.table import PlainTable
from operant_gpu.monitor.watch import Watcher, picture

_PAUSE = 0.1
# In a second.
_PICTURES = 2
_FORMAT = 1
# In the directory of several seeds: what they are, for those that go on with them.
PLAN = "seeds.json"
# Options of `train`, all of one value, that each of the trainings gets anew.
_OWN = ("--seeds", "--seed", "--run", "--run-dir", "--resume")
# Statuses of trainings that a signal stopped and that were saved: SIGHUP, Ctrl-C, SIGTERM.
_STOPPED = (129, 130, 143)


@dataclass
class Training:
    """A training that a process of its own does.

    Attributes:
        folder: Directory of its run. What it prints goes to a file beside it, `<folder>.log`.
        arguments: Those of `operant-gpu`.
        process: It, once it has begun.
        beginning: Size of the log before, since one that goes on adds to it.
    """

    folder: Path
    arguments: Sequence[str]
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    beginning: int = field(default=0, repr=False)

    @property
    def log(self) -> Path:
        """The file with what it prints."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def status(self) -> int | None:
        """Its exit status, as a shell has it; None before it has ended."""
        status = None if self.process is None else self.process.poll()
        return status if status is None or status >= 0 else 128 - status

    @property
    def is_running(self) -> bool:
        """Whether it has begun and not ended."""
        return self.process is not None and self.status is None

    def begin(self) -> None:
        """Start the process, in a session of its own: a terminal's Ctrl-C comes to this one, which hands it on.

        Raises:
            InvalidConfig: If its log cannot be written, or the system allows no more processes.
        """
        try:
            with self.log.open("ab") as log:
                self.beginning = log.tell()
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "operant_gpu", *self.arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            raise InvalidConfig("run", f"cannot begin {self.folder.name}, whose log is {self.log}: {error}") from error

    def last_words(self) -> str:
        """Return the last line that it printed; where that is none of words, as a frame's end, its log."""
        printed = self.log.read_bytes()[self.beginning :] if self.process is not None else b""
        lines = [text for text in printed.decode(errors="replace").splitlines() if text.strip()]
        if not lines:
            return "it printed nothing"
        return lines[-1] if any(map(str.isalpha, lines[-1])) else f"what it printed is in {self.log}"


def begun(given: Sequence[str], folder: Path, seeds: Sequence[int]) -> list[Training]:
    """Return the trainings of an environment with several seeds, and note in their directory what they are.

    Args:
        given: Arguments of the `train` that was asked for.
        folder: Directory for the runs.
        seeds: One for each.

    Raises:
        InvalidConfig: If the directory cannot be written, or has runs already.
    """
    if (folder / FILE).exists() or any(folder.glob(f"*/{FILE}")):
        advice = f"give another, or go on with `operant-gpu train --resume {shlex.quote(str(folder))}`"
        raise InvalidConfig("run", f"{str(folder)!r} has runs already: {advice}")
    arguments = _without(given, _OWN)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        plan = {"format": _FORMAT, "arguments": arguments, "seeds": list(seeds)}
        write_whole(folder / PLAN, json.dumps(plan, indent=2) + "\n")
    except OSError as error:
        raise InvalidConfig("run", f"cannot write in the folder {str(folder)!r}: {error}") from error
    return [_training(arguments, folder, seed) for seed in seeds]


def resumed(given: Sequence[str], folder: Path, env: str | None) -> list[Training]:
    """Return the trainings that go on with those of a directory, and those that had not begun.

    Args:
        given: Arguments of the `train --resume` that was asked for.
        folder: The directory.
        env: The environment, if it was given too; it may be defined in a file that has moved.

    Raises:
        InvalidConfig: If what it notes of them cannot be read, or another environment or seed was asked for.
    """
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        if plan["format"] != _FORMAT:
            raise ValueError(f"it is not in format {_FORMAT}")
        train, began_with, *before = plan["arguments"]
        seeds = [whole("seeds", seed, 0) for seed in plan["seeds"]]
        if train != "train" or not all(isinstance(word, str) for word in (began_with, *before)):
            raise ValueError("its arguments are not those of train")
        if not seeds or len({*seeds}) < len(seeds):
            raise ValueError("its seeds are none, or not different")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidConfig("resume", f"cannot read {str(folder / PLAN)!r}: {error!r}") from error
    if env is not None and env != began_with and not (":" in env and ":" in began_with):
        raise InvalidConfig("env", f"{str(folder)!r} has runs of {began_with}, got {env}: leave ENV out")
    if any(word.partition("=")[0] == "--seed" for word in given):
        raise InvalidConfig("seed", "runs go on with their seeds: leave --seed out")
    new, env = _without(given[1:], _OWN), env or began_with
    if env in new:
        new.remove(env)
    # Others are the library's own, which a run knows by their names.
    definition = [env] if ":" in env else []
    trainings = []
    for seed in seeds:
        run = folder / f"seed-{seed}"
        has_run = (run / FILE).exists()
        trainings.append(
            Training(run, ["train", *definition, *new, "--resume", str(run)])
            if has_run
            else _training(["train", env, *before, *new], folder, seed)
        )
    return trainings


def _training(arguments: Sequence[str], folder: Path, seed: int) -> Training:
    run = folder / f"seed-{seed}"
    return Training(run, [*arguments, "--seed", str(seed), "--run", str(run)])


def usable_cores() -> int:
    """Return how many cores this process may use."""
    # Not all systems can tell.
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def train_all(trainings: Sequence[Training], at_once: int, console: Console) -> int:
    """Do trainings, so many at once; show them meanwhile, and report.

    Ctrl-C and SIGTERM let those that go on end their iteration and save. After a user's mistake, which all of them
    share, no other begins.

    Returns:
        The first exit status that is not 0, or that of the signal.
    """
    waiting = list(trainings)
    watcher = Watcher(lambda: [[one.folder for one in trainings if (one.folder / FILE).exists()]])

    def go_on() -> bool:
        running = sum(one.is_running for one in trainings)
        if any(one.status == USER_ERROR for one in trainings):
            waiting.clear()
        while waiting and running < at_once:
            waiting.pop(0).begin()
            running += 1
        return running > 0

    status = 0
    screen: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if is_lively(console):
        # Not at each look: a picture takes some of the time of a core, which the trainings need.
        screen = Live(
            get_renderable=lambda: picture(watcher.refresh(), console.width),
            console=console,
            screen=True,
            refresh_per_second=_PICTURES,
        )
    try:
        with screen:
            while go_on():
                time.sleep(_PAUSE)
    except (KeyboardInterrupt, Terminated) as end:
        status = 128 + signal.SIGINT if isinstance(end, KeyboardInterrupt) else int(str(end.code))
        _stop(trainings, status - 128)
    finally:
        # None is left, but after an error of our own: let them save.
        _stop(trainings, signal.SIGTERM)
    statuses = [one.status for one in trainings]
    if USER_ERROR in statuses:
        say(Console(stderr=True), trainings[statuses.index(USER_ERROR)].last_words())
        return USER_ERROR
    _report(trainings, console)
    return status or next((one for one in statuses if one), 0)


def _send(trainings: Sequence[Training], number: int) -> None:
    for one in trainings:
        if one.process is not None and one.is_running:
            one.process.send_signal(number)


def _stop(trainings: Sequence[Training], number: int) -> None:
    """Hand a signal on, and wait; a second Ctrl-C interrupts at once, as it does for one training."""
    _send(trainings, number)
    try:
        while any(one.is_running for one in trainings):
            time.sleep(_PAUSE)
    except KeyboardInterrupt:
        _stop(trainings, signal.SIGINT)


def _report(trainings: Sequence[Training], console: Console) -> None:
    """Print how each of the trainings has ended, what they came to together, and what to do next."""
    folder = trainings[0].folder.parent
    table = PlainTable("run", "state", "mean return", "steps", "seconds")
    views = []
    for one in trainings:
        if not (one.folder / FILE).exists():
            table.add_row(one.folder.name, "not begun" if one.process is None else "failed", "", "", "")
            continue
        views.append(view := RunReader(one.folder).refresh())
        latest = view.latest
        numbers = (f"{latest.get('episodic_return', math.nan):.4g}", f"{int(latest.get('timesteps', 0)):,}")
        table.add_row(one.folder.name, view.state, *numbers, f"{latest.get('seconds', math.nan):.1f}")
    # As `say`: on a full disk the trainings' own status counts.
    with contextlib.suppress(OSError):
        console.print(table)
    failed = (one for one in trainings if one.status not in (0, None, *_STOPPED))
    say(console, *(f"{one.folder.name}: {one.last_words()}" for one in failed))
    name, env = shlex.quote(str(folder)), trainings[0].arguments[1]
    definition = f" --env {shlex.quote(env)}" if ":" in env and not env.startswith("-") else ""
    say(console, f"{views[0].title}: {over_runs(views)}" if views else "No training has begun", f"Runs: {folder}")
    if any(view.state in ("stopped", "killed") for view in views) or len(views) < len(trainings):
        say(console, f"  operant-gpu train --resume {name}")
    else:
        say(console, f"  operant-gpu eval {name}{definition}", f"  operant-gpu monitor {name} --curve curves.png")
        say(console, f"  operant-gpu compare {name} --against OTHER")


def _without(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the words of a command line without these options and their values."""
    kept, rest = list[str](), iter(words)
    for word in rest:
        name, equals, _ = word.partition("=")
        if name.replace("_", "-") not in names:
            kept.append(word)
        elif not equals:
            next(rest, None)
    return kept
