"""Commands of the command line in several processes; see tests/cli/test_together.py."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence

from operant_gpu.cli import main


def command(folder: str, *arguments: str) -> tuple[int, str, str]:
    """Run a command in a folder; return its status, and what it prints."""
    os.chdir(folder)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    return status, out.getvalue(), err.getvalue()


def commands(folder: str, *each: Sequence[str]) -> list[tuple[int, str, str]]:
    """Run commands one after the other."""
    return [command(folder, *arguments) for arguments in each]
