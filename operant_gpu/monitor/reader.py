"""A run as its files show it, while it is being written or afterwards."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from operant_gpu.errors import InvalidConfig
from operant_gpu.files import as_path
from operant_gpu.machine import process_since
from operant_gpu.monitor.view import STATES, View
from operant_gpu.monitor.writers import JSONLines

FILE = "run.json"
FORMAT = 1


class RunReader:
    """Follows a run's directory without touching it.

    Args:
        folder: The directory.

    Raises:
        InvalidConfig: If it is no run's directory.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = as_path("run", folder)
        self.view = View(title=self.folder.name, folder=str(self.folder))
        self._offset, self._inode = 0, 0
        read_description(self.folder)

    def refresh(self) -> View:
        """Read what has been added since the last time."""
        description = read_description(self.folder)
        view = self.view
        view.title, view.goal, view.details = description["env"], description["goal"], description["details"]
        view.start, view.target = description["start"], description["target"]
        view.state, view.message = description["state"], description["message"]
        if view.state == "running" and not is_alive(description):
            view.state = "killed"
        for record in self.readings():
            view.add(record)
        return view

    def readings(self) -> Iterator[dict[str, float]]:
        """Yield the readings that have been added since the last time, the oldest first."""
        for line in self._new_lines():
            # Half a line that a kill has left, or a disk's damage: the others stand.
            with contextlib.suppress(ArithmeticError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
                yield _record(line)

    def _new_lines(self) -> list[bytes]:
        """Return the whole lines that were added."""
        path = self.folder / JSONLines.name
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._offset, self._inode = 0, status.st_ino
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InvalidConfig("run", f"cannot read {str(path)!r}: {error}") from error
        self._offset += len(whole) + len(newline)
        return whole.split(b"\n") if newline else []


def _record(line: bytes) -> dict[str, float]:
    """Return what a line says; ValueError if it is no reading."""
    found = json.loads(line)
    record = {name: math.nan if value is None else float(value) for name, value in found.items()}
    is_sound = all(math.isfinite(record[name]) for name in ("timesteps", "episodes"))
    if not is_sound or not all(record[name] > 0 for name in ("sps", "env_sps", "learner_sps")):
        raise ValueError("no reading has such numbers")
    return {"episodic_return": math.nan, "episodic_length": math.nan, **record}


def read_description(folder: Path) -> dict[str, Any]:
    """Return what `run.json` says of a run.

    Raises:
        InvalidConfig: If there is none, or it is not of this format.
    """
    path = folder / FILE
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        there = f"it has no {FILE}" if folder.is_dir() else "it is a file" if folder.exists() else "it is not there"
        raise InvalidConfig("run", f"{str(folder)!r} is not a run's directory: {there}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidConfig("run", f"cannot read {str(path)!r}: {error}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise InvalidConfig("run", f"{str(path)!r} is not in format {FORMAT}, which this version reads")
    for name, holds in _HOLDS.items():
        value = description.get(name)
        if not holds(value):
            raise InvalidConfig("run", f"{str(path)!r} is damaged: {name} is {value!r}")
    return description


# Above any time, number of steps or return; NaN is not below.
_MOST = 1e300


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST


def _is_session(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("host"), str)
        and all(_is_number(value.get(name)) for name in ("pid", "pid_since"))
        and _is_number(value.get("processes", 1))
    )


# What a description holds of what is read here.
_HOLDS: dict[str, Callable[[Any], bool]] = {
    "env": lambda value: isinstance(value, str),
    "details": lambda value: isinstance(value, str),
    "message": lambda value: isinstance(value, str),
    "state": lambda value: value in STATES,
    "goal": lambda value: value is None or _is_number(value),
    "params": lambda value: value is None or isinstance(value, dict),
    "start": _is_number,
    "target": _is_number,
    "sessions": lambda value: isinstance(value, list) and bool(value) and all(map(_is_session, value)),
}


def is_alive(description: dict[str, Any]) -> bool:
    """Tell whether the process that last trained a run is there; one on another machine is believed to be."""
    session = description["sessions"][-1]
    if session["host"] != socket.gethostname():
        return True
    since = process_since(session["pid"])
    return since is not None and abs(since - session["pid_since"]) < 1.0


def runs_in(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the runs that a directory stands for: itself, or those in it, as `operant-gpu train --seeds` makes them.

    Raises:
        InvalidConfig: If there are none.
    """
    folder = as_path("run", folder)
    if (folder / FILE).exists() or not folder.is_dir():
        return [folder]
    runs = [path.parent for path in folder.glob(f"*/{FILE}")]
    if not runs:
        raise InvalidConfig("run", f"{str(folder)!r} is not a run's directory: it has no {FILE}, and no runs in it")
    # seed-2 before seed-10.
    return sorted(
        runs, key=lambda run: [int(word) if word.isdecimal() else word for word in re.split(r"(\d+)", run.name)]
    )


def each_once(param: str, runs: Sequence[Path]) -> Sequence[Path]:
    """Return runs, none of which counts twice.

    Raises:
        InvalidConfig: If one is given twice, for the setting `param`: intervals would be narrower than is true.
    """
    seen = set[Path]()
    for run in runs:
        if run.resolve() in seen:
            raise InvalidConfig(param, f"{str(run)!r} is given twice, and would count twice: leave it out once")
        seen.add(run.resolve())
    return runs


def latest_run(folder: Path) -> Path:
    """Return the run's directory below a folder in which something happened last.

    Raises:
        InvalidConfig: If there is none.
    """
    runs = [path.parent for path in folder.glob(f"**/{FILE}")]
    if not runs:
        raise InvalidConfig("run", f"there is no run below {str(folder)!r}: `operant-gpu train ENV` makes one")
    return max(runs, key=_last_change)


def _last_change(run: Path) -> float:
    files = (run / name for name in (FILE, JSONLines.name))
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)
