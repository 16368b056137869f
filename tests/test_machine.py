"""What is told of the machine, with a GPU's driver put in its place."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from here import ROOT

import operant_gpu
from operant_gpu import machine
from operant_gpu.cli import doctor, main
from operant_gpu.errors import BackendError, gpu_extra


class NVMLError(Exception):
    """As NVML's."""


class Driver(SimpleNamespace):
    """A stand-in for pynvml, of one GPU."""

    NVMLError, NVML_TEMPERATURE_GPU = NVMLError, 0

    def nvmlInit(self) -> None:  # noqa: N802
        if getattr(self, "is_missing", False):
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:  # noqa: N802
        self.readings = getattr(self, "readings", 0) + 1
        return SimpleNamespace(gpu=71)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(used=3 * 2**30)

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802
        return 62

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        if getattr(self, "is_silent", False):
            raise NVMLError("Not Supported")
        return 310_500


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", made)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="0b-1c"))
    return made


CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


def test_use_of_a_gpu_is_read_from_its_driver(driver: Driver) -> None:
    usage = machine.Usage(CUDA)
    found = usage.read()
    assert found["gpu_percent"] == 71
    assert found["gpu_memory_gib"] == 3
    assert (found["gpu_temperature"], found["gpu_watts"]) == (62, 310.5)
    assert found["ram_gib"] > 0.05
    assert found["cpu_percent"] >= 0
    # At most once a second.
    assert usage.read() is found
    assert driver.readings == 1


def test_a_gpu_that_does_not_tell_everything_tells_the_rest(driver: Driver) -> None:
    driver.is_silent = True
    found = machine.Usage(CUDA).read()
    assert set(found) == {"cpu_percent", "ram_gib", "gpu_percent", "gpu_memory_gib", "gpu_temperature"}
    assert (found["gpu_percent"], found["gpu_temperature"]) == (71, 62)


