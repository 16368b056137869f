"""This machine's C++ compiler, and the libraries that it has made."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from operant_gpu.backends.compilations import told
from operant_gpu.backends.disk_cache import find, keep, remove
from operant_gpu.errors import BackendError
from operant_gpu.machine import cpu_name

_ADVICE = (
    "install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install), "
    "or name it in the variable CXX"
)


def load_or_make(what: str, key: str, make: Callable[[Path], object]) -> ctypes.CDLL:
    """Return the library that an earlier process made for a key on this machine, or one made now.

    Args:
        what: Its name, for the log.
        key: All that decides what is in it, but for compiler and processor.
        make: Writes it to a path, in a folder of its own.

    Raises:
        OSError: If what was made cannot be loaded, or there is no room to make it.
    """
    digest = hashlib.sha256(f"{_machine(*compiler())}{key}".encode()).hexdigest()[:32]
    key = f"operant_gpu_{digest}"
    if found := find("cpp", key):
        try:
            return ctypes.CDLL(str(found[0]))
        except OSError:
            remove(found[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{key}.so")
        with told(what, cpu_name):
            make(path)
            kept = keep("cpp", key, ".so", path.read_bytes())
        # Programs may be forbidden where they are kept.
        with contextlib.suppress(OSError):
            return ctypes.CDLL(str(kept or path))
        return ctypes.CDLL(str(path))


def compiler() -> list[str]:
    """Return the command of the C++ compiler: its path, and the arguments that CXX adds.

    Raises:
        BackendError: If there is none.
    """
    try:
        named = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise BackendError(f"CXX is no command: {os.environ['CXX']!r} ({error})") from error
    found = next(filter(None, map(shutil.which, named[:1] or ("c++", "g++", "clang++"))), None)
    if found is None:
        missing = f"CXX names {named[0]!r}, which is not there" if named else "neither c++ nor g++ nor clang++ is there"
        raise BackendError(f"a C++ compiler is needed, but {missing}; {_ADVICE}")
    return [os.path.abspath(found), *named[1:]]


def native_flags() -> tuple[str, ...]:
    """Return the options for code that need only run on this processor."""
    return ("-march=native",) if platform.machine() in ("x86_64", "AMD64") else ()


def failure(command: list[str], done: subprocess.CompletedProcess[str]) -> BackendError:
    """Return the error for a compiler that made no library, whatever it was given."""
    said = done.stderr.strip()
    return BackendError(f"the C++ compiler {command[0]} made no library (status {done.returncode}):\n{said}")


def run_compiler(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a compiler, in a language that its messages are understood in.

    Raises:
        BackendError: If it does not run.
    """
    return _run(command, {**os.environ, "LC_ALL": "C"})


def _run(command: list[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", env=variables, check=False)
    except OSError as error:
        raise BackendError(f"the C++ compiler {command[0]} does not run ({error}): {_ADVICE}") from error


@functools.cache
def _machine(*compiler: str) -> str:
    """Return what the compiled code depends on beside its source: the compiler's version and the processor."""
    version = _run([*compiler, "--version"], os.environ).stdout
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        features = platform.processor()
    return f"{version}{platform.machine()}{features}"
