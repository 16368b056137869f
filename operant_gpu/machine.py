"""What a reader of a result needs to know of the machine and the software, and how busy the machine is.

psutil is imported where it is needed: benchmarks want the names alone.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import socket
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from operant_gpu.version import __version__

_PACKAGES = ("torch", "triton", "numpy", "numba", "gymnasium", "cupy-cuda13x", "cupy-cuda12x")
_GIB = 2**30
# Seconds between two looks at how busy the machine is: the driver itself updates its figures about as often.
_INTERVAL = 1.0


def process_since(number: int) -> float | None:
    """Return when a process of this machine began, in seconds since the machine did; None if it is not there.

    With it a process is told from a later one that was given the same number.
    """
    import psutil

    try:
        # Both move with the system's clock when that is set. This one first: older psutil remember it for the other.
        booted = psutil.boot_time()
        return float(psutil.Process(number).create_time() - booted)
    except psutil.Error:
        return None


def describe(device: torch.device | None = None) -> dict[str, Any]:
    """Return the machine and the software, in a form fit for JSON; for a device, or for the one that would be taken."""
    import psutil

    return {
        "host": socket.gethostname(),
        "machine": machine_name(device),
        "cores": os.cpu_count(),
        "ram_gib": round(psutil.virtual_memory().total / _GIB, 1),
        "platform": platform.platform(),
        "versions": versions(),
        "git": git_revision(),
        "library_git": library_revision(),
    }


def machine_name(device: torch.device | None = None) -> str:
    """Return the name of the GPU, else that of the CPU."""
    uses_gpu = torch.cuda.is_available() if device is None else device.type == "cuda"
    return torch.cuda.get_device_name(device) if uses_gpu else cpu_name()


def cpu_name() -> str:
    """Return the name of the CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def versions(packages: tuple[str, ...] = _PACKAGES) -> dict[str, str]:
    """Return the versions of Python, of this library and of those packages that are installed."""
    found = {name: version for name in packages if (version := version_of(name)) is not None}
    return {"operant_gpu": __version__, "python": platform.python_version(), **found}


def version_of(package: str) -> str | None:
    """Return the version of an installed package, None if it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def library_revision() -> dict[str, Any] | None:
    """Return the revision of the clone that this library is imported from; None if it is installed without one."""
    clone = Path(__file__).parents[1]
    # Packages may be installed into a folder of a user's repository: its revision is not the library's.
    return git_revision(clone) if (clone / ".git").exists() else None


def git_revision(folder: Path | None = None) -> dict[str, Any] | None:
    """Return the revision of the repository around a folder, and whether it has changes; None without one.

    Args:
        folder: By default the current one.
    """

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        return {"revision": git("rev-parse", "HEAD").strip(), "has_changes": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


class Usage:
    """How busy this process keeps the machine; looks at most once a second.

    Args:
        device: Where the process computes.
    """

    def __init__(self, device: torch.device) -> None:
        import psutil

        self._process = psutil.Process()
        # The first call only begins to count.
        self._process.cpu_percent()
        self._gpu = _find_gpu(device) if device.type == "cuda" else None
        self._due, self._latest = time.monotonic(), dict[str, float]()

    def read(self) -> dict[str, float]:
        """Return `cpu_percent` (100 is one core) and `ram_gib` of the process; of a GPU, if NVML can be asked, also.

        Those are `gpu_percent`, `gpu_memory_gib` (of all processes), `gpu_temperature` (degrees Celsius), `gpu_watts`.
        """
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _INTERVAL
            self._latest = self._measure()
        return self._latest

    def _measure(self) -> dict[str, float]:
        own = {"cpu_percent": self._process.cpu_percent(), "ram_gib": self._process.memory_info().rss / _GIB}
        if self._gpu is None:
            return own
        nvml, handle = self._gpu
        numbers: dict[str, Callable[[], float]] = {
            "gpu_percent": lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
            "gpu_memory_gib": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used / _GIB,
            "gpu_temperature": lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            "gpu_watts": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        }
        for name, read in numbers.items():
            # Some GPUs and containers don't tell one or another. Training does not depend on it.
            with contextlib.suppress(nvml.NVMLError):
                own[name] = read()
        return own


def _find_gpu(device: torch.device) -> tuple[Any, Any] | None:
    """Return NVML's module and its handle of a device; None where it cannot be had."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        # By its UUID: NVML's numbers don't heed CUDA_VISIBLE_DEVICES.
        uuid = torch.cuda.get_device_properties(device).uuid
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError:
        return None
