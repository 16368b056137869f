"""Files that are written whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from operant_gpu.errors import InvalidConfig

# Of a path that is too long.
_MOST_SHOWN = 60


def as_path(param: str, value: object) -> Path:
    """Return what a user gives as a path; "~" and "~name" at its beginning are home folders.

    Raises:
        InvalidConfig: If it is none, or too long, or there is no such home folder, for the setting `param`.
    """
    try:
        text = os.fspath(value)  # type: ignore[call-overload]
    except TypeError:
        text = None
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidConfig(param, f"expected a path, got {value!r}")
    try:
        path = Path(text).expanduser()
        # Else each question about it would fail in a way of its own.
        path.exists()
        return path
    except OSError as error:
        shown = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
        raise InvalidConfig(param, f"cannot use the path {shown!r}: {error.strerror}") from error
    except RuntimeError as error:
        home = text.partition("/")[0]
        message = f"{text!r} begins with {home!r}, which is nobody's home folder here"
        raise InvalidConfig(param, f"{message}: write {f'./{text}'!r} for a folder of that name") from error


def write_whole(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file in one piece: a reader, a kill or a loss of power sees what was there before, or all of this.

    Raises:
        OSError: If that is not possible; the file is then as it was.
    """
    encoded = content.encode() if isinstance(content, str) else content
    make_whole(path, lambda partial: partial.write_bytes(encoded))


def make_whole(path: str | os.PathLike[str], make: Callable[[Path], object]) -> None:
    """Let a function make a file under another name in the same folder, and give it its own name once it is whole.

    Args:
        path: The file.
        make: Called with the other name.

    Raises:
        OSError: If that is not possible; the file is then as it was. As are other errors of `make`.
    """
    # A link stays one, and what is no file of bytes, such as a device, is not replaced by one.
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OSError(f"{str(target)!r} is there and no regular file")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(target)
    try:
        make(partial)
        # Else the new name may outlive a loss of power, and the content not.
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    _sync(target.parent)


def remove_partials(folder: Path, names: Sequence[str] = ("*",)) -> None:
    """Remove what processes left in a folder that were killed while they wrote files of these names there."""
    for name in names:
        for partial in folder.glob(f".{name}.*.partial"):
            partial.unlink(missing_ok=True)


def try_to_write(folder: Path) -> None:
    """Make a folder, and a file in it that never has a name where that can be: better to know before work than after.

    Raises:
        OSError: If that is not possible.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def _partial(target: Path) -> Path:
    """Return a name that nobody else has."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")


def _sync(folder: Path) -> None:
    """Let a new name in a folder last."""
    # Not every system can open folders.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
