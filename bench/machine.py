"""What a reader of a result needs to know of the machine and the software."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import operant_gpu

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
    "stable-baselines3",
)


def describe() -> dict[str, Any]:
    """Return machine, versions, date and command of this run."""
    return {
        "machine": machine_name(),
        "cores": os.cpu_count(),
        "command": "python " + shlex.join(sys.argv),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": {
            "operant_gpu": operant_gpu.__version__,
            "python": platform.python_version(),
            **{name: version for name in _PACKAGES if (version := version_of(name))},
        },
    }


def machine_name() -> str:
    """Return the name of the GPU, else that of the CPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()


def cpu_name() -> str:
    """Return the name of the CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def version_of(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def slug(name: str) -> str:
    """Return a name fit for a file."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
