"""Every environment in CUDA C++ compiles for several generations of GPUs, with NVRTC and with nvcc, without a GPU."""

from __future__ import annotations

import dataclasses
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from contract_envs import CUDA_MAKERS

from operant_gpu.backends.cuda.source import KERNELS, Known, program

pytest.importorskip("cupy", reason="compilation needs CuPy")
triton = pytest.importorskip("triton", reason="nvdisasm is in Triton's wheel")

thorough = pytest.mark.thorough
every_environment = pytest.mark.parametrize("name", CUDA_MAKERS)
# With masks, with arrays, and of the games the largest, and the one with the most registers.
LARGEST = ("CudaLedge-v0", "CudaSnake-v0", "MinAtar-Seaquest-v1", "MinAtar-Asterix-v1")
NVDISASM = triton.knobs.nvidia.nvdisasm.path
# Of the step kernel: lists of enemies make Seaquest the largest.
MOST_REGISTERS, MOST_STACK = 255, 1024


def environment_of(name: str) -> Any:
    return CUDA_MAKERS[name](1, device="cpu").environment


@every_environment
@pytest.mark.parametrize("arch", [90, pytest.param(75, marks=thorough), pytest.param(120, marks=thorough)])
def test_nvrtc_makes_a_file_that_nvidia_reads(name: str, arch: int, tmp_path: Path) -> None:
    from operant_gpu.backends.cuda.backend import cubin

    environment = environment_of(name)
    compiled = cubin(environment, Known(*environment.make_given({})), f"sm_{arch}")
    assert compiled.startswith(b"\x7fELF")
    # Where the header says that the tables of programs and of sections are.
    for start, (size, count) in ((32, (54, 56)), (40, (58, 60))):
        (table,), (entry,), (entries,) = (
            struct.unpack_from(code, compiled, at) for code, at in (("<Q", start), ("<H", size), ("<H", count))
        )
        assert 0 < table < table + entry * entries <= len(compiled)
    path = tmp_path / "kernels.cubin"
    path.write_bytes(compiled)
    listing = subprocess.run([NVDISASM, path], capture_output=True, text=True, check=True).stdout
    assert all(f".text.{kernel}:" in listing for kernel in KERNELS)


def test_what_was_compiled_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from operant_gpu.backends.cuda.backend import cubin

    monkeypatch.setenv("OPERANT_GPU_CACHE", str(tmp_path / "cache"))
    environment = environment_of("CudaCartPole-v1")
    moved = dataclasses.replace(environment, source=Path(shutil.copy(environment.source, tmp_path)))
    here, there = (cubin(one, Known(*one.make_given({})), "sm_90") for one in (environment, moved))
    assert here == there
    assert len(list((tmp_path / "cache" / "cuda").iterdir())) == 1
    other = moved.make_given({"gravity": 5.0})
    assert cubin(moved, Known(*other), "sm_90") != here


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize(
    "name", [*LARGEST, *(pytest.param(name, marks=thorough) for name in CUDA_MAKERS if name not in LARGEST)]
)
def test_nvcc_makes_kernels_within_their_resources(name: str, tmp_path: Path, record_property: Any) -> None:
    from operant_gpu.backends.cuda.backend import OPTIONS

    environment = environment_of(name)
    source = tmp_path / "program.cu"
    source.write_text(program(environment, Known(*environment.make_given({}))))
    beside = f"-I{environment.source.parent}"
    command = ["nvcc", *OPTIONS, beside, "-arch=sm_90", "-cubin", "-Xptxas=-v", "-o", str(tmp_path / "cubin")]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = done.stderr[done.stderr.index("'operant_steps'") :]
    stack = int(re.search(r"(\d+) bytes stack", report)[1])
    spilled = int(re.search(r"(\d+) bytes spill stores", report)[1])
    registers = int(re.search(r"Used (\d+) registers", report)[1])
    record_property("summary", f"{name} sm_90 steps: {registers} registers, {stack} bytes of stack, {spilled} spilled")
    assert registers <= MOST_REGISTERS
    assert stack <= MOST_STACK
    assert spilled == 0
