"""A step of an environment in CUDA C++ under the sanitizers of addresses and of undefined behaviour."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from operant_gpu.archives import write_archive
from operant_gpu.environment import Definition
from operant_gpu.errors import InvalidConfig

FLAGS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_ADVICE = "they come with g++ (Debian, Ubuntu: apt install g++)"
# In a process of its own: the sanitizers' library has to be loaded before Python, and they end the process.
_PROGRAM = """
import importlib, importlib.util, sys
from pathlib import Path
import torch
from operant_gpu import Snapshot
from operant_gpu.backends.cpp import backend, sanitizers
from operant_gpu.vector.explaining import shown
module, file, name, folder = sys.argv[1:]
backend.FLAGS += sanitizers.FLAGS
try:
    loaded = importlib.import_module(module)
except ImportError:
    spec = importlib.util.spec_from_file_location("loaded", file)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules["loaded"] = loaded
    spec.loader.exec_module(loaded)
content = torch.load(Path(folder, "step.pt"), weights_only=True)
env = getattr(loaded, name)(1, device="cpu", backend="cpp", **content["settings"])
env.restore(Snapshot.of(content["snapshot"]))
_, reward, terminated, truncated, info = env.step(content["action"])
for field, column in env.state._asdict().items():
    print(f"  {field} = {shown(column[0])}")
print(f"  reward = {shown(reward)}, terminated = {shown(terminated)}, truncated = {shown(truncated)}")
print(f"  observation = {shown(info['final_obs'])}")
"""


def step_sanitized(
    environment: Definition, settings: Mapping[str, Any], snapshot: Mapping[str, Any], action: Tensor
) -> str:
    """Take one step of one environment, and return what it did, or what the sanitizers said, in words.

    Args:
        environment: A CudaEnvironment.
        settings: Of a `VecEnv` of one environment.
        snapshot: Content of its snapshot.
        action: What it is given, (1, ...).
    """
    library = runtime()
    if library is None:
        return f"the sanitizers of addresses and of undefined behaviour are not here: {_ADVICE}"
    try:
        _, (module, name) = environment.__reduce__()
    except InvalidConfig as error:
        return f"not stepped under the sanitizers, which takes a process of its own: {error}"
    with tempfile.TemporaryDirectory() as folder:
        content = {"settings": dict(settings), "snapshot": dict(snapshot), "action": action}
        write_archive(Path(folder, "step.pt"), content)
        file = getattr(sys.modules[module], "__file__", None) or ""
        # A program itself is loaded from its file, under another name.
        module = "__not_a_module__" if module in ("__main__", "__mp_main__") else module
        done = run([_PROGRAM, module, file, name, folder], library, {"OPERANT_GPU_CACHE": folder})
    if done.returncode == 0:
        return f"compiled with {' '.join(FLAGS)}, the step is clean:\n{done.stdout.rstrip()}"
    return f"compiled with {' '.join(FLAGS)}, the step fails:\n{done.stderr.strip()}"


def runtime() -> str | None:
    """Return the sanitizers' library, which has to be loaded before Python; None without g++ or without them."""
    compiler = shutil.which("g++")
    if compiler is None:
        return None
    command = [compiler, "-print-file-name=libasan.so"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return found if os.path.isabs(found) else None


def run(program: list[str], library: str, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program of Python with the sanitizers' library and further variables."""
    usual = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = os.pathsep.join(filter(None, sys.path))
    own = {"PYTHONPATH": paths, "LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0", "CXX": "g++"}
    command = [sys.executable, "-c", *program]
    return subprocess.run(command, env={**usual, **own, **variables}, capture_output=True, text=True, check=False)
