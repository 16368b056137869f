"""Every kernel compiles for every environment and GPU generation, on the oldest and the newest Triton."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="compilation needs Triton")

HERE = Path(__file__).parent
OLDEST_TRITON = HERE.parent / ".venv" / "triton-3.6"
TARGETS = ("80", "90", "100")

# 65,536 registers a multiprocessor: at 96 a thread, 21 warps still hide the latency of memory.
MAX_REGISTERS = 96
# ptxas of CUDA 12.8 parks up to four values of Acrobot around the slow path of a sine, with 200 registers to spare.
MAX_SPILLS = 16
# The table that the slow path of sine and cosine indexes, plus those spills.
MAX_STACK = 48


every_triton = pytest.mark.parametrize("path", [None, OLDEST_TRITON], ids=["installed", "oldest"])


def output_of(program: str, path: Path | None, *arguments: str) -> list[str]:
    """Return the lines that a program beside this file prints, with the Triton at `path`."""
    if path is not None and not path.exists():
        pytest.skip("the oldest supported Triton is installed by `make test`")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([*([str(path)] if path else []), str(HERE.parent)])
    command = [sys.executable, str(HERE / program), *arguments]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


@every_triton
def test_the_launcher_takes_every_kernels_arguments(path: Path | None) -> None:
    assert len(output_of("launch.py", path)) >= 2 * 8


@every_triton
def test_every_kernel_compiles_within_its_resources(path: Path | None, record_property: Any) -> None:
    *table, summary = output_of("aot.py", path, *TARGETS)
    usages = json.loads(summary)

    worst = {name: max(usage[name] for usage in usages) for name in ("registers", "stack", "spills")}
    limits = f"of {MAX_REGISTERS}, {MAX_STACK}, {MAX_SPILLS} allowed"
    record_property("summary", f"{len(table)} kernels by Triton {usages[0]['triton']}: at most {worst} {limits}")
    assert {usage["target"] for usage in usages} == {f"sm_{target}" for target in TARGETS}
    assert worst["registers"] <= MAX_REGISTERS
    assert worst["stack"] <= MAX_STACK
    assert worst["spills"] <= MAX_SPILLS
