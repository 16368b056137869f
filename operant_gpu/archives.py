"""Files of tensors: proved by a digest, read without running what is in them.

An archive is what `torch.save` writes, a zip archive, with the SHA-256 of all that precedes it as the archive's
comment. So PyTorch alone can read it.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from operant_gpu.errors import CheckpointError, InvalidConfig
from operant_gpu.files import as_path, write_whole

_DIGEST_BYTES = hashlib.sha256().digest_size


def archived(content: dict[str, Any]) -> bytes:
    """Return the file that has this content: tensors, numbers, texts, and lists and dictionaries of them."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    # The last field of an archive is the length of its comment, so far none.
    body = buffer.getvalue()[:-2] + _DIGEST_BYTES.to_bytes(2, "little")
    return body + hashlib.sha256(body).digest()


def write_archive(path: str | os.PathLike[str], content: dict[str, Any], what: str = "the file") -> None:
    """Write a file that has this content, whole or not at all.

    Raises:
        CheckpointError: If that cannot be done.
    """
    file = as_path("path", path)
    try:
        write_whole(file, archived(content))
    except OSError as error:
        raise CheckpointError(f"cannot write {what} {str(file)!r}: {error}; nothing of it is left") from error


def read_archive(path: Path, what: str, formats: Collection[int], keys: Collection[str]) -> dict[str, Any]:
    """Return the content of an archive that is whole, in a known format, and of nothing but tensors and numbers.

    Args:
        path: The file.
        what: Which kind of file is expected, such as "a snapshot".
        formats: Values of "format" that are known.
        keys: What it must have.

    Raises:
        InvalidConfig: If there is no such file.
        CheckpointError: If it is damaged, or something else.
    """
    try:
        if not path.is_file():
            raise InvalidConfig("path", f"there is no file {str(path)!r}")
        file = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {str(path)!r}: {error}") from error
    if not file.startswith(b"PK"):
        raise CheckpointError(f"{str(path)!r} is not {what}: it does not begin as torch.save's files do")
    body, digest = file[:-_DIGEST_BYTES], file[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise CheckpointError(f"{str(path)!r} is damaged, or not {what}: its digest is not that of its bytes")
    try:
        content = torch.load(io.BytesIO(file), map_location="cpu", weights_only=True)
    except Exception as error:
        # The first line says what; the rest is advice to load it all the same.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        message = f"{str(path)!r} holds more than tensors and numbers, and is not loaded: {reason}"
        raise CheckpointError(message) from error
    if not isinstance(content, dict) or content.get("format") not in formats:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        known = " and ".join(map(str, formats))
        raise CheckpointError(f"{str(path)!r} has format {found!r}, this version reads formats {known}")
    absent = sorted(set(keys) - content.keys())
    if absent:
        raise CheckpointError(f"{str(path)!r} is damaged: it lacks {', '.join(absent)}")
    return content
