"""`operant-gpu replay`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from operant_gpu.cli.common import busy, environment_id, say
from operant_gpu.errors import InvalidConfig
from operant_gpu.files import as_path
from operant_gpu.monitor.run import FAULTS
from operant_gpu.registry import find, list_envs
from operant_gpu.vector import Faults


@dataclass
class Replay:
    """Show a step that went wrong, statement by statement, as NumPy computes it from the environment's source."""

    faults: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FAULTS")]
    """File of faults, or directory of a run, for its latest file."""
    row: int = 0
    """Which fault of the file to show, from 0."""
    env: str | None = None
    """FILE.py:NAME of the environment, if it is not one of the library's."""

    def run(self, console: Console) -> int:
        """Print what there is, and the step; return the exit status."""
        path = as_path("faults", self.faults)
        if path.is_dir():
            # Of a run with several sessions that of the last one.
            found = sorted(path.glob(FAULTS), key=lambda file: file.stat().st_mtime)
            if not found:
                raise InvalidConfig("faults", f"there are no files {FAULTS} in the folder {str(path)!r}")
            path = found[-1]
        faults = Faults.load(path)
        count = len(faults)
        if not count:
            raise InvalidConfig("faults", f"{str(path)!r} has no faults: nothing went wrong")
        if not 0 <= self.row < count:
            raise InvalidConfig("row", f"expected a number from 0 to {count - 1}, got {self.row}")
        id = faults.snapshot.env if self.env is None else environment_id(self.env)
        if id not in list_envs():
            message = f"{str(path)!r} is of {id!r}, which is none of the library's: give --env FILE.py:NAME"
            raise InvalidConfig("env", message)
        with busy(console, "taking the step"):
            told = str(faults.explain(find(id), self.row))
        kept = "" if count == faults.total else f" of {faults.total}, the first"
        say(console, *(f"{place}: {fault}" for place, fault in enumerate(faults)))
        say(console, f"{count} kept{kept}; number {self.row}:", "", told)
        return 0
