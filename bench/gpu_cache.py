"""The folder of kernels that were compiled beforehand, to be carried to a machine with a GPU."""

from __future__ import annotations

import shutil
from pathlib import Path


def variables(cache: Path, compiles: bool) -> dict[str, str]:
    """Return the environment in which Triton and this library use the folder, or fill it."""
    folder = cache.resolve()
    found = {
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "OPERANT_GPU_CACHE": str(folder / "operant_gpu"),
        # Source lines take two thirds of a binary. This is part of Triton's key: a run must say it too.
        "TRITON_DISABLE_LINE_INFO": "1",
    }
    # Binaries alone are carried; what is compiled where it runs may have readers.
    return found | ({"TRITON_STORE_BINARY_ONLY": "1"} if compiles else {})


def strip(cache: Path) -> None:
    """Leave out what only people read, and what was compiled for this machine's processor."""
    for path in cache.glob("triton/*/*.source"):
        path.unlink()
    for kind in ("numba", "cpp"):
        shutil.rmtree(cache / "operant_gpu" / kind, ignore_errors=True)


def contents(cache: Path) -> str:
    """Return what is in the folder, in a line."""
    files = [path for path in cache.rglob("*") if path.is_file()]
    kernels, launchers, sources = (
        len(list(cache.glob(name))) for name in ("triton/*/*.cubin", "triton/*/*.so", "*/cuda/*")
    )
    size = sum(path.stat().st_size for path in files) / 2**20
    return f"{kernels} kernels, {launchers} launchers, {sources} CUDA C++, {size:.1f} MiB"
