"""Sources that do not compile, tools that are missing: each error says what is wrong and what to do."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from contract_envs import Ledge
from cuda_twins import FOLDER, twin
from gymnasium import spaces
from here import PYTHONPATH

import operant_gpu
from operant_gpu import Array, BackendError, CudaEnvironment, InvalidConfig
from operant_gpu.backends.cpp import compiler as cpp_compiler
from operant_gpu.backends.cuda.source import Known
from operant_gpu.lang import tl

LEDGE = (FOLDER / "ledge.cu").read_text()
SHIPPED = twin(Ledge, "ledge.cu")


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str, str], CudaEnvironment]:
    """A function that returns Ledge with one piece of its source replaced."""

    def change(old: str, new: str) -> CudaEnvironment:
        assert old in LEDGE
        path = tmp_path / "changed.cu"
        path.write_text(LEDGE.replace(old, new, 1))
        return dataclasses.replace(SHIPPED, source=path)

    return change


def line_of(text: str) -> int:
    return LEDGE[: LEDGE.index(text)].count("\n") + 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("obs[1] = state.breath;", "obs[1] = state.breath", "expected"),
        ("obs[1] = state.breath;", "obs[1] = state.courage;", "courage"),
        ("obs[1] = state.breath;", "obs[1] = params.height;", "height"),
        ("obs[1] = state.breath;", "obs[1] = breth;", "breth"),
        ("__device__ State reset", "__device__ int helper() {}\n__device__ State reset", "no return statement"),
    ],
    ids=["syntax", "no such field", "no such parameter", "no such name", "no return"],
)
def test_errors_of_the_compiler_name_the_authors_line(changed: Any, old: str, new: str, message: str) -> None:
    environment = changed(old, new)
    with pytest.raises(InvalidConfig, match=message) as raised:
        environment(3, device="cpu")
    text = str(raised.value)
    # A missing semicolon is noticed at the next line by some compilers.
    assert any(f"{environment.source}:{line_of(old) + after}" in text for after in (0, 1)), text
    # What there is to choose from.
    assert "    int32_t breath;" in text.splitlines()
    assert "static constexpr int32_t width = 5;" in text
    assert "__device__ Outcome step(State& state, Action action, Rng rng, Params params)" in text


@pytest.mark.parametrize("name", ["reset", "step", "observe", "is_legal"])
def test_a_missing_function_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "missing.cu"
    path.write_text(LEDGE.replace(f" {name}(", f" my_{name}(") + f"// {name}() is not defined\n")
    environment = dataclasses.replace(SHIPPED, source=path)
    with pytest.raises(InvalidConfig, match=f"does not define {name};"):
        environment(3, device="cpu")


def test_a_function_of_other_arguments_shows_what_was_expected(changed: Any) -> None:
    environment = changed("State reset(Rng rng, Params params)", "State reset(Params params)")
    with pytest.raises(InvalidConfig, match=r"__device__ State reset\(Rng rng, Params params\)"):
        environment(3, device="cpu")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Outcome step(State& state", "Outcome step(State state", "step changes the state in place: it takes State&"),
        ("void observe(const State& state", "void observe(State& state", "observe takes const State&"),
    ],
)
def test_functions_that_could_not_do_their_work_are_refused(changed: Any, old: str, new: str, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        changed(old, new)(3, device="cpu")


def test_functions_of_the_author_do_not_replace_those_of_the_library(changed: Any) -> None:
    own = "__device__ bool legal(const State& state, int choice) { return false; }\n"
    env = changed("__device__ State reset", f"{own}__device__ State reset")(3, device="cpu")
    env.reset(seed=0)
    assert env.action_mask[:, 0].all()


def test_a_function_that_is_nowhere_defined_is_named(changed: Any) -> None:
    environment = changed(
        "__device__ State reset", "int helper();\nstatic int value = helper();\n__device__ State reset"
    )
    with pytest.raises(InvalidConfig, match=r"a function that is nowhere defined: .*helper"):
        environment(3, device="cpu")


class LargeState(NamedTuple):
    board: Array(tl.float32, (100_000,))


def test_a_state_larger_than_a_stack_is_refused() -> None:
    with pytest.raises(InvalidConfig, match=r"^state: expected at most 65,536 bytes .* got 400,000"):
        dataclasses.replace(SHIPPED, state=LargeState)(1, device="cpu")


def test_a_mark_of_the_encoding_is_no_part_of_the_source(tmp_path: Path) -> None:
    path = tmp_path / "marked.cu"
    path.write_text(LEDGE, encoding="utf-8-sig")
    dataclasses.replace(SHIPPED, source=path)(1, device="cpu")


def test_comments_end_and_strings_do_not_begin_them(changed: Any) -> None:
    text = 'constexpr const char* NAME = "/* reset(";\n__device__ State reset'
    changed("__device__ State reset", text)(1, device="cpu")


def test_an_include_by_a_macro_is_refused(changed: Any) -> None:
    environment = changed("__device__ State reset", '#define FILE "rules.cuh"\n#include FILE\n__device__ State reset')
    with pytest.raises(InvalidConfig, match=r"changed.cu: `#include FILE`: write the name of the file"):
        environment(1, device="cpu")


def test_a_damaged_program_of_an_earlier_process_is_compiled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, damaged = tmp_path / "good" / "cpp", tmp_path / "damaged" / "cpp"
    monkeypatch.setenv("OPERANT_GPU_CACHE", str(good.parent))
    SHIPPED(1, device="cpu")
    (program,) = good.iterdir()
    damaged.mkdir(parents=True)
    # Its header is whole: a loader would read beyond its end.
    (damaged / program.name).write_bytes(program.read_bytes()[: program.stat().st_size // 2])
    monkeypatch.setenv("OPERANT_GPU_CACHE", str(damaged.parent))
    SHIPPED(1, device="cpu").reset(seed=0)
    (again,) = damaged.iterdir()
    assert again.stat().st_size == program.stat().st_size


def test_a_relative_source_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here.cu").write_text(LEDGE)
    monkeypatch.chdir(tmp_path)
    environment = dataclasses.replace(SHIPPED, source="here.cu")
    monkeypatch.chdir("/")
    environment(1, device="cpu")


def test_a_state_that_the_source_declares_itself_is_refused_with_the_one_that_there_is(changed: Any) -> None:
    environment = changed("__device__ State reset", "struct State { int x; };\n__device__ State reset")
    with pytest.raises(InvalidConfig, match="State") as raised:
        environment(3, device="cpu")
    assert "bool winded;" in str(raised.value)


class OtherState(NamedTuple):
    x: tl.int32
    stamina: tl.int32


def test_a_state_that_does_not_match_the_source_is_shown() -> None:
    environment = dataclasses.replace(SHIPPED, state=OtherState)
    with pytest.raises(InvalidConfig, match="breath") as raised:
        environment(3, device="cpu")
    assert "int32_t stamina;" in str(raised.value)


def test_a_changed_source_is_compiled_anew_also_where_it_is_included(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From beside the author's file, also by a file elsewhere; not from the present folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "rules.cuh").write_text("#error not this one")
    monkeypatch.chdir(elsewhere)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "inner.cuh").write_text('#include "rules.cuh"\n')
    (tmp_path / "rules.cuh").write_text(LEDGE)
    (tmp_path / "outer.cu").write_text('#include "sub/inner.cuh"\n')
    environment = dataclasses.replace(SHIPPED, source=tmp_path / "outer.cu")

    def first_breath() -> float:
        env = environment(1, device="cpu")
        return float(env.reset(seed=0)[0][0, 1])

    before = first_breath()
    (tmp_path / "rules.cuh").write_text(LEDGE.replace("obs[1] = state.breath", "obs[1] = state.breath + 100"))
    assert first_breath() == before + 100


def test_nvrtc_finds_what_is_included(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cupy")
    from operant_gpu.backends.cuda.backend import cubin

    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "inner.cuh").write_text('#include "rules.cuh"\n')
    (tmp_path / "rules.cuh").write_text(LEDGE)
    (tmp_path / "outer.cu").write_text('#include "sub/inner.cuh"\n')
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "rules.cuh").write_text("#error not this one")
    monkeypatch.chdir(tmp_path / "elsewhere")
    environment = dataclasses.replace(SHIPPED, source=tmp_path / "outer.cu")
    assert cubin(environment, Known(*environment.make_given({})), "sm_90").startswith(b"\x7fELF")


def test_a_source_may_begin_with_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ledge.cu").write_text(LEDGE)
    assert dataclasses.replace(SHIPPED, source="~/ledge.cu").source == tmp_path / "ledge.cu"


@pytest.mark.parametrize("name", ["nowhere.cu", ".", ""])
def test_a_source_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidConfig, match=r"^source: .*no such file"):
        dataclasses.replace(SHIPPED, source=tmp_path / name)


def test_a_source_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.cu"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidConfig, match=r"^source: .*binary.cu cannot be read"):
        dataclasses.replace(SHIPPED, source=path)(1, device="cpu")


def test_a_machine_without_a_compiler_gets_the_packages_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BackendError, match=r"C\+\+ compiler.*apt install g\+\+.*dnf install gcc-c\+\+"):
        cpp_compiler.compiler()


def test_a_compiler_may_have_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "g++ -m64")
    assert cpp_compiler.compiler()[1:] == ["-m64"]


@pytest.mark.parametrize(
    ("named", "message"), [('g++ "', "CXX is no command"), ("true", r"made no library \(status 0\)")]
)
def test_what_is_no_compiler_is_named(named: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", named)
    with pytest.raises(BackendError, match=message):
        SHIPPED(3, device="cpu")


def test_what_is_not_the_authors_fault_is_said_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "g++ -fno-such-option")
    with pytest.raises(BackendError, match=r"compiler \S+ made no library \(status 1\):[^$]*no-such-option"):
        SHIPPED(3, device="cpu")


def test_a_compiler_named_in_the_environment_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendError, match="CXX names 'no-such-compiler', which is not there"):
        cpp_compiler.compiler()


@pytest.mark.parametrize("backend", ["numpy", "numba", "triton"])
def test_backends_of_triton_do_not_run_cuda(backend: str) -> None:
    with pytest.raises(InvalidConfig, match=r"expected 'auto', 'cuda' or 'cpp' for CudaEnvironments, got"):
        SHIPPED(1, device="cpu", backend=backend)


@pytest.mark.parametrize("backend", ["cuda", "cpp"])
def test_backends_of_cuda_do_not_run_triton(backend: str) -> None:
    with pytest.raises(InvalidConfig, match=r"expected 'auto', 'triton', 'numba' or 'numpy' for Environments, got"):
        operant_gpu.make("CartPole-v1", device="cpu", backend=backend)


def test_cuda_on_a_cpu_names_the_backend_that_runs_there() -> None:
    pytest.importorskip("cupy")
    with pytest.raises(BackendError, match="needs a CUDA device: use backend='cpp'"):
        SHIPPED(1, device="cpu", backend="cuda")


def test_without_cupy_the_cuda_backend_says_what_to_install() -> None:
    code = """