@pytest.mark.parametrize("why", ["no package", "no driver"])
def test_without_a_driver_the_process_is_told_of_alone(
    why: str, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "no package":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    driver.is_missing = True
    assert set(machine.Usage(CUDA).read()) == set(machine.Usage(CPU).read()) == {"cpu_percent", "ram_gib"}


def test_the_machine_and_the_software() -> None:
    found = machine.describe(CPU)
    assert found["machine"] == machine.cpu_name()
    assert found["versions"]["operant_gpu"] == operant_gpu.__version__
    assert found["versions"]["torch"] == torch.__version__
    assert machine.version_of("no-such-package") is None


def test_the_revision_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert machine.git_revision() is None
    # That of the library does not depend on the folder.
    assert machine.library_revision() == (machine.git_revision(ROOT) if (ROOT / ".git").exists() else None)
    git = ["git", "-C", tmp_path, "-c", "user.name=x", "-c", "user.email=x@x"]
    (tmp_path / "file").write_text("one")
    for arguments in (["init", "-q"], ["add", "file"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    found = machine.git_revision()
    assert found is not None
    assert (len(found["revision"]), found["has_changes"]) == (40, False)
    (tmp_path / "file").write_text("two")
    assert machine.git_revision() == {**found, "has_changes": True}
    # Installed below a repository that is not the library's.
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "site-packages" / "operant_gpu" / "machine.py"))
    assert machine.library_revision() is None


def put_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a stand-in for the driver's program on the path."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def findings() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine()}


def test_doctor_tries_what_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings()
    assert all(finding.state in ("ok", "missing", "optional") for finding in found.values())
    assert found["backend numpy"].text == "ran CartPole-v1 on cpu"
    assert found["fused engine"].state == "ok"
    # Each that is not there says what to do.
    assert all(finding.advice for finding in found.values() if finding.state in ("missing", "optional"))

    def fail(*_: Any, **settings: Any) -> Any:
        raise BackendError('the numba backend needs numba: pip install -e ".[cpu]" in the clone')

    monkeypatch.setattr(doctor, "make", fail)
    found = findings()
    assert found["backend numba"][1:] == (
        "missing",
        "the numba backend needs numba",
        'pip install -e ".[cpu]" in the clone',
    )


def test_doctor_says_what_is_missing_and_what_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.import_module

    def import_module(name: str, package: str | None = None) -> Any:
        if name == "onnxruntime":
            raise ImportError("undefined symbol: x")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", import_module)
    monkeypatch.setitem(sys.modules, "pygame", None)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(doctor, "_step", lambda *_: 1 / 0)
    found = findings()
    assert found["pygame"][1:] == ("optional", "draws classic control", 'pip install -e ".[render]" in the clone')
    assert found["numba"].state == "missing"
    broken = ("broken", "ImportError: undefined symbol: x", "pip install --force-reinstall onnxruntime")
    assert found["onnxruntime"][1:] == broken
    assert found["backend numpy"].state == "broken"
    assert "ZeroDivisionError" in found["backend numpy"].text
    title = re.search("'(.*)' in docs/troubleshooting.md", found["backend numpy"].advice)[1]
    assert f"\n## {title}\n" in (ROOT / "docs" / "troubleshooting.md").read_text()
    monkeypatch.setenv("COLUMNS", "250")
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert 'pip install -e ".[render]" in the clone' in printed
    assert printed.splitlines()[-1].startswith("Not ready: ")


@pytest.mark.skipif(torch.cuda.is_available() or shutil.which("nvidia-smi") is not None, reason="there is a GPU")
def test_without_a_gpu_what_is_for_gpus_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("triton", "cupy", "pynvml", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    found = findings()
    not_needed = "driver", "triton", "cupy-cuda13x", "nvidia-ml-py", "backend triton", "backend cuda", "wandb"
    assert {found[name].state for name in not_needed} == {"optional"}
    assert found["triton"].advice == "not needed without an NVIDIA GPU"
    assert found["driver"].text == "no NVIDIA driver"


def test_with_a_driver_what_is_for_gpus_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nvidia_smi(tmp_path, monkeypatch, 'echo "NVIDIA GeForce RTX 4070, 580.95"')
    monkeypatch.setitem(sys.modules, "cupy", None)
    found = findings()
    assert found["driver"][1:3] == ("ok", "NVIDIA GeForce RTX 4070, 580.95")
    assert found["cupy-cuda13x"].state == "missing"
    assert 'pip install -e ".[gpu]"' in found["cupy-cuda13x"].advice
    # PyTorch here was built without CUDA.
    if not torch.cuda.is_available():
        assert found["torch"].state == "broken"
        assert "--force-reinstall torch" in found["torch"].advice


def test_doctor_says_what_a_driver_that_fails_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nvidia_smi(tmp_path, monkeypatch, 'echo "NVIDIA-SMI has failed"; exit 9')
    assert doctor._driver()[1:3] == ("missing", "nvidia-smi: NVIDIA-SMI has failed")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({"numba": "ok", "triton": "optional"}, r"Ready on the .PU. Nothing that it needs is missing\."),
        ({"numba": "missing", "pygame": "missing"}, r"Ready on the .PU. Without these, .*: numba, pygame\."),
        ({"numba": "missing", "torch": "broken"}, r"Not ready: torch\. Do what the last column says, .*"),
    ],
)
def test_doctor_ends_with_a_verdict(states: dict[str, str], expected: str) -> None:
    findings = [doctor.Finding(name, state, "") for name, state in states.items()]
    assert re.fullmatch(expected, doctor.verdict(findings))


def test_doctor_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"name", "state", "text", "advice"} == set(found[0])
    assert {"torch", "backend numpy", "fused engine"} <= {finding["name"] for finding in found}


@pytest.mark.parametrize(
    ("cuda", "extra"),
    [("12.8", ("gpu-cuda12", "cupy-cuda12x")), ("13.0", ("gpu", "cupy-cuda13x")), (None, ("gpu", "cupy-cuda13x"))],
)
def test_what_is_to_be_installed_is_for_the_cuda_of_torch(cuda: str | None, extra: tuple[str, str]) -> None:
    assert gpu_extra(cuda) == extra
    name, package = extra
    assert re.search(rf'^{name} = \[\n +"{package}>=', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
