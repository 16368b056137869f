"""What is told of the machine, with a GPU's driver put in its place."""

from __future__ import annotations

import importlib
import json
import re
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

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.95"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: Any) -> str:  # noqa: N802
        return "NVIDIA H200"


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
    git = ["git", "-C", tmp_path, "-c", "user.name=x", "-c", "user.email=x@x"]
    (tmp_path / "file").write_text("one")
    for arguments in (["init", "-q"], ["add", "file"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    found = machine.git_revision()
    assert found is not None
    assert (len(found["revision"]), found["has_changes"]) == (40, False)
    (tmp_path / "file").write_text("two")
    assert machine.git_revision() == {**found, "has_changes": True}


def findings() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine()}


def test_doctor_tries_what_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings()
    assert all(finding.state in ("ok", "missing") for finding in found.values())
    assert found["backend numpy"].text == "ran CartPole-v1 on cpu"
    assert found["fused engine"].state == "ok"
    # Each that is missing says what to do.
    assert all(finding.advice for finding in found.values() if finding.state == "missing")

    def fail(*_: Any, **settings: Any) -> Any:
        raise BackendError("the numba backend needs numba: pip install -e '.[cpu]' in the clone")

    monkeypatch.setattr(doctor, "make", fail)
    found = findings()
    assert found["backend numba"][1:] == (
        "missing",
        "the numba backend needs numba",
        "pip install -e '.[cpu]' in the clone",
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
    monkeypatch.setattr(doctor, "_step", lambda *_: 1 / 0)
    found = findings()
    assert found["pygame"][1:] == ("missing", "draws classic control", "pip install -e '.[render]' in the clone")
    broken = ("broken", "ImportError: undefined symbol: x", "pip install --force-reinstall onnxruntime")
    assert found["onnxruntime"][1:] == broken
    assert found["backend numpy"].state == "broken"
    assert "ZeroDivisionError" in found["backend numpy"].text
    monkeypatch.setenv("COLUMNS", "250")
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "pip install -e '.[render]' in the clone" in printed


def test_doctor_looks_at_the_driver(driver: Driver) -> None:
    found = findings()
    assert found["driver"][1:3] == ("ok", "NVIDIA 580.95: NVIDIA H200")
    # PyTorch here was built without CUDA.
    if not torch.cuda.is_available():
        assert found["torch"].state == "broken"
        assert "--force-reinstall torch" in found["torch"].advice
    driver.is_missing = True
    assert findings()["driver"][1:3] == ("missing", "no NVIDIA driver: Driver Not Loaded")


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
