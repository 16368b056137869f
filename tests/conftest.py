"""What the tests share: the backends present in this process, and skipping without a GPU.

Triton reads TRITON_INTERPRET when kernels are decorated, so the interpreter has a process of its own: `make test` runs
the suite, and then `TRITON_INTERPRET=1 pytest -k triton`, where the fixture `backend` is "triton" as well as "numpy".
"""

from __future__ import annotations

import os

import pytest

# Threads of one worker that wait would spin on the cores of the other; before torch is imported, and for subprocesses.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gpu_isolation
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BACKENDS = ["numpy", "triton"] if INTERPRETED else ["numpy", "numba"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that runs on this machine's CPU."""
    return str(request.param)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(gpu_isolation)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests recorded as "summary", wherever they ran."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, text in report.user_properties:
                if name == "summary":
                    terminalreporter.write_line(text)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
