"""The C++ backend: a CudaEnvironment's source compiled by this machine's compiler, on all cores of a CPU."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from operant_gpu.backends.base import Batch
from operant_gpu.backends.compiled import Record
from operant_gpu.backends.cuda_base import CudaSourceBackend
from operant_gpu.backends.cuda_source import KERNELS, explained, program
from operant_gpu.backends.disk_cache import folder, write_atomically
from operant_gpu.backends.threads import in_parts
from operant_gpu.errors import BackendError

_BLOCK = 64
_STEPS_PER_THREAD = 1_024
# Fused multiply-add would round differently in each compiler. No author means a function that ends without returning
# its value.
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden", "-Werror=return-type")
_ADVICE = (
    "install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install), "
    "or name it in the variable CXX"
)


class CppBackend(CudaSourceBackend):
    """Implements `Backend` on the CPU, in the memory of the batch's tensors."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self._kernels = library(batch.environment, batch.params)

    def launch(self, kernel: str, call: Record, argument: int, num_steps: int) -> None:
        """Call a kernel for all environments, in parts by as many threads as the work is worth."""
        function, batch, address = self._kernels[kernel], self.record.address, call.address

        def part(_: int, first: int, last: int) -> None:
            function(batch, address, first, last, argument)

        in_parts(part, self.batch.num_envs, num_steps, _STEPS_PER_THREAD, _BLOCK)


def library(environment: Any, params: Any) -> dict[str, Any]:
    """Return the kernels of an environment, compiled now or by an earlier process.

    Raises:
        BackendError: If there is no compiler.
        InvalidConfig: If the author's file does not compile.
    """
    source, command = program(environment, params), compile_command(environment)
    try:
        loaded = load_or_make(f"{command}{source}", lambda path: _compile(environment, params, source, command, path))
    except OSError as error:
        if "undefined symbol" in str(error):
            raise explained(environment, params, f"it uses a function that is nowhere defined: {error}") from error
        raise BackendError(f"what the C++ compiler {command[0]} made cannot be loaded: {error}") from error
    kernels = {}
    for name in KERNELS:
        function = kernels[name] = getattr(loaded, name)
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3], None
    return kernels


def load_or_make(key: str, make: Callable[[Path], object]) -> ctypes.CDLL:
    """Return the library that an earlier process made for a key on this machine, or one made now.

    Args:
        key: All that decides what is in it, but for compiler and processor.
        make: Writes it to a path.

    Raises:
        OSError: If what was made cannot be loaded.
    """
    digest = hashlib.sha256(f"{_machine(*compiler())}{key}".encode()).hexdigest()[:32]
    path = folder("cpp") / f"operant_gpu_{digest}.so"
    if path.exists():
        with contextlib.suppress(OSError):
            return ctypes.CDLL(str(path))
    # Also where the file of an earlier process cannot be loaded.
    write_atomically(path, make)
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


def compile_command(environment: Any) -> list[str]:
    """Return the command that compiles a program, without the paths of the program and of the library."""
    return [*compiler(), *FLAGS, *native_flags(), "-iquote", str(Path(environment.source).resolve().parent)]


def native_flags() -> tuple[str, ...]:
    """Return the options for code that need only run on this processor."""
    return ("-march=native",) if platform.machine() in ("x86_64", "AMD64") else ()


def _compile(environment: Any, params: Any, source: str, command: list[str], path: Path) -> None:
    # In a folder of its own: files that it includes are looked for beside it first.
    with tempfile.TemporaryDirectory() as folder_of_program:
        file = Path(folder_of_program, "program.cpp")
        file.write_text(source, encoding="utf-8")
        # In the language that is understood below.
        command = [*command, str(file), "-o", str(path)]
        done = run_compiler(command)
    if done.returncode == 0 and path.stat().st_size:
        return
    # With a line of a file; else it is of the command, the disk, or the linker.
    if re.search(r":\d+:(\d+:)? (fatal )?error:", done.stderr):
        raise explained(environment, params, done.stderr)
    raise failure(command, done)


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
