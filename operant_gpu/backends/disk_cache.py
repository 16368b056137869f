"""Compiled programs on disk, under $OPERANT_GPU_CACHE or the user's cache folder.

A file's name ends in a digest of what is in it: what a loss of power, a full disk or another program has done to a file
is noticed, and such a file is removed. What cannot be kept is made anew by each process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import warnings
from pathlib import Path

from operant_gpu.backends import compilations
from operant_gpu.errors import one_line
from operant_gpu.files import as_path, write_whole

_VARIABLE = "OPERANT_GPU_CACHE"
# Folders of whose failure the user knows.
_failing = set[Path]()


def find(kind: str, key: str) -> tuple[Path, bytes] | None:
    """Return the file that was kept for a key, and what is in it; None if there is none.

    Args:
        kind: Of programs: each has a folder.
        key: All that decides what is in the file, as letters and digits.
    """
    # A folder that cannot be looked into, or a disk that does not answer, is as good as none.
    with contextlib.suppress(OSError):
        for path in sorted((_folder() / kind).glob(f"{key}-*")):
            content = path.read_bytes() if path.is_file() else b""
            if path.stem == f"{key}-{_digest(content)}":
                return path, content
            remove(path)
    return None


def keep(kind: str, key: str, suffix: str, content: bytes) -> Path | None:
    """Keep what was compiled for a key, and return its file; where that is not possible, warn once and return None."""
    compilations.note()
    folder = _folder()
    path = folder / kind / f"{key}-{_digest(content)}{suffix}"
    try:
        write_whole(path, content)
    except OSError as error:
        if folder not in _failing:
            _failing.add(folder)
            message = f"compiled programs cannot be kept in {str(folder)!r}: {one_line(error)}. Each process compiles"
            advice = f"make room there, or name another folder in the variable {_VARIABLE}"
            warnings.warn(f"{message} them anew: {advice}", RuntimeWarning, stacklevel=2)
        return None
    return path


def remove(path: Path) -> None:
    """Remove a file that cannot be used, or what stands in its place."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _folder() -> Path:
    if named := os.environ.get(_VARIABLE):
        return as_path(_VARIABLE, named).absolute()
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative one is to be ignored. Where nobody has a home, "~" stays, which is not to become a folder here.
    return Path("/", given if given.is_absolute() else os.path.expanduser("~/.cache"), "operant_gpu")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
