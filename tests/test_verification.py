"""`operant_gpu.verify` and `doctor --verify`: what they find, and what they say of what they cannot look at."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_envs import Drift, Functions, Lamps, MaskedDials

import operant_gpu
from operant_gpu import BackendError, InvalidConfig
from operant_gpu.cli import main
from operant_gpu.verification import Check, Report, examine, learning, stepping
from operant_gpu.verification.comparing import MAX_ULPS, Differs, assert_equal, ulps_apart

HERE = Path(__file__).parent
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without a GPU")


def states(report: Report) -> dict[str, str]:
    return {check.name: check.state for check in report.checks}


@without_gpu
def test_a_cpu_is_verified_and_what_is_not_is_said() -> None:
    env = operant_gpu.make("CartPole-v1", 4, gravity=5.0)
    before = env.reset(seed=0)[0].clone()
    report = operant_gpu.verify(env)
    assert report.passed
    assert not report.complete
    assert [name for name, state in states(report).items() if state == "skipped"] == ["GPU"]
    assert len(report.checks) == 10 if env.backend == "numba" else 7
    assert torch.equal(env.observe(), before), "what was given is left alone"
    head, software, *rows, counts = str(report).splitlines()
    assert report.machine in head
    assert f"torch {torch.__version__}" in software
    assert len(rows) == len(report.checks)
    assert counts.startswith(f"{len(rows) - 1} ok, 0 failed, 1 skipped")


@pytest.mark.parametrize("environment", [Drift, MaskedDials, Lamps, Functions], ids=lambda one: one.id)
def test_every_kind_of_environment_is_verified(environment: Any) -> None:
    report = operant_gpu.verify(environment)
    assert report.passed, str(report)
    assert any("gradient kernel beside autograd, ieee" in check.name for check in report.checks)


@without_gpu
def test_the_command_line_verifies_an_environment_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    file = HERE.parent / "examples" / "custom_environment.py"
    name = re.search(r"^(\w+) = Environment\(", file.read_text(), re.MULTILINE)[1]
    assert main(["doctor", f"{file}:{name}", "--verify", "--json"]) == 2
    checks = json.loads(capsys.readouterr().out)
    assert {check["state"] for check in checks} == {"ok", "skipped"}
    assert checks[-1] == Check("GPU", "skipped", checks[-1]["text"])._asdict()
    assert all(check["seconds"] > 0.0 for check in checks[:-1])


def test_what_is_wrong_is_named_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stepped = stepping._after

    def off_by_one(env: Any, actions: torch.Tensor) -> dict[str, torch.Tensor]:
        found = stepped(env, actions)
        return {**found, "length": found["length"] + 1} if env.backend != "numpy" else found

    monkeypatch.setattr(stepping, "_after", off_by_one)
    monkeypatch.setattr(learning, "_ITERATIONS", 1)
    monkeypatch.setitem(learning._GRADIENT, "ieee", 0.0)
    assert main(["doctor", "Pendulum-v1", "--verify"]) == 1
    said = capsys.readouterr().out
    assert re.search(r"failed  Pendulum-v1: step kernel beside numpy, SAME_STEP .* 6000 steps.*: length in 6000", said)
    assert re.search(r"failed  Pendulum-v1: gradient kernel beside autograd, ieee .* expected less than 0", said)
    assert re.search(r"ok      Pendulum-v1: rollout kernel beside single steps, SAME_STEP", said)


def test_what_raises_is_a_failure_and_others_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise BackendError("no such luck")

    monkeypatch.setattr(operant_gpu.VecEnv, "rollout", refuse)
    found = {check.name: check for check in examine("GridWalk-v0")}
    assert found["GridWalk-v0: network in a rollout beside PyTorch"][1:3] == ("failed", "BackendError: no such luck")
    assert found["GridWalk-v0: training beside itself"].state == "failed"


def test_a_backend_that_is_missing_is_no_failure() -> None:
    report = Report("", {}, tuple(examine("CartPole-v1", "cuda:99")))
    assert report.passed
    assert "cuda:99 is not there" in report.checks[0].text


@pytest.mark.parametrize("env", ["NoSuch-v0", 3])
def test_what_is_no_environment_is_refused(env: Any) -> None:
    with pytest.raises(InvalidConfig, match=r"unknown environment|expected an Environment, a VecEnv or an id"):
        operant_gpu.verify(env)


def test_doctor_without_verify_takes_no_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "CartPole-v1"]) == 2
    assert "add --verify" in capsys.readouterr().err


def test_floats_are_compared_by_the_spacing_at_the_largest() -> None:
    expected = torch.tensor([1.0, 1e-6, float("nan"), float("inf")])
    near = expected + torch.tensor([0.0, 100 * 2.0**-23, 0.0, 0.0])
    assert ulps_apart("x", near, expected) == pytest.approx(100.0, rel=0.01)
    with pytest.raises(Differs, match=r"x, \(4,\): 1 are more than 256 ulps away; at 1 came .*, expected 9.9"):
        ulps_apart("x", expected + torch.tensor([0.0, 2 * MAX_ULPS * 2.0**-23, 0.0, 0.0]), expected)
    with pytest.raises(Differs, match="where it is finite"):
        ulps_apart("x", torch.ones(4), expected)
    assert ulps_apart("nothing", torch.zeros(0), torch.zeros(0)) == 0.0
    assert_equal("nan", expected, expected)
    with pytest.raises(Differs, match=r"n, \(2,\): 1 differ; at 1 came 3, expected 2"):
        assert_equal("n", torch.tensor([1, 3]), torch.tensor([1, 2]))


def on_the_executor(package: Path, checks: int) -> list[dict[str, Any]]:
    pytest.importorskip("triton", reason="compilation needs Triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(package), str(HERE)])
    command = [sys.executable, str(HERE / "verified.py"), str(checks)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_compiled_kernels_are_verified() -> None:
    found = on_the_executor(HERE.parent, 4)
    assert [check["state"] for check in found] == ["ok"] * 4, found
    assert "SAME_STEP" in found[1]["name"]


def test_a_wrong_compiled_kernel_is_found_and_named(tmp_path: Path) -> None:
    shutil.copytree(HERE.parent / "operant_gpu", tmp_path / "operant_gpu")
    file = tmp_path / "operant_gpu" / "kernels" / "blocks.py"
    right = "elapsed += active.to(tl.int32)"
    assert right in file.read_text()
    file.write_text(file.read_text().replace(right, "elapsed += 2 * active.to(tl.int32)"))
    (check,) = on_the_executor(tmp_path, 1)
    assert check["state"] == "failed"
    assert check["name"] == "CartPole-v1: step kernel beside numpy, NEXT_STEP"
    assert "length in 5400, truncated in 600" in check["text"]
