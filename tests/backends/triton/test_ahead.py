"""Kernels that are compiled where there is no GPU, and found where there is one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from executed import executed

from operant_gpu.cli import main

pytest.importorskip("triton", reason="there is nothing to compile with")

from operant_gpu.backends.triton.ahead import settle


@pytest.mark.thorough
def test_a_folder_that_was_carried_elsewhere_spares_all_compilations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["compile", "CartPole-v1", "--arch", "sm_90", "--out", str(tmp_path / "made")]
    assert executed("called.py", *command) == 0
    shutil.move(tmp_path / "made", tmp_path / "carried")
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.setenv("OPERANT_GPU_CACHE", str(tmp_path / "carried"))
    assert executed("shipped.py", "90") == 0
    # Of another generation there is nothing.
    assert executed("shipped.py", "80") == 10


@pytest.mark.parametrize("arch", ["90", "sm90", "gfx942", "sm_9"])
def test_what_is_no_generation_is_refused(arch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "CartPole-v1", "--arch", arch, "--out", str(tmp_path)]) == 2
    assert "expected a compute capability such as sm_90" in capsys.readouterr().err


def test_what_is_no_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["compile", "CartPole-v1", "--arch", "sm_90", "--out", str(tmp_path / "file")]) == 2
    assert "expected a folder that can be written" in capsys.readouterr().err


def test_a_folder_that_was_moved_is_made_usable(tmp_path: Path) -> None:
    kernel = tmp_path / "KEY"
    kernel.mkdir(parents=True)
    group = kernel / "__grp__step_kernel.json"
    group.write_text(json.dumps({"child_paths": {"step_kernel.cubin": "/elsewhere/triton/KEY/step_kernel.cubin"}}))
    for number, text in enumerate(("{", "[]", "", '{"child_paths": 3}')):
        (kernel / f"__grp__damaged{number}.json").write_text(text)
    settle(tmp_path)
    # What is damaged is compiled anew.
    assert list(kernel.glob("__grp__*")) == [group]
    assert json.loads(group.read_text()) == {"child_paths": {"step_kernel.cubin": str(kernel / "step_kernel.cubin")}}
