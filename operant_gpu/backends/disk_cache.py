"""Compiled programs on disk, under $OPERANT_GPU_CACHE or the user's cache folder."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path


@functools.cache
def folder(kind: str) -> Path:
    """Return the folder for programs of a kind, one of this process if the user's cache cannot be written."""
    base = os.environ.get("OPERANT_GPU_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "operant_gpu"
    )
    path = Path(base).absolute() / kind
    try:
        path.mkdir(parents=True, exist_ok=True)
        if os.access(path, os.W_OK):
            return path
    except OSError:
        pass
    temporary = tempfile.mkdtemp(prefix="operant_gpu")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)
