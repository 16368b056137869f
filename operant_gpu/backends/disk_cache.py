"""Compiled programs on disk, under $OPERANT_GPU_CACHE or the user's cache folder."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Callable
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


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Make a file whole or not at all: other processes may want the same one.

    Args:
        path: Where it is to be.
        write: Writes it to another path in the same folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        # A loss of power must not leave a part of it under the final name.
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
