"""The command line: `operant-gpu train CartPole-v1`, `monitor`, `eval`, `record`, `export`, `play`, and what helps.

In come words, a dataclass for each command (`train.py`, `watch.py`, `policies.py`, `machine.py`, ...); out come
what is printed and an exit status. It may know everything, and nothing knows it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import tyro
from rich.console import Console

from operant_gpu.backends import compilations
from operant_gpu.cli.common import (
    FAILED,
    INTERRUPTED,
    USER_ERROR,
    AsGiven,
    Command,
    Terminated,
    complain,
    environment_id,
    plain_warnings,
    say,
    take_parameters,
)
from operant_gpu.cli.compare import Compare
from operant_gpu.cli.compiling import Compile
from operant_gpu.cli.machine import Bench, Doctor, Envs
from operant_gpu.cli.options import OPTIONS, split_parameters
from operant_gpu.cli.page import fitted
from operant_gpu.cli.play import Play
from operant_gpu.cli.policies import Eval, Export, Record
from operant_gpu.cli.replay import Replay
from operant_gpu.cli.settings import Settings
from operant_gpu.cli.telling import show_parameters
from operant_gpu.cli.train import Train, recommended, told_of_defaults
from operant_gpu.cli.watch import Monitor
from operant_gpu.errors import InvalidConfig, OperantError, nearest
from operant_gpu.facts import facts_of
from operant_gpu.monitor.display import is_watched
from operant_gpu.processes import ALONE, distributed, started_rank
from operant_gpu.registry import find
from operant_gpu.version import __version__

_WIDTH_OF_FILES = 140
# Of help: in less room its frames would break, and longer lines are hard to read.
_NARROW, _WIDE = 40, 120
# How PyTorch says so, on a GPU and on a CPU.
_OUT_OF_MEMORY = re.compile("out of memory|not enough memory|can't allocate memory|DefaultCPUAllocator")

# Commands whose first argument is one.
_OF_AN_ENVIRONMENT = ("train", "play", "bench", "compile")
# Those that processes which torchrun has started do together; the first one prints.
_TOGETHER = ("train", "eval", "bench")
_COMMANDS: dict[str, Callable[..., Command]] = {
    "train": Train,
    "monitor": Monitor,
    "compare": Compare,
    "eval": Eval,
    "record": Record,
    "export": Export,
    "play": Play,
    "envs": Envs,
    "bench": Bench,
    "compile": Compile,
    "doctor": Doctor,
    "replay": Replay,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0; 1 if what was asked for failed; 2 for a user's mistake; 128 and the signal's number for a
        training that a signal stopped (130 for Ctrl-C).
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        # What a terminal's encoding lacks, such as a curve in ASCII, is no reason to stop.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    with _terminable(), plain_warnings(), _logged():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    if arguments == ["--version"]:
        say(_console(), f"operant-gpu {__version__}")
        return 0
    processes, together = ALONE, any(name in _TOGETHER for name in arguments[:1])
    try:
        with distributed() if together else contextlib.nullcontext(ALONE) as processes, _silent(processes.rank > 0):
            return _command(arguments)
    except OperantError as error:
        if not processes.is_echo:
            complain(error)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        # Of what is printed; other files have errors of their own.
        if error.errno != errno.ENOSPC:
            raise
        complain(error)
        return FAILED
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        complain(MemoryError("not enough memory: ask for fewer environments, steps or units"))
        return FAILED


@contextlib.contextmanager
def _silent(is_silent: bool) -> Iterator[None]:
    """Print nothing on the standard output, where another process prints it."""
    if not is_silent:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _command(arguments: Sequence[str]) -> int:
    """Run a command, and return its exit status."""
    given = arguments
    arguments, params = split_parameters(arguments)
    train = functools.partial(Train, ppo=Settings(**vars(recommended(arguments))))
    commands: dict[str, Callable[..., Any]] = {**_COMMANDS, "train": train}
    if arguments and arguments[0] not in commands and not arguments[0].startswith("-"):
        known = ", ".join(commands)
        raise InvalidConfig(arguments[0], f"unknown command; {nearest(arguments[0], commands)}commands: {known}")
    with OPTIONS:
        command: Command = _parsed(commands, arguments)
    if params:
        take_parameters(command, params)
    if isinstance(command, AsGiven):
        command.given = given
    return command.run(_console())


def _parsed(commands: dict[str, Callable[..., Any]], arguments: Sequence[str]) -> Any:
    """Return the command; print help as wide as the terminal, and below it what belongs to the environment."""
    console = _Console()
    console.width = min(max(_NARROW, console.width), _WIDE)
    try:
        with fitted(console):
            return tyro.extras.subcommand_cli_from_dict(commands, prog="operant-gpu", args=arguments)
    except SystemExit as ended:
        if not ended.code:
            if arguments[0] == "train":
                console.print(told_of_defaults(arguments), markup=False, highlight=False)
            if len(arguments) > 2 and arguments[0] in _OF_AN_ENVIRONMENT and not arguments[1].startswith("-"):
                show_parameters(console, facts_of(find(environment_id(arguments[1]))))
        raise


class _Log(logging.Handler):
    """Prints on the standard error what the library says while something takes long."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        say(Console(stderr=True), f"operant-gpu: {record.getMessage()}")


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """Show meanwhile what the library says in its log."""
    log, handler = compilations.log, _Log()
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.WARNING if started_rank() else logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP of a terminal that is closed, end a command as they end a training.

    That is with the terminal as it was, and with the status of the signal.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated(128 + number)

    is_main = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if is_main and hasattr(signal, name)]
    with contextlib.ExitStack() as stack:
        # What is ignored, as by nohup, stays ignored.
        for number in (one for one in numbers if signal.getsignal(one) == signal.SIG_DFL):
            stack.callback(signal.signal, number, signal.signal(number, end))
        yield


class _Console(Console):
    """The standard output. Once nobody reads it any more, as after `| head`, it is silent, and the work goes on."""

    def on_broken_pipe(self) -> None:
        """Do as if all was well."""
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()


def _console() -> Console:
    """Return the standard output; where it is no terminal, wide enough for tables that programs read."""
    console = _Console()
    # Zero columns, as some tools set, would print nothing.
    has_width = console.width > 0 and (is_watched(console) or "COLUMNS" in os.environ)
    return console if has_width else _Console(width=_WIDTH_OF_FILES)
