"""Runs the tests of the Triton backend on compiled kernels: `PTX_EXECUTE=1 pytest -m triton`.

`conftest.py` registers it then, and tests take "triton" for a backend of the CPU, as they do in Triton's interpreter.

What else the environment may set:
    PTX_CUDA: The tests for GPUs run too: "cuda" is the host's memory. Those that need what is `LACKING`
        are expected to fail.
    PTX_CAPABILITY: The generation that kernels are compiled for, 80 or 90; 80 if it is not set.
    PTX_APPROXIMATION: Seed of the errors of approximate instructions, 1 if it is not set.
    PTX_CLOSE: Floats that a test wants equal may differ as those of two libraries of mathematics do.
    PTX_PRECISION: That of networks for which a test asks no other: "ieee" tells the errors of tf32 from others.
    PTX_SCHEDULE: Seed of an order of warps.
    PTX_STRICT: Threads of one warp race as well. That `bar.warp.sync` orders what they do is not followed.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

# What tests for GPUs need (`pytest.mark.needs`) and the executor has not, with what is so.
LACKING = {
    "host memory apart": "memory of the host is that of the device",
    "CuPy": "CuPy takes memory of a GPU alone",
    "allocator": "memory is the host's: there is nothing that counts its allocations",
    "waiting": "nothing runs beside the host, so nothing can wait",
    "graphs of PyTorch": "learners capture graphs on tensors of a GPU alone; PyTorch's kernels are the CPU's here",
    "driver": "NVML has no such device",
}
# Those that would run, for hours.
SLOW = {"speed": "trains until a task is solved"}

_driver: Any = None
_patch = pytest.MonkeyPatch()


def pytest_configure(config: pytest.Config) -> None:
    """Install the executor, before tests are imported."""
    global _driver
    from ptx_executor.kernels import Executor
    from ptx_executor.operant import install

    schedule = {"schedule": int(os.environ["PTX_SCHEDULE"])} if "PTX_SCHEDULE" in os.environ else {}
    seed, capability = (int(os.environ.get(*one)) for one in (("PTX_APPROXIMATION", "1"), ("PTX_CAPABILITY", "80")))
    _driver = install(Executor(strict_warps="PTX_STRICT" in os.environ, approximation=seed, **schedule), capability)
    if "PTX_CUDA" in os.environ:
        from ptx_executor.cuda_on_host import pretend

        pretend(_patch)
        os.environ["OPERANT_GPU_TEST_APART"] = "no: another process would not have the executor"
    if "PTX_CLOSE" in os.environ:
        _widen()
    if "PTX_PRECISION" in os.environ:
        _set_precision(os.environ["PTX_PRECISION"])


def _widen() -> None:
    """Let floats differ that a test compares bit for bit: by `torch.testing.assert_close`, or by `Tensor.equal`."""
    from contract_envs import assert_same_tensors
    from torch import Tensor, allclose, testing

    assert_same_tensors.__defaults__ = (128, 1e-6)

    exact = testing.assert_close

    def close(actual: Any, expected: Any, **options: Any) -> None:
        if options.get("rtol") == 0 and options.get("atol") == 0 and getattr(actual, "is_floating_point", bool)():
            options |= {"rtol": 1e-5, "atol": 1e-6}
        exact(actual, expected, **options)

    testing.assert_close = close
    plain = Tensor.equal

    def equal(one: Any, other: Any) -> bool:
        if one.is_floating_point() and one.shape == other.shape:
            return allclose(one, other, rtol=1e-5, atol=1e-6)
        return plain(one, other)

    Tensor.equal = equal


def _set_precision(precision: str) -> None:
    from operant_gpu.mlp import MLP
    from operant_gpu.models.policies.mlp_policy import MLPPolicy

    plain = MLPPolicy.__init__
    MLPPolicy.__init__ = lambda *places, **named: plain(*places, **{"precision": precision, **named})
    # The last of the fields; those before it keep their defaults.
    MLP.__init__.__defaults__ = (*MLP.__init__.__defaults__[:-1], precision)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect failure of tests that need what is not here."""
    for item in items:
        for name in (name for mark in item.iter_markers("needs") for name in mark.args):
            if name in SLOW:
                item.add_marker(pytest.mark.skip(reason=SLOW[name]))
            else:
                item.add_marker(pytest.mark.xfail(reason=LACKING[name], strict=True))


def pytest_unconfigure() -> None:
    """Let PyTorch say again what is there."""
    _patch.undo()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was launched."""
    times: dict[str, list[float]] = {}
    for name, _, seconds in _driver.launches:
        times.setdefault(name, []).append(seconds)
    for name, every in sorted(times.items()):
        terminalreporter.write_line(f"{name}: {len(every)} launches, {sum(every):.1f} s")
