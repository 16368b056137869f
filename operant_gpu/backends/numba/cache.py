"""Compiled programs on disk: generated source files, beside which numba keeps the machine code."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numba

from operant_gpu.backends.disk_cache import folder
from operant_gpu.files import write_whole
from operant_gpu.kernels.numba import mathematics


@functools.cache
def compiled(source: str) -> Any:
    """Return the `program` of a generated module, compiled now or by an earlier process."""
    path = folder("numba") / f"operant_gpu_program_{_digest(source)}.py"
    if not path.exists() or path.read_text() != source:
        write_whole(path, source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # numba finds the module of a cached function by its name.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module.program


@functools.cache
def _inlined() -> bytes:
    """Return what programs take into themselves besides their own source."""
    return Path(mathematics.__file__).read_bytes() + str(numba.__version__).encode()


def _digest(source: str) -> str:
    return hashlib.sha256(_inlined() + source.encode()).hexdigest()[:32]