import sys
sys.modules["cupy"] = None
import operant_gpu
try:
    operant_gpu.make("MinAtar-Breakout-v1", device="cpu", backend="cuda")
except operant_gpu.BackendError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "needs cupy-cuda13x" in done.stdout
    assert "pip install -e \".[gpu]\" in the clone, or use backend='cpp'" in done.stdout


def test_without_nvrtc_the_cuda_backend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cupy")
    from operant_gpu.backends.cuda import backend as cuda

    class Missing:
        """Stands in for CuPy's NVRTC where the library is missing."""

        @staticmethod
        def getVersion() -> None:  # noqa: N802
            raise RuntimeError("Failure finding 'libnvrtc.so.13'\nand more")

    monkeypatch.setattr(cuda, "nvrtc", Missing)
    with pytest.raises(BackendError, match=r"needs NVRTC \(Failure.*\): pip install"):
        cuda.cubin(SHIPPED, Known(*SHIPPED.make_given({})), "sm_90")


def test_a_device_that_nvrtc_does_not_know_is_named() -> None:
    pytest.importorskip("cupy")
    from operant_gpu.backends.cuda.backend import cubin

    with pytest.raises(BackendError, match=r"NVRTC \d+\.\d+ does not know sm_35: install a newer one"):
        cubin(SHIPPED, Known(*SHIPPED.make_given({})), "sm_35")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("obs[1] = state.breath;", "obs[1] = state.breaht;", 'class "State" has no member "breaht"'),
        ("__device__ State reset", "__device__ int helper() {}\n__device__ State reset", "missing return statement"),
    ],
)
def test_errors_of_nvrtc_are_shown_as_those_of_the_cpus(changed: Any, old: str, new: str, message: str) -> None:
    pytest.importorskip("cupy")
    from operant_gpu.backends.cuda.backend import cubin

    environment = changed(old, new)
    with pytest.raises(InvalidConfig, match=rf"changed.cu\({line_of(old)}\): error.*{message}") as raised:
        cubin(environment, Known(*environment.make_given({})), "sm_90")
    assert "int32_t breath;" in str(raised.value)


