"""What stands for a GPU where there is none: to rehearse a run of `gpu.py`, or to compile what it will launch.

Both take the executor of compiled kernels (tests/support/ptx_executor) as Triton's device. A rehearsal runs kernels
there. To compile beforehand, kernels are compiled for the GPU and not launched, so results are what the memory was:
zeros.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

# Of an H100 and an H200: compute capability, multiprocessors.
CAPABILITY, MULTIPROCESSORS = 90, 132


def install(mode: str, executes: bool = False) -> None:
    """Let this process take the host for a GPU from now on; before it imports what asks whether there is one.

    Args:
        mode: "rehearse" or "precompile".
        executes: Whether kernels that are compiled beforehand run too, compiled a second time for the executor: for
            programs whose way depends on results.
    """
    operant, compiler = (importlib.import_module(name) for name in ("ptx_executor.operant", "triton.compiler"))
    from triton import knobs
    from triton.backends.nvidia.compiler import CUDABackend

    make_cubin, folder = CUDABackend.make_cubin, knobs.cache.dir
    if mode == "rehearse" or executes:
        driver = operant.install()
        if mode == "precompile":
            _compile_twice(driver, compiler, make_cubin, folder)
    else:
        driver = operant.install(capability=CAPABILITY)
        CUDABackend.make_cubin = make_cubin
        knobs.runtime.kernel_load_start_hook.remove(driver._note_text)
        driver.load_binary = lambda *_: (None, None, 0, 0, 1024)
        driver.launcher_cls = _compiled_launcher
        update: Any = importlib.import_module("operant_gpu.backends.triton.update")
        update._programs_at_once = lambda device, fit: 2 * MULTIPROCESSORS
        _begin_with_zeros()
    _pretend(compiles=mode == "precompile")
    _learn_without_graphs()


def _learn_without_graphs() -> None:
    """Let the graph engine run as the eager one: it launches the same kernels."""
    ppo: Any = importlib.import_module("operant_gpu.models.ppo.learner")
    checked = ppo.checked_config

    def changed(env: Any, config: Any, intrinsic: Any) -> Any:
        if getattr(config, "engine", "") == "graph":
            config = dataclasses.replace(config, engine="eager")
        return checked(env, config, intrinsic)

    ppo.checked_config = changed


def _pretend(compiles: bool) -> None:
    """Answer for a GPU what PyTorch is asked."""
    importlib.import_module("ptx_executor.cuda_on_host").pretend()
    answers: dict[str, Any] = {
        "set_sync_debug_mode": lambda mode: None,
        "get_sync_debug_mode": lambda: 0,
        "memory_stats": lambda device=None: {"allocation.all.allocated": 0},
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    _resolve_cuda(compiles)


def _resolve_cuda(compiles: bool) -> None:
    """Let environments in CUDA C++ run as C++ on the host."""
    from operant_gpu import CudaEnvironment
    from operant_gpu.backends import select
    from operant_gpu.backends.cuda import source

    resolve: Callable[..., Any] = select.resolve

    def resolved(environment: Any, trial: Any, device: Any, backend: str) -> Any:
        means_gpu = str(device).startswith("cuda") or device == "auto"
        if isinstance(environment, CudaEnvironment) and means_gpu and backend in ("auto", "cuda"):
            if compiles:
                cuda = importlib.import_module("operant_gpu.backends.cuda.backend")
                cuda.cubin(environment, source.Known(*environment.make_given({})), f"sm_{CAPABILITY}")
            return resolve(environment, trial, "cpu", "cpp")
        return resolve(environment, trial, device, backend)

    select.resolve = resolved


def _begin_with_zeros() -> None:
    """Let memory that no kernel writes hold numbers that are finite, and the same each time."""
    for place, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        setattr(place, name, _zeroed(getattr(place, name)))


def _zeroed(empty: Callable[..., Any]) -> Callable[..., Any]:
    # Not `torch.zeros`: some of PyTorch's own forms of that call `torch.empty`.
    return lambda *args, **kwargs: empty(*args, **kwargs).zero_()


def _compiled_launcher(source: Any, metadata: Any) -> Callable[..., None]:
    """Compile what passes arguments to a kernel, which is C and kept in the cache too; return what does nothing."""
    _compile_launcher(source, metadata)
    return lambda *_: None


def _compile_launcher(source: Any, metadata: Any) -> None:
    from triton import knobs
    from triton.backends.nvidia import driver as nvidia
    from triton.runtime import build

    if not hasattr(build, "_load_module_from_path") or not hasattr(nvidia, "make_launcher"):
        # Newer releases of Triton have one launcher for all kernels.
        return
    load, build._load_module_from_path = build._load_module_from_path, lambda name, path: _Unloaded()
    with knobs.nvidia.scope():
        knobs.nvidia.libcuda_path = str(_empty_library())
        try:
            if not _helped:
                _helped.append(nvidia.CudaUtils())
            nvidia.CudaLauncher(source, metadata)
        finally:
            build._load_module_from_path = load


class _Unloaded:
    """Stands for a compiled module that only a machine with a GPU can load."""

    def __getattr__(self, name: str) -> None:
        return None


_helped: list[Any] = []
# Folders that go when the process ends.
_libraries: list[tempfile.TemporaryDirectory[str]] = []


def _empty_library() -> Path:
    """Return the folder of a library with the name and the functions of the driver's, for the linker."""
    if not _libraries:
        from triton.backends.nvidia import driver as nvidia

        own = Path(nvidia.__file__)
        texts = own.read_text() + own.with_name("driver.c").read_text()
        names = sorted(set(re.findall(r"\bcu[A-Z]\w+(?=\()", texts)))
        _libraries.append(tempfile.TemporaryDirectory())
        path = Path(_libraries[0].name) / "libcuda.so.1"
        # With none of its functions, many linkers would leave out that the driver is needed at all.
        functions = "\n".join(f"void {name}(void) {{}}" for name in names)
        command = ["gcc", "-shared", f"-Wl,-soname,{path.name}", "-o", str(path), "-x", "c", "-"]
        subprocess.run(command, check=True, stdout=sys.stderr, input=functions, text=True)
    return Path(_libraries[0].name)


