"""Which backends tests run on, and what is skipped without a GPU. `support`, which is on the path, has what they share.

With PTX_EXECUTE=1 or TRITON_INTERPRET=1, for tests that are marked "triton", the fixture `backend` is "triton" as well
as "numpy": compiled and executed, or interpreted.
"""

from __future__ import annotations

import os

import pytest

# Threads of one worker that wait would spin on the cores of the other; before torch is imported, and for subprocesses.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gpu_isolation
import torch
from here import BACKENDS, EXECUTED

from operant_gpu import machine


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that runs on this machine's CPU."""
    return str(request.param)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(gpu_isolation)
    if EXECUTED:
        from ptx_executor import pytest_plugin

        config.pluginmanager.register(pytest_plugin)


def pytest_report_header() -> str:
    """Show which versions were really there: `make lowest` puts others on the path."""
    found = machine.versions(("torch", "triton", "gymnasium", "numpy"))
    return "with " + ", ".join(f"{name} {version}" for name, version in found.items())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests recorded as "summary", wherever they ran."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, text in report.user_properties:
                if name == "summary":
                    terminalreporter.write_line(text)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # Not `-k triton`, which takes every test in a folder of that name.
        if "triton" in item.nodeid.rpartition("/")[2]:
            item.add_marker("triton")
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
