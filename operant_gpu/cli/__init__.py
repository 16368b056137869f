"""The command line: `operant-gpu train CartPole-v1`, `monitor`, `eval`, `record`, `export`, `play`, and what helps."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro
from rich.console import Console

from operant_gpu import __version__
from operant_gpu.cli.common import INTERRUPTED, USER_ERROR, Command, complain, say
from operant_gpu.cli.machine import Bench, Doctor, Envs
from operant_gpu.cli.play import Play
from operant_gpu.cli.policies import Eval, Export, Record
from operant_gpu.cli.train import Train, recommended
from operant_gpu.cli.watch import Monitor
from operant_gpu.errors import OperantError

_WIDTH_OF_FILES = 140

_COMMANDS: dict[str, Callable[..., Command]] = {
    "train": Train,
    "monitor": Monitor,
    "eval": Eval,
    "record": Record,
    "export": Export,
    "play": Play,
    "envs": Envs,
    "bench": Bench,
    "doctor": Doctor,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0; 1 if what was asked for failed; 2 for a user's mistake; 128 and the signal's number for a
        training that a signal stopped (130 for Ctrl-C).
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        say(_console(), f"operant-gpu {__version__}")
        return 0
    try:
        train = functools.partial(Train, ppo=recommended(arguments))
        commands: dict[str, Callable[..., Any]] = {**_COMMANDS, "train": train}
        command: Command = tyro.extras.subcommand_cli_from_dict(commands, prog="operant-gpu", args=arguments)
        return command.run(_console())
    except OperantError as error:
        complain(error)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


class _Console(Console):
    """The standard output. Once nobody reads it any more, as after `| head`, it is silent, and the work goes on."""

    def on_broken_pipe(self) -> None:
        """Do as if all was well."""
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()


def _console() -> Console:
    """Return the standard output; where it is no terminal, wide enough for tables that programs read."""
    console = _Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else _Console(width=_WIDTH_OF_FILES)