def _compile_twice(driver: Any, compiler: Any, make_cubin: Any, folder: str) -> None:
    """Let Triton compile for the GPU too, into the folder, whenever it compiles for the executor."""
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import CUDABackend

    # The executor needs the kernels' text, which is not to be carried.
    knobs.cache.dir, knobs.compilation.store_binary_only = tempfile.mkdtemp(), False
    plain, launcher, without_binary = compiler.compile, driver.launcher_cls, CUDABackend.make_cubin
    # What Triton derives from the target.
    derived = ("arch", "supported_fp8_dtypes", "deprecated_fp8_dot_operand_dtypes", "max_num_imprecise_acc_default")

    @contextlib.contextmanager
    def for_the_gpu() -> Iterator[None]:
        with knobs.cache.scope(), knobs.compilation.scope():
            knobs.cache.dir, knobs.compilation.store_binary_only = folder, True
            CUDABackend.make_cubin = make_cubin
            try:
                yield
            finally:
                CUDABackend.make_cubin = without_binary

    def compiled(source: Any, target: Any = None, options: Any = None, **more: Any) -> Any:
        with for_the_gpu():
            kept = {name: value for name, value in (options or {}).items() if name not in derived}
            plain(source, target=GPUTarget("cuda", CAPABILITY, 32), options=kept, **more)
        return plain(source, target=target, options=options, **more)

    def made(source: Any, metadata: Any) -> Any:
        with for_the_gpu():
            _compile_launcher(source, metadata)
        return launcher(source, metadata)

    compiler.compile, driver.launcher_cls = compiled, made


class _Compiled(Exception):
    """Ends the making of environments once what they need is compiled."""


def compile_in_cuda() -> list[str]:
    """Compile the environments of the tests that are in CUDA C++; return their names."""
    from operant_gpu import CudaEnvironment
    from operant_gpu.backends import select
    from operant_gpu.backends.cuda import backend as cuda
    from operant_gpu.backends.cuda import source

    names, before = [], select.resolve

    def resolve(environment: Any, trial: Any, device: Any, backend: str) -> Any:
        if isinstance(environment, CudaEnvironment):
            cuda.cubin(environment, source.Known(*environment.make_given({})), f"sm_{CAPABILITY}")
            names.append(environment.id)
        raise _Compiled

    select.resolve = resolve
    try:
        for make in importlib.import_module("contract_envs").EVERY_MAKER.values():
            with contextlib.suppress(_Compiled):
                make(1, device="cuda")
    finally:
        select.resolve = before
    return names
