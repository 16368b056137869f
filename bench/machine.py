"""What a reader of a result needs to know of the machine, the software and the command."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro

from operant_gpu import OperantError
from operant_gpu.machine import machine_name, versions

RESULTS = Path(__file__).parent / "results"
_PACKAGES = (
    "torch",
    "numpy",
    "numba",
    "triton",
    "gymnasium",
    "envpool",
    "jax",
    "gymnax",
    "MinAtar",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "stable-baselines3",
)

Settings = TypeVar("Settings")


def command(main: Callable[[Settings], int | None], settings: type[Settings]) -> NoReturn:
    """Do what the command line says, and end the process; what the library refuses is said without a traceback."""
    try:
        raise SystemExit(main(tyro.cli(settings)))
    except OperantError as error:
        raise SystemExit(str(error)) from None


def refuse_below(settings: object, **least: int) -> None:
    """Refuse numbers of the command line that make no sense.

    Raises:
        SystemExit: If one is lower than its bound.
    """
    for name, bound in least.items():
        if (value := getattr(settings, name)) < bound:
            raise SystemExit(f"--{name}: expected at least {bound}, got {value}")


def describe(packages: tuple[str, ...] = _PACKAGES) -> dict[str, Any]:
    """Return machine, versions, date and command of this run."""
    return {
        "machine": machine_name(),
        "cores": os.cpu_count(),
        "command": "python " + shlex.join(sys.argv),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": versions(packages),
    }


def write(report: dict[str, Any], path: Path | None, name: str = "") -> Path:
    """Write a result as JSON and return where: the path, or if there is none, RESULTS under a name.

    Args:
        report: What `describe` returned, and what was measured.
        path: File to write.
        name: Of the file if there is no path, without its ending; {} stands for the machine.
    """
    path = path or RESULTS / f"{name.format(slug(report['machine']))}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    # A column of numbers takes a line, not a line for each.
    text = re.sub(r"\[[-+\d.e,\s]+\]", lambda numbers: " ".join(numbers[0].split()), json.dumps(report, indent=1))
    # A run that is cut off here leaves the file as it was.
    part = path.with_name(path.name + ".part")
    part.write_text(text + "\n")
    part.replace(path)
    return path


def append(run: dict[str, Any], path: Path) -> None:
    """Add a run to a file of runs, with what `describe` says of it."""
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    write({"runs": [*runs, describe() | run]}, path)


def slug(name: str) -> str:
    """Return a name fit for a file."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
