"""The C++ backend: a CudaEnvironment's source compiled by this machine's compiler, on all cores of a CPU."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
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
# Fused multiply-add would round differently in each compiler.
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden", "-w")
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
    source = program(environment, params)
    path = folder("cpp") / f"operant_gpu_{_digest(source)}.so"
    if not path.exists():
        _compile(environment, params, source, path)
    loaded = ctypes.CDLL(str(path))
    kernels = {}
    for name in KERNELS:
        function = kernels[name] = getattr(loaded, name)
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3], None
    return kernels


def compiler() -> str:
    """Return the path of the C++ compiler.

    Raises:
        BackendError: If there is none.
    """
    named = os.environ.get("CXX", "").strip()
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if found is None:
        missing = f"CXX names {named!r}, which is not there" if named else "found neither c++ nor g++ nor clang++"
        raise BackendError(f"the cpp backend needs a C++ compiler: {missing}; {_ADVICE}")
    return found


def compile_command(environment: Any, output: Path | str) -> list[str]:
    """Return the command that compiles a program from its standard input."""
    native = ("-march=native",) if platform.machine() in ("x86_64", "AMD64") else ()
    folder_of_source = str(Path(environment.source).resolve().parent)
    return [compiler(), *FLAGS, *native, "-iquote", folder_of_source, "-x", "c++", "-", "-o", str(output)]


def _compile(environment: Any, params: Any, source: str, path: Path) -> None:
    def write(temporary: Path) -> None:
        command = compile_command(environment, temporary)
        done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise explained(environment, params, done.stderr)

    write_atomically(path, write)


@functools.cache
def _machine() -> str:
    """Return what the compiled code depends on beside its source: the compiler's version and the processor."""
    version = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=False).stdout
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        features = platform.processor()
    return f"{version}{platform.machine()}{features}{FLAGS}"


def _digest(source: str) -> str:
    return hashlib.sha256((_machine() + source).encode()).hexdigest()[:32]
