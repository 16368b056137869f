"""A plugin of pytest that writes each test of tests/gpu to the results of `gpu.py` as soon as it has run."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from gpu_reporter import Kernels
from gpu_rows import FAILED, OK, RESULTS, SKIPPED, STAND_IN, Row, write

MODE = "OPERANT_GPU_BENCH_MODE"
PROCESSES = 8
# A few of each file, without a GPU.
REHEARSED = "bad_values or checkpoint or ((what_numpy_does or equals_single) and CartPole-v1 and same_step)"
# C++ and kernels of PyTorch's own: nothing that Triton compiles.
NOT_TRITONS = "not Cuda and not MinAtar"

_kernels: Kernels | None = None
# Whether this process runs tests for another, which collects their reports. A variable of the environment would also be
# that of a run around this one.
_is_worker = False


def command(mode: str) -> list[str]:
    """Return how to run the tests."""
    own = [sys.executable, "-m", "pytest", "tests/gpu", "-p", "gpu_pytest", "-p", "no:cacheprovider", "-v"]
    # Plugins that a machine has beside ours may warn, which is an error here: pytest-benchmark does with pytest-xdist.
    own += ["--tb=short", "-p", "no:benchmark"]
    if mode == "rehearse":
        own += ["-k", REHEARSED]
    if mode == "precompile":
        own += ["-k", NOT_TRITONS, "--assert=plain", "-W", "ignore"]
    if importlib.util.find_spec("xdist"):
        own += ["-n", str(PROCESSES if mode == "run" else 2)]
    return own


def variables(mode: str) -> dict[str, str]:
    """Return the environment in which to run them."""
    # Without assertions about what kernels did not compute, each test comes to its end: in workers too.
    return {MODE: mode} | ({"PYTHONOPTIMIZE": "1"} if mode == "precompile" else {})


def pytest_configure(config: pytest.Config) -> None:
    """Count compilations, in each process that runs tests; without a GPU, install what stands for it."""
    global _kernels, _is_worker
    _is_worker = hasattr(config, "workerinput")
    mode = os.environ[MODE]
    if mode != "run":
        _stand_in(mode)
    _kernels = Kernels(90 if mode == "precompile" else None)


def _stand_in(mode: str) -> None:
    from gpu_rehearsal import install

    # Tests in processes of their own would not have it.
    os.environ["OPERANT_GPU_TEST_APART"] = "no"
    install(mode)
    if mode == "precompile":
        import torch

        torch.testing.assert_close = lambda *_, **__: None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Let a test's report say what was compiled for it: in the process that ran it."""
    report = yield
    if report.when == "teardown" and _kernels is not None:
        report.user_properties.append(("kernels", _kernels.take()))
    return report


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Write a row for a file whose tests cannot be had, in the process that collects reports."""
    if report.failed and not _is_worker:
        row = Row("f", report.nodeid.removeprefix("tests/gpu/") or "collection", FAILED, message_of(report))
        write(row, Path(os.environ[RESULTS]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write a test's row, in the process that collects reports."""
    if _is_worker:
        return
    mode = os.environ[MODE]
    told: dict[str, Any] = dict(report.user_properties)
    compiled, cached = told.get("kernels", (0, 0)) if report.when == "teardown" else (0, 0)
    name = report.nodeid.removeprefix("tests/gpu/")
    row = Row("f", name, OK, seconds=report.duration, compiled=compiled, cached=cached)
    if report.failed:
        # Kernels that were not launched leave nothing to be right.
        row.state = FAILED if mode != "precompile" else STAND_IN
        row.figure = message_of(report)
        row.quiet = mode == "precompile"
    elif report.skipped:
        row.state, row.figure, row.quiet = SKIPPED, message_of(report), True
    elif report.when == "call":
        row.state, row.quiet = STAND_IN if mode != "run" else OK, True
    elif compiled or cached:
        row.what, row.state, row.quiet = "kernels of tests", "note", True
    else:
        return
    write(row, Path(os.environ[RESULTS]))


def message_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return in one line why a test failed or was left out, or a file could not be read."""
    told: Any = report.longrepr
    if isinstance(told, tuple):
        return str(told[2])
    crash = getattr(told, "reprcrash", None)
    text = crash.message if crash is not None else str(told)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # Of a file that cannot be imported the error comes after where that was.
    return next((line[1:].strip() for line in lines if line.startswith("E ")), lines[0] if lines else "")
