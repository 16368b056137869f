"""Launches that are prepared once: what they pass on, what they compile, and what they do where Triton is not known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from executed import executed
from here import EXECUTED
from rollouts import assert_same_tensors

import operant_gpu

pytest.importorskip("triton", reason="there is nothing to launch without Triton")

from operant_gpu.backends.triton import prepared

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def launches() -> Any:
    """What the installed Triton's own launcher does, above a driver that does nothing."""
    return executed("launches.py")


def test_this_triton_is_one_whose_kernels_are_launched_directly(launches: Any) -> None:
    assert launches["is_direct"]


def test_the_driver_gets_the_arguments_in_the_order_of_the_kernels(launches: Any) -> None:
    names = [name for name, _ in launches["got"]]
    assert {name: names.count(name) for name in names} == {"reset_kernel": 6, "step_kernel": 43, "rollout_kernel": 9}
    assert all(is_right for _, is_right in launches["got"]), launches["got"]


def test_each_kernel_is_compiled_once_for_rows_of_any_size_and_alignment(launches: Any) -> None:
    # Of resets, one went before all.
    expected = {"step": 1, "step with out=": 1, "rollout, random": 1, "rollout, given": 1, "rollout, network": 1}
    assert {name: len(kernels) for name, kernels in launches["compiled"].items()} == {"reset": 0, **expected}


def test_a_profiler_is_told_of_each_launch(launches: Any) -> None:
    assert launches["told"] == ["reset_kernel", "step_kernel", "rollout_kernel"]


def test_another_device_is_made_current_for_a_launch(launches: Any) -> None:
    assert launches["entered"] == [1]


@pytest.mark.skipif(not EXECUTED, reason="launches of both kinds need the executor")
def test_triton_that_is_not_known_is_launched_by_its_own_means(monkeypatch: pytest.MonkeyPatch) -> None:
    direct = stepped()
    monkeypatch.setattr(prepared, "IS_DIRECT", False)
    assert_same_tensors(direct, stepped())


def stepped() -> dict[str, torch.Tensor]:
    """Return what a step writes to rows of a user's memory, and what a rollout stores."""
    env = operant_gpu.make("CartPole-v1", 33, device="cpu", backend="triton")
    env.reset(seed=3)
    out = {"obs": torch.zeros(35, 4)[2:], "reward": torch.zeros(34)[1:]}
    env.step(torch.ones(33, dtype=torch.int64), out=out)
    stored: dict[str, torch.Tensor] = env.rollout(3, out=["action", "terminated"])
    return {**out, **stored}
