"""The plan of the package: what users import stays where it is, and rooms import only those below them."""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from api_pages import shown
from here import ROOT

from operant_gpu import BackendError, Definition

pytestmark = pytest.mark.quick

PUBLIC = {
    "operant_gpu": """ActionError Array AutoresetMode BackendError CheckpointError CudaEnvironment Definition
        Environment ExportError InvalidConfig OperantError ProcessError ResetNeeded Snapshot Table TableError
        TrainingError UnsupportedConstruct VecEnv __version__ envs list_envs make register verify""",
    "operant_gpu.adapters": "ADAPTERS Adapter",
    "operant_gpu.adapters.rsl_rl": "RslRlVecEnv",
    "operant_gpu.adapters.sb3": "SB3VecEnv",
    "operant_gpu.adapters.single": "SingleEnv",
    "operant_gpu.adapters.skrl": "SkrlEnv",
    "operant_gpu.adapters.torchrl": "TorchRLEnv",
    "operant_gpu.arrays": "beside cell cells count get length lookup nth put",
    "operant_gpu.envs": """Acrobot Asterix Breakout CartPole Freeway FrozenLake FrozenLake8x8 Game2048 GridWalk
        MountainCar MountainCarContinuous Pendulum Seaquest Snake SpaceInvaders frozen_lake_map""",
    "operant_gpu.errors": """ActionError BackendError CheckpointError ExportError InvalidConfig OperantError
        ProcessError ResetNeeded TableError TrainingError UnsupportedConstruct""",
    "operant_gpu.lang": "Array Table jit tl",
    "operant_gpu.metrics": "Last Max Mean Min Sum",
    "operant_gpu.models": """Controller Evaluation IntrinsicReward MLPPolicy PPO PPOConfig Policy Processes RND
        distributed evaluate export record""",
    "operant_gpu.models.exporting": "Actor Exported",
    "operant_gpu.models.networks": "ActorCritic RecurrentActorCritic",
    "operant_gpu.models.recording": "Recording",
    "operant_gpu.monitor": "Comparison Curve Estimate JSONLines Measure Run RunReader TensorBoard View "
    "WeightsAndBiases Writer compare draw_curve",
    "operant_gpu.random": "integers normal uniform",
    "operant_gpu.randomization": "Choice LogUniform Normal Uniform",
    "operant_gpu.vector": "Explanation Faults Snapshot Statement StepFault VecEnv",
    "operant_gpu.verification": "Check Report verify",
}
# Each alone breaks a contract of pyproject.toml.
UPWARD = {
    "memory/columns.py": "from operant_gpu.backends.base import Batch",
    "kernels/numba/memory.py": "from operant_gpu.kernels.triton.step import step_kernel",
    "backends/lowering/tracing.py": "from operant_gpu.backends.numpy.backend import NumpyBackend",
    "envs/pendulum.py": "from operant_gpu.backends import select",
    "models/policies/policy.py": "from operant_gpu.models.ppo.losses import normalized",
    "monitor/view.py": "def load():\n    from operant_gpu.cli.common import load",
}


@pytest.mark.parametrize("path", PUBLIC)
def test_public_paths_import(path: str) -> None:
    try:
        module = importlib.import_module(path)
    except BackendError as error:
        # tests/adapters imports them where they are installed.
        pytest.skip(str(error))
    assert [name for name in PUBLIC[path].split() if not hasattr(module, name)] == []


def value_of(whole: str) -> Any:
    """Return what a name stands for; None for an adapter whose trainer is not installed."""
    path, _, name = whole.rpartition(".")
    try:
        return getattr(importlib.import_module(path), name)
    except BackendError:
        return None


def home(whole: str) -> str:
    """Return a name as of where it is defined: some can be imported from several places."""
    value = value_of(whole)
    is_defined = isinstance(value, type) or inspect.isfunction(value)
    return f"{value.__module__}.{value.__name__}" if is_defined else whole


def test_each_public_name_is_on_one_page() -> None:
    public = [f"{path}.{name}" for path, names in PUBLIC.items() for name in names.split()]
    # Environments have pages of their own; `tl` is a module.
    elsewhere = [
        name for name in public if isinstance(value_of(name), Definition | ModuleType) and not name.endswith(".tl")
    ]
    wanted = {home(name) for name in public if name not in (*elsewhere, "operant_gpu.__version__")}
    assert len(wanted) > 70
    assert sorted(map(home, shown())) == sorted(wanted)


def test_documents_and_examples_import_what_is_public() -> None:
    named = set()
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.py")):
        text = page.read_text()
        for path, names in re.findall(r"^ *from (operant_gpu[\w.]*) import ([\w, ]+)", text, re.MULTILINE):
            named |= {(path, name.strip()) for name in names.split(",")}
        for whole in re.findall(r"^::: (operant_gpu[\w.]+)$", text, re.MULTILINE):
            if whole not in PUBLIC:
                path, _, name = whole.rpartition(".")
                named.add((path, name))
    assert len(named) > 30
    assert {(path, name) for path, name in named if name not in PUBLIC.get(path, "").split()} == set()


@pytest.mark.parametrize("file", [None, *UPWARD])
def test_an_import_from_above_is_found(file: str | None, tmp_path: Path) -> None:
    pytest.importorskip("importlinter")
    shutil.copytree(ROOT / "operant_gpu", tmp_path / "operant_gpu", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    if file is not None:
        with (tmp_path / "operant_gpu" / file).open("a") as source:
            source.write(f"\n\n{UPWARD[file]}\n")
    program = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as run; run()"
    command = [sys.executable, "-c", program, "--no-cache"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (found.returncode, "BROKEN" in found.stdout) == ((1, True) if file else (0, False)), found.stdout
    assert file is None or f"operant_gpu.{file.removesuffix('.py').replace('/', '.')} -> " in found.stdout
