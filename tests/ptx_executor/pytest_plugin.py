"""Runs the tests of the Triton backend on compiled kernels: `pytest -p ptx_executor.pytest_plugin -k triton`.

The tests take the backends from the environment: with TRITON_INTERPRET there is "triton" on a CPU. It is set while
`conftest.py` is read, and gone before Triton is imported.

What else the environment may set:
    PTX_CUDA: The tests for GPUs run too: "cuda" is the host's memory, with Triton. What asks for streams, graphs or the
        allocator fails there.
    PTX_APPROXIMATION: Seed of the errors of approximate instructions.
    PTX_CLOSE: Floats that a test wants equal may differ as those of two libraries of mathematics do.
    PTX_PRECISION: That of networks for which a test asks no other: "ieee" tells the errors of tf32 from others.
    PTX_SCHEDULE: Seed of an order of warps.
    PTX_STRICT: Threads of one warp race as well.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

assert "TRITON_INTERPRET" not in os.environ
os.environ["TRITON_INTERPRET"] = "1"
# Triton 3.9 warns where a launch leaves this option open, and the tests take warnings for errors.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

_driver: Any = None


def pytest_configure(config: pytest.Config) -> None:
    """Install the executor, now that `conftest.py` has been read."""
    global _driver
    del os.environ["TRITON_INTERPRET"]
    from ptx_executor.kernels import Executor
    from ptx_executor.operant import install

    seeds = {"approximation": "PTX_APPROXIMATION", "schedule": "PTX_SCHEDULE"}
    options = {name: int(os.environ[key]) for name, key in seeds.items() if key in os.environ}
    _driver = install(Executor(strict_warps="PTX_STRICT" in os.environ, **options))
    if "PTX_CUDA" in os.environ:
        from ptx_executor.cuda_on_host import pretend

        pretend()
    if "PTX_CLOSE" in os.environ:
        _widen()
    if "PTX_PRECISION" in os.environ:
        _set_precision(os.environ["PTX_PRECISION"])


def _widen() -> None:
    """Let floats differ that a test compares bit for bit: by `torch.testing.assert_close`, or by `Tensor.equal`."""
    from torch import Tensor, allclose, testing

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
    from operant_gpu.models.mlp_policy import MLPPolicy

    plain = MLPPolicy.__init__
    MLPPolicy.__init__ = lambda *places, **named: plain(*places, **{"precision": precision, **named})
    # The last of the fields; those before it keep their defaults.
    MLP.__init__.__defaults__ = (*MLP.__init__.__defaults__[:-1], precision)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take back what `conftest.py` says of tests that need a GPU."""
    if "PTX_CUDA" in os.environ:
        for item in items:
            if "gpu" in item.keywords:
                item.own_markers = [mark for mark in item.own_markers if mark.name != "skip"]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was launched."""
    times: dict[str, list[float]] = {}
    for name, _, seconds in _driver.launches:
        times.setdefault(name, []).append(seconds)
    for name, every in sorted(times.items()):
        terminalreporter.write_line(f"{name}: {len(every)} launches, {sum(every):.1f} s")