@pytest.mark.parametrize(("value", "message"), [(2**70, "64 bits"), (1e39, "a float of 32 bits")])
def test_parameters_that_have_no_place_in_the_source_are_refused(value: float, message: str) -> None:
    class Params(NamedTuple):
        width: int = 5
        height: float = 1.0

    environment = dataclasses.replace(SHIPPED, params=Params)
    name = "width" if isinstance(value, int) else "height"
    with pytest.raises(InvalidConfig, match=rf"^{name}: must fit in {message}, got"):
        environment(1, device="cpu", **{name: value})


class Boards(NamedTuple):
    board: Array(tl.int8, (2, 3))


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (Array(tl.int8, ()), "without an axis"),
        (Array(tl.int8, (2, 0)), "a shape is a tuple of sizes of at least 1"),
        (Array(tl.int8, 4), "a shape is a tuple of sizes of at least 1"),
        (Array(tl.float16, (2,)), r"expected tl.float32.*Array\(dtype, shape\)"),
    ],
    ids=["no axis", "empty", "no tuple", "dtype"],
)
def test_arrays_that_no_column_can_hold_are_refused(annotation: Any, message: str) -> None:
    state = NamedTuple("State", [("board", annotation)])  # noqa: UP014
    with pytest.raises(InvalidConfig, match=message):
        dataclasses.replace(SHIPPED, state=state)


def test_a_mask_needs_discrete_actions() -> None:
    environment = dataclasses.replace(SHIPPED, action_space=spaces.Box(-1.0, 1.0, (2,)))
    with pytest.raises(InvalidConfig, match=r"^action_mask: needs a Discrete"):
        environment(1, device="cpu")


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(InvalidConfig, match=r"^sticky_action_prob: expected 0 to 1"):
        operant_gpu.make("MinAtar-Breakout-v1", device="cpu", sticky_action_prob=value)
