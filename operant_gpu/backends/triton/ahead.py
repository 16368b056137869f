"""Kernels compiled for a GPU that is not here, into a folder that is carried to where it is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget

from operant_gpu.files import write_whole

# Bytes that a program can have, by compute capability: the most of any GPU of these, and of all others.
_SHARED, _SHARED_OF_OTHERS = {75: 65_536, 80: 166_912, 90: 232_448, 100: 232_448, 103: 232_448}, 101_376


class Absent:
    """What Triton asks of a driver, for a GPU on which nothing is launched.

    Args:
        capability: Its compute capability, such as 90.
    """

    def __init__(self, capability: int) -> None:
        self._capability, self.utils = capability, self

    def get_current_device(self) -> int:
        """Return a number by which Triton keeps what it has compiled."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """Return the one stream there is."""
        return 0

    def get_current_target(self) -> GPUTarget:
        """Return what to compile for."""
        return GPUTarget("cuda", self._capability, 32)

    def get_device_properties(self, device: int) -> dict[str, int]:
        """Return how much shared memory a program can have."""
        return {"max_shared_mem": _SHARED.get(self._capability, _SHARED_OF_OTHERS)}

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        """Return what launches nothing."""
        return lambda *_: None

    def load_binary(self, *_: Any) -> tuple[Any, ...]:
        """Return what stands for a kernel that is loaded."""
        return None, None, 0, 0, 1024


def compile_for(capability: int, folder: Path) -> None:
    """From now on compile for a GPU of this compute capability, such as 90, into a folder, and launch nothing.

    Environments with `backend="triton"` and `device="cpu"` then stand for some on that GPU. What they return is what
    their memory was before.
    """
    from operant_gpu.backends.triton import launching

    triton.knobs.cache.dir = str(folder.absolute() / "triton")
    triton.runtime.driver.set_active(Absent(capability))
    launching.takes_host = True


def settle(folder: Path) -> None:
    """Let Triton find the kernels of a folder where it is now: it has noted the absolute path of each."""
    for group in folder.absolute().glob("*/__grp__*.json"):
        try:
            noted = json.loads(group.read_text())["child_paths"]
            paths = {name: str(group.parent / name) for name in noted}
        except (ValueError, TypeError, KeyError):
            # Damaged: this kernel is compiled anew.
            group.unlink()
            continue
        if paths != noted:
            write_whole(group, json.dumps({"child_paths": paths}))


def use_shipped() -> None:
    """Let Triton use the kernels of $OPERANT_GPU_CACHE, where `operant-gpu compile` has put some."""
    folder = Path(os.environ.get("OPERANT_GPU_CACHE") or os.devnull, "triton")
    if folder.is_dir() and "TRITON_CACHE_DIR" not in os.environ:
        settle(folder)
        triton.knobs.cache.dir = str(folder.absolute())
