"""What belongs to the numba backend alone: its sines, its threads, its vector instructions, its cache on disk."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import pytest
import torch
from contract_envs import MAKERS, WITH_ARRAYS, assert_same_tensors, everything, make_cpu
from here import PYTHONPATH

from operant_gpu.backends import disk_cache
from operant_gpu.backends.numba import cache
from operant_gpu.kernels.numba import batch, mathematics
from operant_gpu.kernels.numba.memory import BLOCK
from operant_gpu.memory import records
from operant_gpu.philox import philox as numpy_philox


@numba.njit(error_model="numpy")
def both(angles: Any, sines: Any, cosines: Any) -> None:
    for i in range(len(angles)):
        sines[i], cosines[i] = mathematics.sin32(angles[i]), mathematics.cos32(angles[i])


def sines_and_cosines(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sines, cosines = np.empty_like(angles), np.empty_like(angles)
    both(angles, sines, cosines)
    return sines, cosines


@pytest.mark.parametrize("reach", [1e-30, 1e-3, 0.3, 4.0, 100.0, 1e4, 1e6])
def test_sine_and_cosine_are_within_two_ulp(reach: float) -> None:
    rng = np.random.default_rng(0)
    quarters = np.arange(-int(reach / 1.5708), int(reach / 1.5708) + 1)[-300_000:] * (np.pi / 2)
    angles = np.concatenate([rng.uniform(-reach, reach, 500_000), quarters]).astype(np.float32)
    for found, exact in zip(sines_and_cosines(angles), (np.sin(angles.astype(float)), np.cos(angles.astype(float)))):
        ulp = np.spacing(np.abs(exact.astype(np.float32)))
        assert (np.abs(found - exact) / ulp).max() <= 2.0


def test_sine_and_cosine_beyond_all_angles() -> None:
    angles = np.array([np.inf, -np.inf, np.nan, 1e7, -1e20, 3e38], np.float32)
    sines, cosines = sines_and_cosines(angles)
    assert np.isnan(sines[:3]).all()
    assert np.isnan(cosines[:3]).all()
    assert (np.abs(np.concatenate([sines[3:], cosines[3:]])) <= 1).all()


@numba.njit
def words(seed: Any, counters: Any, out: Any) -> None:
    for i in range(len(out)):
        c0, c1, c2, c3 = counters[i]
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = mathematics.philox(seed[i], c0, c1, c2, c3)


def test_words_are_those_of_numpy() -> None:
    rng = np.random.default_rng(1)
    seeds = rng.integers(0, 2**63, 1000)
    counters = rng.integers(-(2**31), 2**31, (1000, 4)).astype(np.int32)
    found = np.empty((1000, 4), np.uint32)
    words(seeds, counters, found)
    np.testing.assert_array_equal(found.T, numpy_philox(seeds, *counters.T))


@pytest.mark.parametrize("name", ["CartPole-v1", "Drift-v0", "Ledge-v0"])
def test_threads_change_nothing(name: str) -> None:
    # Several blocks a thread, the last one of a single row.
    num_envs, out = 65 * BLOCK + 1, ("obs", "action", "reward", "terminated", "truncated", "final_obs")
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            env = make_cpu(name, num_envs, "numba", max_episode_steps=3)
            env.reset(seed=5)
            stored = env.rollout(4, out=out)
            env.step(stored["action"][0])
        finally:
            torch.set_num_threads(1)
        results.append({**stored, **everything(env), "present": env.observe()})
    assert_same_tensors(results[0], results[1])
    assert_same_tensors(results[0], results[2])


def run_python(code: str, cache: Path) -> Any:
    """Run code in a process of its own with this cache; return what it prints last, read as JSON."""
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "OPERANT_GPU_CACHE": str(cache)}
    finished = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


STEP = """
import json, sys
import operant_gpu
env = operant_gpu.make("CartPole-v1", 5, device="cpu", backend="numba")
env.reset(seed=1)
env.rollout(3)
programs = [module.program for name, module in sys.modules.items() if name.startswith("operant_gpu_program")]
found = {"hits": sum(program.cache_hits for program in programs), "programs": len(programs)}
found["obs"] = env.observe().tolist()
"""


class Filled(NamedTuple):
    """A folder of programs, and what the process that compiled them found."""

    folder: Path
    found: dict[str, Any]


def with_kernels(folder: Path, source: Path) -> None:
    """Put the kernels, which take long to compile and are those of all environments, from a cache into another."""
    (folder / "numba").mkdir()
    for pattern in ("rollout_*", "reset_*"):
        for path in (source / "numba").glob(pattern):
            shutil.copy(path, folder / "numba")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    folder = tmp_path_factory.mktemp("filled")
    with_kernels(folder, disk_cache._folder())
    return Filled(folder, run_python(STEP + "print(json.dumps(found))", folder))


def test_programs_are_compiled_once_and_loaded_by_the_next_process(filled: Filled) -> None:
    first, second = filled.found, run_python(STEP + "print(json.dumps(found))", filled.folder)
    assert first["programs"] > 0
    assert first["hits"] == 0
    assert second["hits"] == second["programs"] == first["programs"]
    assert second["obs"] == first["obs"]


def test_files_that_are_cut_short_are_compiled_anew(filled: Filled, tmp_path: Path) -> None:
    shutil.copytree(filled.folder, tmp_path, dirs_exist_ok=True)
    programs = list((tmp_path / "numba").glob("program_*"))
    for place, path in enumerate(programs):
        path.write_bytes(path.read_bytes()[: place * 1000])
    found = run_python(STEP + "print(json.dumps(found))", tmp_path)
    assert (found["obs"], found["hits"]) == (filled.found["obs"], 0)
    assert len(list((tmp_path / "numba").glob("program_*"))) == len(programs) == filled.found["programs"]


def test_kernels_on_disk_belong_to_the_sources_that_they_are_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, str]] = []
    monkeypatch.setattr(cache, "_function", lambda function, arguments, digest: made.append((function, digest)))

    def digest() -> str:
        made.clear()
        cache.kernels()
        (rollout, one), (reset, other) = made
        assert (rollout, reset, one) == (batch.rollout, batch.reset, other)
        return one

    before, read = digest(), Path.read_bytes
    assert digest() == before
    sources = {path for path in Path(batch.__file__).parent.glob("*.py") if path.stem != "__init__"}
    for changed in (*sources, Path(records.__file__)):
        monkeypatch.setattr(Path, "read_bytes", lambda path, changed=changed: read(path) + b"#" * (path == changed))
        assert digest() != before, changed


@pytest.mark.skipif(platform.machine() != "x86_64", reason="looks for instructions of x86")
def test_loops_become_vector_instructions(filled: Filled, tmp_path: Path) -> None:
    with_kernels(tmp_path, filled.folder)
    code = """
assembly = {name: [program._library.get_asm_str() for program in programs]}
print(json.dumps([sum(text.count("mulps") for text in texts) for texts in assembly.values()]))
"""
    for name in ("CartPole-v1", "Pendulum-v1"):
        code_of = STEP.replace("CartPole-v1", name) + code.replace("{name:", f"{{{name!r}:")
        assert run_python(code_of, tmp_path)[0] > 10


def test_every_environment_runs_on_numba_but_for_those_with_arrays() -> None:
    for name in MAKERS:
        assert make_cpu(name, 2, "auto").backend == ("numpy" if name in WITH_ARRAYS else "numba")
