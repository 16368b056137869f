"""The CUDA backend: a CudaEnvironment's source compiled by NVRTC, one environment a thread."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any, NamedTuple

import cupy
import numpy as np
import torch
from cupy_backends.cuda.libs import nvrtc

from operant_gpu.backends.base import Batch
from operant_gpu.backends.compilations import told
from operant_gpu.backends.cuda.base import CudaSourceBackend
from operant_gpu.backends.cuda.source import KERNELS, Known, explained, known_of, program
from operant_gpu.backends.disk_cache import find, keep
from operant_gpu.backends.failures import failure
from operant_gpu.cuda_environment import CudaEnvironment
from operant_gpu.errors import BackendError, installation
from operant_gpu.memory.records import Record

# Fused multiply-add would round as no other backend does. 940 is a function that ends without returning its value.
OPTIONS = ("--std=c++17", "--fmad=false", "--diag-error=940")
_WAY_ROUND = "use device='cpu', backend='cpp'"
# Of small batches every multiprocessor gets some.
_FEW, _THREADS_OF_FEW, _THREADS = 32_768, 32, 128


class CudaBackend(CudaSourceBackend):
    """Implements `Backend` with one launch a call on torch's current stream, and no synchronisation."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self._device: torch.device = batch.columns.seed.device
        self._threads = _THREADS_OF_FEW if batch.num_envs <= _FEW else _THREADS
        major, minor = torch.cuda.get_device_capability(self._device)
        compiled = cubin(batch.environment, known_of(batch), f"sm_{major}{minor}")
        try:
            with cupy.cuda.Device(self._device.index):
                module = cupy.cuda.function.Module()
                module.load(compiled)
                self._kernels = {name: module.get_function(name) for name in KERNELS}
        except RuntimeError as error:
            raise failure(batch.environment.id, self._device, error, _WAY_ROUND) from error

    def launch(self, kernel: str, call: Record, argument: int, num_steps: int) -> None:
        """Call a kernel for all environments."""
        stream = _Stream(torch.cuda.current_stream(self._device).cuda_stream)
        grid = (-(-self.batch.num_envs // self._threads),)
        # CuPy passes arrays of one structure by value.
        arguments = (self.record.structure, call.structure, np.int64(argument))
        try:
            with cupy.cuda.Device(self._device.index), cupy.cuda.Stream.from_external(stream):
                self._kernels[kernel](grid, (self._threads,), arguments)
        except RuntimeError as error:
            raise failure(f"{kernel} of {self.batch.environment.id}", self._device, error, _WAY_ROUND) from error


class _Stream(NamedTuple):
    """A stream as CuPy takes it from others; those of older releases of torch do not say it themselves."""

    handle: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


def cubin(environment: CudaEnvironment, known: Known, arch: str) -> bytes:
    """Return an environment's kernels as a module loads them, compiled now or by an earlier process.

    CuPy's own compilation would flush denormal numbers to zero.

    Args:
        environment: In CUDA C++.
        known: What else its program is made for.
        arch: Of the device, such as "sm_90".

    Raises:
        BackendError: If NVRTC is missing, or does not know the device.
        InvalidConfig: If the author's file does not compile.
    """
    version = _check_nvrtc(arch)
    beside, source, options = str(_folder(environment)), program(environment, known), (*OPTIONS, f"-arch={arch}")
    # Of no folder's name: what was compiled may be carried to another machine.
    digest = hashlib.sha256(f"{version}{options}{source.replace(beside, '')}".encode()).hexdigest()[:32]
    if found := find("cuda", digest):
        return found[1]
    with told(environment.id, lambda: arch):
        compiled = _compiled(environment, known, source, (*options, f"-I{beside}"))
        keep("cuda", digest, ".cubin", compiled)
    return compiled


def _loadable(compilation: Any) -> bytes:
    """Return what a module loads."""
    return _whole(nvrtc.getCUBIN(compilation))


def _whole(elf: bytes) -> bytes:
    """Return an ELF file with all bytes that its header speaks of: CuPy takes the last, a zero, for the end of text."""
    programs, sections = struct.unpack_from("<QQ", elf, 32)
    program_size, num_programs, section_size, num_sections = struct.unpack_from("<4H", elf, 54)
    return elf.ljust(max(programs + program_size * num_programs, sections + section_size * num_sections), b"\0")


def _check_nvrtc(arch: str) -> tuple[int, int]:
    """Return the version of NVRTC, if it is there and knows the device."""
    try:
        version: tuple[int, int] = nvrtc.getVersion()
        known = nvrtc.getSupportedArchs()
    except (ImportError, OSError, RuntimeError) as error:
        advice = f"{installation('cupy')}, or use backend='cpp' on the CPU"
        raise BackendError(f"the cuda backend needs NVRTC ({str(error).splitlines()[0]}): {advice}") from error
    if int(arch.rpartition("_")[2]) not in known:
        found = ".".join(map(str, version))
        raise BackendError(f"NVRTC {found} does not know {arch}: install a newer one with CuPy, or use backend='cpp'")
    return version


def _folder(environment: CudaEnvironment) -> Path:
    return Path(environment.source).resolve().parent


def _compiled(environment: CudaEnvironment, known: Known, source: str, options: tuple[str, ...]) -> bytes:
    # Under a name of the author's folder, where files that it includes are looked for first.
    compilation = nvrtc.createProgram(source, f"{_folder(environment)}/program.cu", (), ())
    try:
        nvrtc.compileProgram(compilation, options)
        result = _loadable(compilation)
    except nvrtc.NVRTCError as error:
        raise explained(environment, known, nvrtc.getProgramLog(compilation)) from error
    finally:
        nvrtc.destroyProgram(compilation)
    return result
