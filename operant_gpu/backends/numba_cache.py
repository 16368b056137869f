"""Compiled programs on disk: generated source files, beside which numba keeps the machine code."""

from __future__ import annotations

import atexit
import functools
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numba

from operant_gpu.kernels import cpu_math


@functools.cache
def compiled(source: str) -> Any:
    """Return the `program` of a generated module, compiled now or by an earlier process."""
    path = _folder() / f"operant_gpu_program_{_digest(source)}.py"
    if not path.exists() or path.read_text() != source:
        # Whole or not at all: other processes may want the same file.
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w") as file:
            file.write(source)
        os.replace(temporary, path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # numba finds the module of a cached function by its name.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module.program


@functools.cache
def _folder() -> Path:
    """Return the folder for generated sources, one of this process if the user's cache cannot be written."""
    base = os.environ.get("OPERANT_GPU_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "operant_gpu"
    )
    folder = Path(base) / "numba"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    temporary = tempfile.mkdtemp(prefix="operant_gpu")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)


@functools.cache
def _inlined() -> bytes:
    """Return what programs take into themselves besides their own source."""
    return Path(cpu_math.__file__).read_bytes() + str(numba.__version__).encode()


def _digest(source: str) -> str:
    return hashlib.sha256(_inlined() + source.encode()).hexdigest()[:32]
