"""Measure how long a new process takes to its first steps: with nothing compiled yet, and with all of it on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ours import places

CHILD = """
import json, sys, time
seconds, started = {}, time.perf_counter()
def lap(name):
    global started
    wait()
    seconds[name] = time.perf_counter() - started
    started = time.perf_counter()
import operant_gpu, torch
device, backend, env = sys.argv[1:]
wait = torch.cuda.synchronize if device == "cuda" else lambda: None
lap("import")
vec = operant_gpu.make(env, 1024, device=device, backend=backend)
vec.reset(seed=0)
lap("make and reset")
vec.step(torch.as_tensor(vec.action_space.sample(), device=device))
lap("first step")
vec.rollout(8)
lap("first rollout")
print(json.dumps(seconds))
"""


def first_calls(env: str) -> list[dict[str, Any]]:
    """Return seconds by stage for each backend, with empty caches and with those that the first process left."""
    rows = []
    for device, backend in places():
        with tempfile.TemporaryDirectory() as folder:
            for state in ("nothing compiled", "compiled before"):
                rows.append({"backend": backend, "caches": state, "seconds": run(env, device, backend, Path(folder))})
    return rows


def run(env: str, device: str, backend: str, caches: Path) -> dict[str, float]:
    """Return what a process of its own measures."""
    command = [sys.executable, "-c", CHILD, device, backend, env]
    finished = subprocess.run(command, env=os.environ | caches_in(caches), capture_output=True, text=True, check=True)
    seconds: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return seconds


def caches_in(folder: Path) -> dict[str, str]:
    """Return the variables with which a process keeps what it compiles in a folder."""
    names = ("OPERANT_GPU_CACHE", "NUMBA_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH")
    return {name: str(folder / name) for name in names}
