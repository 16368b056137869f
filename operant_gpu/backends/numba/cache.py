"""Functions that numba compiles, and their machine code on disk."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import pickle
import sys
from collections.abc import Callable
from importlib.abc import InspectLoader
from pathlib import Path
from typing import Any

import numba
from numba import types
from numba.core.ccallback import CFunc
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from operant_gpu.backends.compilations import told
from operant_gpu.backends.disk_cache import find, keep, remove
from operant_gpu.kernels.numba import batch, block, mathematics, memory
from operant_gpu.machine import cpu_name
from operant_gpu.memory import records

_KIND = "numba"


def kernels() -> tuple[Any, Any]:
    """Return the kernels `rollout` and `reset`."""
    digest = _digest(*map(_source_of, (batch, block, mathematics, memory, records)))
    return _function(batch.rollout, 6, digest), _function(batch.reset, 6, digest)


@functools.cache
def compiled(source: str) -> Any:
    """Return the `program` of a generated module."""
    # What programs take into themselves.
    digest = _digest(_source_of(mathematics), source.encode())
    name = f"operant_gpu_program_{digest}"
    spec = importlib.util.spec_from_loader(name, _Loader(source))
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    # numba finds the module of a function that it has compiled before by its name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    module.program = _function(module.program, 4, digest)
    return module.program


class _Loader(InspectLoader):
    """Makes a module of its source."""

    def __init__(self, source: str) -> None:
        self._source = source

    def get_source(self, fullname: str) -> str:
        """Return the source."""
        return self._source


def _function(function: Callable[..., None], arguments: int, digest: str) -> Any:
    """Return a function of so many integers, addresses among them, compiled now or by an earlier process."""
    made: Any = CFunc(function, ((types.intp,) * arguments, types.void), locals={}, options={"error_model": "numpy"})
    made._cache = _Cache(f"{function.__name__}_{digest}")
    with told(f"numba's {function.__name__}", cpu_name):
        made.compile()
    return made


class _Cache:
    """A cache as numba's functions have them; its own fails for good at a file that is cut short, or a full disk."""

    def __init__(self, name: str) -> None:
        self._name = name

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Return the function as it was compiled before; None if it was not."""
        target.refresh()
        if found := find(_KIND, self._key(target.codegen())):
            try:
                return CompileResult._rebuild(target, *pickle.loads(found[1]))
            except Exception:
                # It was made with other packages beside numba.
                remove(found[0])
        return None

    def save_overload(self, signature: Any, made: Any) -> None:
        """Keep what was compiled."""
        keep(_KIND, self._key(made.codegen), ".pickle", dumps(made._reduce()))

    def _key(self, codegen: Any) -> str:
        """Return what the machine code belongs to: the function, and the processor."""
        return f"{self._name}_{_digest(repr(codegen.magic_tuple()).encode())}"


def _source_of(module: Any) -> bytes:
    return Path(module.__file__).read_bytes()


def _digest(*parts: bytes) -> str:
    versions = f"{numba.__version__}{sys.implementation.cache_tag}".encode()
    return hashlib.sha256(b"\0".join((versions, *parts))).hexdigest()[:32]
