"""How a stage of `gpu.py` reports: a row for everything it does, with the kernels that Triton compiled for it."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_rows import FAILED, OK, RESULTS, SKIPPED, STAND_IN, Row, write


class NotHere(Exception):
    """Something that this machine does not have."""


@dataclass
class Entry:
    """What came of something: for readers, and for programs."""

    figure: str = ""
    data: dict[str, Any] = field(default_factory=dict)


class Kernels:
    """Counts the kernels that Triton compiles in this process, and those that it finds in its cache.

    Args:
        arch: Count those for this compute capability alone, such as 90.
    """

    def __init__(self, arch: int | None = None) -> None:
        self._arch, self.compiled, self.cached = arch, 0, 0
        try:
            from triton import knobs
        except ImportError:
            return
        knobs.compilation.listener = self._note

    def _note(self, *, metadata: dict[str, Any], cache_hit: bool, **_: Any) -> None:
        if self._arch in (None, getattr(metadata["target"], "arch", None)):
            self.cached += cache_hit
            self.compiled += not cache_hit

    def take(self) -> tuple[int, int]:
        """Return both numbers since the last call."""
        taken, self.compiled, self.cached = (self.compiled, self.cached), 0, 0
        return taken


class Reporter:
    """Writes the rows of a stage.

    Args:
        stage: Its letter.
        mode: "run", "rehearse" or "precompile".
    """

    def __init__(self, stage: str, mode: str) -> None:
        self.stage, self.mode = stage, mode
        self._kernels, self._path = Kernels(90 if mode == "precompile" else None), Path(os.environ[RESULTS])

    @contextmanager
    def item(self, what: str, *, stand_in: bool = False) -> Iterator[Entry]:
        """Report what the block does. An error makes a row, and the stage goes on; `NotHere` is none.

        Args:
            what: In a few words.
            stand_in: Whether something else does it where there is no GPU.
        """
        entry, started = Entry(), time.perf_counter()
        state = STAND_IN if stand_in and self.mode != "run" else OK
        try:
            yield entry
        except NotHere as obstacle:
            state, entry.figure = SKIPPED, str(obstacle)
        except Exception as error:
            self.failure(what, error, time.perf_counter() - started, entry.data)
            return
        seconds = time.perf_counter() - started
        if self.mode != "run" and state in (OK, STAND_IN):
            # Nobody is to take a stand-in's speed for a GPU's.
            entry.figure = {"rehearse": "rehearsed", "precompile": "compiled"}[self.mode]
        self.add(Row(self.stage, what, state, entry.figure, seconds, entry.data))

    def failure(self, what: str, error: Exception, seconds: float = 0.0, data: dict[str, Any] | None = None) -> None:
        """Report an error: in a line here, and whole in the log."""
        print(f"--- {what}", flush=True)
        traceback.print_exception(error)
        self.add(Row(self.stage, what, FAILED, short(error), seconds, data or {}))

    def add(self, row: Row) -> None:
        """Write a row, with the kernels since the last one."""
        row.compiled, row.cached = self._kernels.take()
        write(row, self._path)


def short(error: BaseException) -> str:
    """Return an error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
