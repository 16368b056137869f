"""Every kernel goes through Triton's launcher and compiler, for every environment, and needs what it may.

For one GPU generation with the installed Triton, and each kernel once for AMD's devices; `thorough` has the others, the
oldest Triton that is supported, and all for AMD's.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from here import PYTHONPATH, ROOT, SUPPORT

from operant_gpu.errors import BackendError

pytest.importorskip("triton", reason="compilation needs Triton")

from operant_gpu.backends.triton.launching import check_compiler
from operant_gpu.backends.triton.update import SHAPES

OLDEST_TRITON = ROOT / ".venv" / "lowest"
TARGETS = ("80", "90", "100", "120")
# With warps of 64 threads and of 32.
AMD = {"gfx942", "gfx1100"}

# The oldest compiles single steps for every generation, and for one what takes long. On a network's products it fails
# for sm_100, and rollouts refuse it there.
NOT_OF_OLDEST = dict.fromkeys(("rollouts", "networks", "arrays", "updates"), set(TARGETS) - {"90"})

# 65,536 registers a multiprocessor: at 96 a thread, 21 warps still hide the latency of memory; of a rollout, which
# seldom waits for it, 16 are enough.
MAX_REGISTERS = {"steps": 96, "rollouts": 128}
# With parameters that are drawn, sm_80 takes most.
MAX_REGISTERS_OF_VARIED = 144
# With eight rows of metrics too, of two registers each.
MAX_REGISTERS_OF_REPORTING = 168
# ptxas of CUDA 12.8 parks values of Acrobot around the slow path of a sine, with 150 registers to spare.
MAX_SPILLS = 80
# The table that the slow path of sine and cosine indexes, plus those spills.
MAX_STACK = 72
# Of a network: what fits beside the products of three layers of 128 units, and of two of 64. Only the latter are fast.
MAX_SPILLS_OF_LARGE, MAX_STACK_OF_LARGE = 2_816, 1_152
MAX_SPILLS_OF_SMALL, MAX_STACK_OF_SMALL = 160, 96
# Of 16 cells a thread, by environment: what Triton 3.6 spills in rollouts.
MAX_OF_ARRAYS = {
    "Game2048-v0": {"spills": 384, "stack": 192},
    "Snake-v0": {"spills": 32, "stack": 64},
    "Lamps-v0": {"spills": 0, "stack": 64},
    "Tiles-v0": {"spills": 0, "stack": 64},
    "Maze-v0": {"spills": 0, "stack": 64},
}
MAX_SHARED_OF_ARRAYS = 16_384
# Of the learner's gradient, which holds those of all weights: two layers of 64 units, and three.
MAX_SPILLS_OF_UPDATES, MAX_STACK_OF_UPDATES = 4_096, 1_408
MAX_SPILLS_OF_DEEP_UPDATES, MAX_STACK_OF_DEEP_UPDATES = 13_312, 3_328
# What every generation gives one program, less what the driver takes.
MAX_SHARED = 98_304
MAX_SHARED_OF_GRADIENTS = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448, "sm_120": 101_376}
# The instructions of each generation's tensor cores.
MATRIX = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "sm_120": "HMMA"}
# Of AMD's: what a program has on the chip, and a thread in memory, to which vector registers go that are spilled.
MAX_SHARED_OF_AMD = 65_536
MAX_OF_AMD = {
    "sample": {"registers": 256, "stack": 320, "spills": 80},
    "steps": {"registers": 96, "stack": 64, "spills": 0},
    "rollouts": {"registers": 128, "stack": 64, "spills": 0},
    "arrays": {"registers": 224, "stack": 64, "spills": 0},
    "networks": {"registers": 512, "stack": 2_816, "spills": 1_792},
    "updates": {"registers": 512, "stack": 4_608, "spills": 1_152},
}
# gfx1100 has no instruction for products of float32 numbers.
MATRIX_OF_AMD = {"tf32": "MFMA xf32", "ieee": "MFMA f32"}


every_compiler = pytest.mark.parametrize(
    ("path", "targets"),
    [
        pytest.param(None, {"90"}, id="sm_90"),
        pytest.param(None, set(TARGETS) - {"90"}, id="other generations", marks=pytest.mark.thorough),
        pytest.param(OLDEST_TRITON, set(TARGETS), id="oldest Triton", marks=pytest.mark.thorough),
    ],
)


def printed(path: Path | None, *arguments: str) -> str:
    """Return the last line that `aot.py` prints, with the Triton at `path`."""
    if path is not None and not path.exists():
        pytest.skip("the oldest supported Triton is installed by `make .venv/lowest`")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([*([str(path)] if path else []), PYTHONPATH])
    command = [sys.executable, str(SUPPORT / "aot.py"), *arguments]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()[-1]


def usages_of(kind: str, path: Path | None, targets: set[str], record_property: Any) -> list[dict[str, Any]]:
    """Return what each kernel needs, and have the most of each kind printed."""
    targets = targets - (NOT_OF_OLDEST.get(kind, set()) if path else set())
    usages = json.loads(printed(path, kind, *sorted(targets)))
    assert {usage["target"].removeprefix("sm_") for usage in usages} == targets
    lines = [f"{len(usages)} kernels by Triton {usages[0]['triton']}, the most of any environment:"]
    for group in sorted({(usage["kernel"], usage["variant"], usage["target"]) for usage in usages}):
        those = [usage for usage in usages if (usage["kernel"], usage["variant"], usage["target"]) == group]
        most = {name: max(usage[name] for usage in those) for name in ("registers", "shared", "stack", "spills")}
        matrix = max((usage["matrix_instructions"] for usage in those), key=lambda counts: sum(counts.values()))
        lines.append(f"  {' '.join(group):<58} {most}  {matrix or ''}")
    record_property("summary", "\n".join(lines))
    return usages


@every_compiler
@pytest.mark.parametrize("kind", [pytest.param("steps", marks=pytest.mark.quick), "rollouts"])
def test_every_kernel_compiles_within_its_resources(
    kind: str, path: Path | None, targets: set[str], record_property: Any
) -> None:
    for usage in usages_of(kind, path, targets, record_property):
        kinds = {"varied": MAX_REGISTERS_OF_VARIED, "reporting": MAX_REGISTERS_OF_REPORTING}
        assert usage["registers"] <= kinds.get(usage["variant"].split(", ")[-1], MAX_REGISTERS[kind]), usage
        assert usage["spills"] <= MAX_SPILLS, usage
        assert usage["stack"] <= MAX_STACK, usage
        assert usage["shared"] == 0, usage


@every_compiler
def test_kernels_with_arrays_compile_within_their_resources(
    path: Path | None, targets: set[str], record_property: Any
) -> None:
    # The installed Triton takes a quarter of a minute for a kernel of 2048: for the other generations Snake is enough.
    kind = "arrays" if path or targets == {"90"} else "snake"
    for usage in usages_of(kind, path, targets, record_property):
        for name, most in MAX_OF_ARRAYS[usage["environment"]].items():
            assert usage[name] <= most, usage
        assert usage["shared"] <= MAX_SHARED_OF_ARRAYS, usage


@every_compiler
def test_networks_compile_within_what_a_program_may_have(
    path: Path | None, targets: set[str], record_property: Any
) -> None:
    for usage in usages_of("networks", path, targets, record_property):
        is_small = usage["variant"].startswith("64x64") and usage["variant"].endswith("tf32")
        assert usage["shared"] <= MAX_SHARED, usage
        assert usage["spills"] <= (MAX_SPILLS_OF_SMALL if is_small else MAX_SPILLS_OF_LARGE), usage
        assert usage["stack"] <= (MAX_STACK_OF_SMALL if is_small else MAX_STACK_OF_LARGE), usage
        exact = usage["variant"].endswith("ieee")
        assert set(usage["matrix_instructions"]) == (set() if exact else {MATRIX[usage["target"]]}), usage


@every_compiler
def test_the_learners_kernels_compile_within_what_a_program_may_have(
    path: Path | None, targets: set[str], record_property: Any
) -> None:
    shapes = {
        f"{'x'.join(['64'] * (3 if is_deep else 2))} tanh {precision} {shape.block}"
        for (precision, is_deep), shapes in SHAPES.items()
        for shape in shapes
    }
    seen = set()
    for usage in usages_of("updates", path, targets, record_property):
        is_gradient = usage["kernel"] == "gradient_kernel"
        assert usage["shared"] <= (MAX_SHARED_OF_GRADIENTS[usage["target"]] if is_gradient else 1_024), usage
        is_deep = usage["variant"].startswith("64x64x64")
        spills, stack = (
            (MAX_SPILLS_OF_DEEP_UPDATES, MAX_STACK_OF_DEEP_UPDATES)
            if is_deep
            else ((MAX_SPILLS_OF_UPDATES, MAX_STACK_OF_UPDATES) if is_gradient else (0, 0))
        )
        assert usage["spills"] <= spills, usage
        assert usage["stack"] <= stack, usage
        assert not is_gradient or MATRIX[usage["target"]] in usage["matrix_instructions"], usage
        seen.add(usage["variant"])
    assert seen > shapes


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        pytest.param("sample", None, id="sample"),
        pytest.param("sample", OLDEST_TRITON, id="sample, oldest Triton", marks=pytest.mark.thorough),
        *(pytest.param(kind, None, id=kind, marks=pytest.mark.thorough) for kind in MAX_OF_AMD if kind != "sample"),
    ],
)
def test_every_kernel_compiles_for_amd(kind: str, path: Path | None, record_property: Any) -> None:
    usages = usages_of(kind, path, AMD, record_property)
    for usage in usages:
        assert usage["shared"] <= MAX_SHARED_OF_AMD, usage
        for name, most in MAX_OF_AMD[kind].items():
            assert usage[name] <= most, usage
        products = {MATRIX_OF_AMD[word] for word in usage["variant"].split() if word in MATRIX_OF_AMD}
        if usage["target"] == "gfx1100" or not products:
            assert not usage["matrix_instructions"], usage
        else:
            assert set(usage["matrix_instructions"]) >= products, usage
    if kind == "sample":
        text = "".join(file.read_text() for file in (ROOT / "operant_gpu" / "kernels" / "triton").glob("*.py"))
        kernels = re.findall(r"^def (\w+_kernel)\(", text, re.MULTILINE)
        assert {(usage["kernel"], usage["target"]) for usage in usages} == set(itertools.product(kernels, AMD))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("capability", "version"), [((10, 0), "3.9.0"), ((9, 0), "3.6.0"), ((12, 0), "3.6.0"), ((7, 5), "3.6.0")]
)
def test_compilers_that_are_known_to_work_are_taken(capability: tuple[int, int], version: str) -> None:
    check_compiler(capability, version)


@pytest.mark.quick
@pytest.mark.parametrize("version", ["3.6.0", "3.7.1", "3.8.0+git1"])
def test_compilers_that_fail_on_networks_are_refused(version: str) -> None:
    with pytest.raises(BackendError, match=f"need Triton 3.9 or newer, found {re.escape(version)}: pip install"):
        check_compiler((10, 3), version)


@pytest.mark.quick
def test_cards_without_the_instructions_of_networks_are_refused() -> None:
    with pytest.raises(BackendError, match=r"need a device of compute capability 7.5 or newer, found 7.0: let PyTorch"):
        check_compiler((7, 0), "3.9.0")
