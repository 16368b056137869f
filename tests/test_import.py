"""The library imports and steps where Triton and CuPy are missing, and then gives the same results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from contract_envs import Dials, Drift
from digests import SHIPPED, digests
from here import PYTHONPATH, ROOT, TESTS

import operant_gpu

# None in sys.modules makes an import fail as that of a missing package does.
EXTRAS = ("triton", "cupy", "numba", "llvmlite", "pygame", "pynvml")
WITHOUT_EXTRAS = """
import sys
for name in ("triton", "triton.language", "cupy", "numba", "pygame", "pynvml"):
    sys.modules[name] = None
"""


def run_python(code: str) -> Any:
    """Run code in a process of its own; return what it prints last, read as JSON."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = PYTHONPATH
    finished = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def without_triton() -> dict[str, Any]:
    """What a process without Triton and CuPy found."""
    return run_python(
        WITHOUT_EXTRAS
        + """
import json
import operant_gpu
loaded = [name for name, module in sys.modules.items() if module is not None]
from contract_envs import Dials, Drift
from digests import digests
found = {"has_triton": operant_gpu.lang.HAS_TRITON, "loaded": loaded, "digests": digests()}
for name, make in (("Drift", Drift), ("Dials", Dials)):
    env = make(5, device="auto")
    env.reset(seed=3)
    env.action_space.seed(1)
    for _ in range(20):
        obs, *_ = env.step(env.action_space.sample())
    found[name] = obs.tolist()
    found["backend"] = [env.backend, str(env.device)]
for backend in ("triton", "numba"):
    try:
        operant_gpu.make("CartPole-v1", backend=backend, device="cpu")
    except operant_gpu.BackendError as error:
        found[f"{backend} error"] = str(error)
print(json.dumps(found))
"""
    )


def test_the_library_imports_nothing_of_what_is_missing(without_triton: dict[str, Any]) -> None:
    assert without_triton["has_triton"] is False
    foreign = [name for name in without_triton["loaded"] if name.split(".")[0] in EXTRAS]
    assert foreign == []
    assert "operant_gpu.backends.triton.backend" not in without_triton["loaded"]
    assert not [name for name in without_triton["loaded"] if name.startswith("operant_gpu.kernels")]


@pytest.mark.parametrize(("backend", "extra"), [("triton", "gpu"), ("numba", "cpu")])
def test_the_backend_is_numpy_and_asking_for_another_says_what_to_install(
    backend: str, extra: str, without_triton: dict[str, Any]
) -> None:
    assert without_triton["backend"] == ["numpy", "cpu"]
    assert f'pip install -e ".[{extra}]" in the clone' in without_triton[f"{backend} error"]
    assert "backend='numpy'" in without_triton[f"{backend} error"]


def test_every_environment_gives_the_same_fifty_steps_without_triton(without_triton: dict[str, Any]) -> None:
    assert without_triton["digests"] == digests()
    assert len(without_triton["digests"]) == 3 * len(SHIPPED)


@pytest.mark.parametrize("environment", [Drift, Dials], ids=["Drift", "Dials"])
def test_a_users_environment_gives_the_same_steps_without_triton(
    environment: operant_gpu.Environment, without_triton: dict[str, Any]
) -> None:
    env = environment(5, device="cpu", backend="numpy")
    env.reset(seed=3)
    env.action_space.seed(1)
    for _ in range(20):
        obs, *_ = env.step(env.action_space.sample())
    assert obs.tolist() == without_triton[environment.id.removesuffix("-v0")]


def test_importing_loads_no_optional_package_and_touches_no_gpu() -> None:
    found = run_python(
        """
import json, sys
import operant_gpu, torch
names = [name for name in ("cupy", "numba", "pygame", "operant_gpu.kernels.triton.step") if name in sys.modules]
print(json.dumps([names, torch.cuda.is_initialized()]))
"""
    )
    assert found == [[], False]


def test_stand_ins_are_not_for_calling() -> None:
    found = run_python(
        WITHOUT_EXTRAS
        + """
import json
from operant_gpu.envs import CartPole
from operant_gpu.lang import tl
messages = []
for call in (lambda: CartPole.step(1, 2, 3, 4), lambda: tl.float32(1.0)):
    try:
        call()
    except TypeError as error:
        messages.append(str(error))
print(json.dumps(messages))
"""
    )
    assert found == [
        "step is a jit function: a backend runs it, Python does not",
        "tl.float32 is a dtype, not a function: use value.to(tl.float32)",
    ]


def test_the_tests_for_a_gpu_run_where_packages_are_missing_and_other_files_cannot_be_imported(tmp_path: Path) -> None:
    broken, settings = tmp_path / "test_broken.py", str(ROOT / "pyproject.toml")
    broken.write_text("import no_such_package")
    missing = ("numba", "cupy", "pynvml", "hypothesis", "minatar", "onnxruntime", "array_api_compat", "pygame")
    code = f"""
import contextlib, io, json, os, sys
for name in {missing}:
    sys.modules[name] = None
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
import pytest, torch
torch.cuda.is_available = lambda: False
said = io.StringIO()
with contextlib.redirect_stdout(said):
    pytest.main([{str(broken)!r}, {str(TESTS / "gpu")!r}, "-v", "-p", "no:cacheprovider", "-c", {settings!r}])
print(json.dumps(said.getvalue().splitlines()))
"""
    said = run_python(code)
    assert " skipped, 1 error " in said[-1], said[-9:]
    files = {line.partition("::")[0] for line in said if "SKIPPED" in line and "::" in line}
    assert {Path(file).name for file in files} == {path.name for path in (TESTS / "gpu").glob("test_*.py")}
