"""Files that are written whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_PARTIAL = ".{}.{}.partial"


def write_whole(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file in one piece: a reader, a kill or a loss of power sees what was there before, or all of this.

    Raises:
        OSError: If that is not possible; the file is then as it was.
    """
    target = Path(path)
    partial = target.with_name(_PARTIAL.format(target.name, os.getpid()))
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            # Else the new name may outlive a loss of power, and the content not.
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    _sync(target.parent)


def remove_partials(folder: Path) -> None:
    """Remove what processes left there that were killed while they wrote."""
    for partial in folder.glob(_PARTIAL.format("*", "*")):
        partial.unlink(missing_ok=True)


def try_to_write(folder: Path) -> None:
    """Make a folder and a file in it, which is removed again: better to know before work than after.

    Raises:
        OSError: If that is not possible.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / _PARTIAL.format("probe", os.getpid())
    probe.touch()
    probe.unlink()


def _sync(folder: Path) -> None:
    """Let a new name in a folder last."""
    # Not every system can open folders.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
