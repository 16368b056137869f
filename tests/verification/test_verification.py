"""`operant_gpu.verify` and `doctor --verify`: what they find, and what they say of what they cannot look at."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from contract_envs import Drift, Functions, Lamps, MaskedDials
from executed import executed
from gymnasium import spaces
from here import ROOT

import operant_gpu
from operant_gpu import BackendError, Environment, InvalidConfig
from operant_gpu.backends import select
from operant_gpu.backends.failures import KernelError
from operant_gpu.cli import main
from operant_gpu.lang import jit, tl
from operant_gpu.machine import machine_name, versions
from operant_gpu.random import uniform
from operant_gpu.verification import Check, Report, examine, learning, stepping
from operant_gpu.verification.comparing import MAX_ULPS, Differs, assert_equal, assert_near

# Of what is verified if nothing is named.
BACKENDS = ("triton", "triton", "triton", "cuda")
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
def test_the_command_line_verifies_an_environment_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ROOT / "examples" / "custom_environment.py"
    name = re.search(r"^(\w+) = Environment\(", file.read_text(), re.MULTILINE)[1]
    monkeypatch.setenv("COLUMNS", "0")
    assert main(["doctor", f"{file}:{name}", "--verify", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    checks = report.pop("checks")
    assert report.pop("compilations") >= 0
    assert report == {"machine": machine_name(), "versions": versions()}
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


@pytest.mark.parametrize(
    ("name", "wrong", "told"),
    [
        (
            "Pendulum-v1",
            ("sin", "({}) * float32(1.001)"),
            r"pendulum.py:\d+: acceleration = 3.0 .*: acceleration, \(300,\)",
        ),
        ("CartPole-v1", ("greater", "not ({})"), r"cartpole.py:\d+: terminated = .*: terminated, \(300,\)"),
        ("GridWalk-v0", ("fmax", "({}) + 1"), r"grid_walk.py:\d+: x = .*: x, \(300,\)"),
    ],
    ids=["floats", "flags", "integers"],
)
def test_the_first_statement_that_two_backends_compute_differently_is_named(
    name: str, wrong: tuple[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    from operant_gpu.backends.numba import source

    expression = source._expression

    def planted(call: Any) -> str:
        own = expression(call)
        return wrong[1].format(own) if getattr(call.function, "__name__", "") == wrong[0] else own

    # As a compiler would get a function wrong.
    monkeypatch.setattr(source, "_expression", planted)
    check = next(check for check in examine(name) if check.name.endswith("step kernel beside numpy, SAME_STEP"))
    assert check.state == "failed"
    assert re.search(rf"; first in .*{told}", check.text), check.text


@jit
def loops_step(state, action, rng, params):
    x = state.x + (action * 0.5)
    for _ in tl.static_range(3):
        x -= tl.sin(x)
    y = x * 2.0
    return LoopsState(x), y, x > 100.0


@jit
def _sines(x):
    return LoopsState(tl.sin(x))


@jit
def tuple_step(state, action, rng, params):
    turned = _sines(state.x + action * 0.5)
    y = turned.x * 2.0
    return turned, y, y > 100.0


@jit
def early_step(state, action, rng, params):
    x = state.x + tl.sin(action * 0.5)
    if params.returns:
        return LoopsState(x), x, x > 100.0
    return LoopsState(x + 1.0), x, x > 100.0


class LoopsState(NamedTuple):
    x: tl.float32


class LoopsParams(NamedTuple):
    returns: bool = True


@jit
def loops_reset(rng, params):
    return LoopsState(uniform(rng, 0, 1.0, 2.0))


@jit
def loops_observe(state, params):
    return (state.x,)


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (tuple_step, r"; first in .*\.py:\d+: turned = _sines\(.*\): turned.x, \(300,\)"),
        (loops_step, r"; first in .*\.py:\d+: x -= tl.sin\(x\): x, \(300,\)"),
        (early_step, r"expected -?\d[^;]*$"),
    ],
    ids=["tuple", "loop", "early return"],
)
def test_statements_are_named_wherever_they_stand_and_the_difference_in_any_case(
    step: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    from operant_gpu.backends.numba import source

    expression = source._expression
    monkeypatch.setattr(
        source,
        "_expression",
        lambda call: f"({expression(call)}) * float32(1.001)" if call.function is np.sin else expression(call),
    )
    own = Environment(
        id="Loops-v0",
        state=LoopsState,
        params=LoopsParams,
        reset=loops_reset,
        step=step,
        observe=loops_observe,
        observation_space=spaces.Box(-np.inf, np.inf, (1,)),
        action_space=spaces.Discrete(3),
    )
    check = next(check for check in examine(own) if check.name.endswith("step kernel beside numpy, SAME_STEP"))
    assert check.state == "failed"
    assert re.search(told, check.text), check.text


def test_what_raises_is_a_failure_and_others_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise BackendError("no such luck")

    monkeypatch.setattr(operant_gpu.VecEnv, "rollout", refuse)
    found = {check.name: check for check in examine("GridWalk-v0")}
    assert found["GridWalk-v0: network in a rollout beside PyTorch"][1:3] == ("failed", "no such luck")
    assert found["GridWalk-v0: training beside itself"].state == "failed"


@without_gpu
def test_a_device_that_is_not_there_is_refused() -> None:
    for device in ("cuda", torch.device("cuda:99")):
        with pytest.raises(BackendError, match="is not there"):
            operant_gpu.verify(operant_gpu.make("CartPole-v1"), device=device)
    with pytest.raises(InvalidConfig, match="expected 'auto', 'cpu'"):
        operant_gpu.verify("CartPole-v1", device="meta")


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (BackendError("no package"), "skipped"),
        (KernelError("a bad file"), "failed"),
        (RuntimeError("the device answers nothing"), "failed"),
    ],
)
def test_what_is_missing_is_told_from_what_is_broken(
    error: Exception, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, batch: Any) -> None:
        raise error

    monkeypatch.setattr(select, "create", refuse)
    checks = list(examine(device="cpu"))
    assert [check.state for check in checks[:4]] == [state] * 4
    assert checks[0].name == "CartPole-v1: backend"
    assert str(error) in checks[0].text


@without_gpu
def test_a_gpu_whose_packages_are_missing_is_not_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: str(device))
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: contextlib.nullcontext())
    missing = {name: f"the {name} backend needs a package" for name in ("triton", "cuda")}
    monkeypatch.setattr(select, "_missing", missing.get)
    report = operant_gpu.verify()
    assert report.passed
    assert not report.complete
    assert report.machine == "cuda:0"
    assert [check.text for check in report.checks] == [f"the {name} backend needs a package" for name in BACKENDS]


@without_gpu
def test_what_is_set_in_pytorch_changes_nothing() -> None:
    expected, state = operant_gpu.verify("CartPole-v1"), torch.get_rng_state()
    # One dtype stands for all that are not float32.
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.inference_mode(), torch.autocast("cpu"):
            report = operant_gpu.verify("CartPole-v1")
            assert torch.empty(0).device.type == "meta"
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert [check[:3] for check in report.checks] == [check[:3] for check in expected.checks]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (0.0, np.inf)])
def test_a_box_without_bounds_is_verified(bounds: tuple[float, float]) -> None:
    space = spaces.Box(*bounds, (1,))
    definition = dataclasses.replace(operant_gpu.registry.find("Pendulum-v1"), action_space=space)
    report = operant_gpu.verify(definition)
    assert report.passed, str(report)


def test_a_gradient_that_is_no_number_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = learning._fused_gradient
    monkeypatch.setattr(
        learning, "_fused_gradient", lambda *args: computed(*args).index_fill_(0, torch.tensor([-1]), math.nan)
    )
    (check,) = [check for check in examine("CartPole-v1", "cpu") if "autograd, ieee" in check.name]
    assert check.state == "failed"
    assert re.match(r"gradient of \S+: off by nan, expected less than 1e-05", check.text)


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
    assert assert_near("x", near, expected) == pytest.approx(100.0, rel=0.01)
    with pytest.raises(Differs, match=r"x, \(4,\): 1 are more than 256 ulps away; at 1 came .*, expected 9.9"):
        assert_near("x", expected + torch.tensor([0.0, 2 * MAX_ULPS * 2.0**-23, 0.0, 0.0]), expected)
    for other in (torch.ones(4), expected.flip(0), expected * torch.tensor([1.0, 1.0, 1.0, -1.0])):
        with pytest.raises(Differs, match="what is not finite"):
            assert_near("x", other, expected)
    columns = torch.tensor([[1e6, 5.0], [1e6, 5.0]])
    with pytest.raises(Differs, match=r"1 are more than 256 ulps away; at 3 came -5, expected 5"):
        assert_near("a small one beside large ones", columns * torch.tensor([[1.0, 1.0], [1.0, -1.0]]), columns)
    assert assert_near("nothing", torch.zeros(0), torch.zeros(0)) == 0.0
    assert_equal("nan", expected, expected)
    with pytest.raises(Differs, match=r"n, \(2,\): 1 differ; at 1 came 3, expected 2"):
        assert_equal("n", torch.tensor([1, 3]), torch.tensor([1, 2]))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package, to be changed back."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "operant_gpu", folder / "operant_gpu")
    return folder


def test_compiled_kernels_are_verified() -> None:
    found = executed("verified.py", "CartPole-v1", "SAME_STEP|network|autograd|graph")
    assert [check["state"] for check in found] == ["ok"] * 6, found


def test_compiled_kernels_of_cuda_are_verified() -> None:
    pytest.importorskip("cupy", reason="compilation needs CuPy")
    found = executed("verified.py", "MinAtar-Breakout-v1", "_STEP|graph")
    assert [check["state"] for check in found] == ["ok"] * 5, found


@pytest.mark.parametrize(
    ("file", "right", "wrong", "named", "told"),
    [
        (
            "blocks.py",
            "elapsed += active.to(tl.int32)",
            "elapsed += 2 * active.to(tl.int32)",
            "step kernel beside numpy, NEXT_STEP",
            "expected at most 1 in 1,000: length in ",
        ),
        (
            "rollout.py",
            "tl.where(wanted, following, final_value)",
            "tl.where(wanted, 1.5 * following, final_value)",
            "network in a rollout beside PyTorch",
            "final_value: off by ",
        ),
        (
            "gradient.py",
            "return tl.dot(a, b, input_precision=dot_precision(PRECISION))",
            "return 0.99 * tl.dot(a, b, input_precision=dot_precision(PRECISION))",
            "gradient kernel beside autograd, tf32",
            "gradient of network.",
        ),
    ],
    ids=["step", "network", "gradient"],
)
def test_a_wrong_compiled_kernel_is_found_and_named(
    file: str, right: str, wrong: str, named: str, told: str, package: Path
) -> None:
    path = package / "operant_gpu" / "kernels" / "triton" / file
    source = path.read_text()
    assert right in source
    path.write_text(source.replace(right, wrong))
    try:
        (check,) = executed("verified.py", "CartPole-v1", named, package=package)
    finally:
        path.write_text(source)
    assert (check["name"], check["state"]) == (f"CartPole-v1: {named}", "failed")
    assert told in check["text"]
