"""The C++ backend: a CudaEnvironment's source compiled by this machine's compiler, on all cores of a CPU."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

from operant_gpu.backends.base import Batch
from operant_gpu.backends.cpp.compiler import compiler, failure, load_or_make, native_flags, run_compiler
from operant_gpu.backends.cpp.rollout import NetworkRollout
from operant_gpu.backends.cuda.base import CudaSourceBackend
from operant_gpu.backends.cuda.source import KERNELS, Known, explained, known_of, program
from operant_gpu.backends.threads import in_parts
from operant_gpu.errors import BackendError
from operant_gpu.memory.records import Record

_BLOCK = 64
_STEPS_PER_THREAD = 1_024
# Fused multiply-add would round differently in each compiler. No author means a function that ends without returning
# its value.
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden", "-Werror=return-type")


class CppBackend(CudaSourceBackend):
    """Implements `Backend` on the CPU, in the memory of the batch's tensors."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self._kernels = library(batch.environment, known_of(batch))
        step = ctypes.cast(self._kernels["operant_steps"], ctypes.c_void_p).value
        self.acting = NetworkRollout(self, batch, self.acting, step or 0, self.record.address, lambda _: 0)

    def launch(self, kernel: str, call: Record, argument: int, num_steps: int) -> None:
        """Call a kernel for all environments, in parts by as many threads as the work is worth."""
        function, batch, address = self._kernels[kernel], self.record.address, call.address

        def arguments(_: int, first: int, last: int) -> tuple[int, ...]:
            return batch, address, first, last, argument

        in_parts(function, arguments, self.batch.num_envs, num_steps, _STEPS_PER_THREAD, _BLOCK)


def library(environment: Any, known: Known) -> dict[str, Any]:
    """Return the kernels of an environment, compiled now or by an earlier process.

    Raises:
        BackendError: If there is no compiler.
        InvalidConfig: If the author's file does not compile.
    """
    source, command = program(environment, known), compile_command(environment)
    try:
        loaded = load_or_make(
            environment.id, f"{command}{source}", lambda path: _compile(environment, known, source, command, path)
        )
    except OSError as error:
        if "undefined symbol" in str(error):
            raise explained(environment, known, f"it uses a function that is nowhere defined: {error}") from error
        raise BackendError(f"what the C++ compiler {command[0]} makes cannot be written or loaded: {error}") from error
    kernels = {}
    for name in KERNELS:
        function = kernels[name] = getattr(loaded, name)
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3], None
    return kernels


def compile_command(environment: Any) -> list[str]:
    """Return the command that compiles a program, without the paths of the program and of the library."""
    return [*compiler(), *FLAGS, *native_flags(), "-iquote", str(Path(environment.source).resolve().parent)]


def _compile(environment: Any, known: Known, source: str, command: list[str], path: Path) -> None:
    file = path.with_name("program.cpp")
    file.write_text(source, encoding="utf-8")
    command = [*command, str(file), "-o", str(path)]
    done = run_compiler(command)
    if done.returncode == 0 and path.exists():
        return
    # With a line of a file; else it is of the command, the disk, or the linker.
    if re.search(r":\d+:(\d+:)? (fatal )?error:", done.stderr):
        raise explained(environment, known, done.stderr)
    raise failure(command, done)
