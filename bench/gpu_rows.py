"""The rows of a run of `gpu.py`: one JSON line for everything that was done, written at once."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# What a row says happened. "note" rows carry facts about the run itself.
OK, FAILED, SKIPPED, STAND_IN, LEFT_OUT, NOTE = "ok", "failed", "skipped", "stand-in", "left out", "note"
BAD = FAILED, LEFT_OUT
# Names the results file to the processes of a run.
RESULTS = "OPERANT_GPU_BENCH_RESULTS"
# The number of the run's own process.
RUN = "OPERANT_GPU_BENCH_RUN"


@dataclass
class Row:
    """One line of the table.

    Attributes:
        stage: Letter of the stage.
        what: What was done.
        state: One of those above.
        figure: What came of it, for readers.
        seconds: How long it took.
        data: What came of it, for programs.
        compiled: Kernels that were compiled meanwhile.
        cached: Kernels that came from the cache meanwhile.
        quiet: Whether the table leaves it out.
    """

    stage: str
    what: str
    state: str
    figure: str = ""
    seconds: float = 0.0
    data: dict[str, Any] = field(default_factory=dict)
    compiled: int = 0
    cached: int = 0
    quiet: bool = False

    def line(self) -> str:
        """Return the row as the table has it, in one line."""
        figure = self.figure.splitlines()[0] if self.figure else ""
        return f"{self.stage:<5} {self.what[:66]:<66} {self.state:<8} {self.seconds:7.1f}  {figure[:100]}".rstrip()


HEADINGS = f"{'stage':<5} {'what':<66} {'result':<8} {'seconds':>7}  figure"


def write(row: Row, path: Path) -> None:
    """Append a row: whole, and on the disk when this returns."""
    with path.open("ab", buffering=0) as file:
        # One write: processes beside this one append to the same file.
        file.write(json.dumps(asdict(row), default=str).encode() + b"\n")
        os.fsync(file.fileno())


def read(lines: Iterable[str | bytes]) -> list[Row]:
    """Return the rows among lines of a results file; what is none, such as a line that was cut off, is left out."""
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):
            rows.append(Row(**json.loads(line)))
    return rows
