"""Keeps a test on a GPU from spoiling those after it. A plugin of pytest, for tests marked "gpu".

Errors of kernels come late: after each test its process waits for the device, so they belong to the test that made
them. What a test may have set is set back. After an illegal access CUDA answers nothing in that process any more: the
process ends, with pytest-xdist to be replaced by another (the test is then reported twice), without it with all tests.
Tests marked "apart" run in a process of their own, which ends with what they leave behind.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

# Set where a process is a test's own, or could not be.
APART = "OPERANT_GPU_TEST_APART"


def _runs_on_gpu(item: pytest.Item) -> bool:
    return "gpu" in item.keywords and torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _as_before(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set back what a test has changed."""
    if not _runs_on_gpu(request.node):
        yield
        return
    device, stream, default = torch.cuda.current_device(), torch.cuda.current_stream(), torch.get_default_device()
    dtype = torch.get_default_dtype()
    torch.manual_seed(0)
    try:
        yield
    finally:
        if torch.get_default_device() != default:
            torch.set_default_device(None)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(True)
        torch.cuda.set_device(device)
        torch.cuda.set_stream(stream)
        torch.cuda.synchronize()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """After a test, end a process in which no other can succeed."""
    result = yield
    if _runs_on_gpu(item) and (error := _ruin()):
        message = f"after {item.nodeid} CUDA gives {error}: no other test can run in this process"
        # What a worker of pytest-xdist is told.
        if hasattr(item.config, "workerinput"):
            print(message, file=sys.__stderr__, flush=True)
            os._exit(1)
        pytest.exit(message, returncode=1)
    return result


def _ruin() -> str | None:
    """Return the error that does not go away; None if the device answers."""
    # Most errors are told once.
    with contextlib.suppress(RuntimeError):
        torch.cuda.synchronize()
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return next(iter(str(error).splitlines()), "an error")
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is marked "apart" in a process of its own."""
    if "apart" not in pyfuncitem.keywords or APART in os.environ or not _runs_on_gpu(pyfuncitem):
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", pyfuncitem.nodeid]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | {APART: "1"}
    done = subprocess.run(
        command, cwd=pyfuncitem.config.rootpath, env=environment, capture_output=True, text=True, timeout=300
    )
    lines = done.stdout.splitlines()
    if done.returncode:
        # The first line is what tables show.
        reason = next((line.removeprefix("E ").strip() for line in lines if line.startswith("E ")), "no reason told")
        pytest.fail(f"{reason} (in a process of its own)\n{done.stdout}\n{done.stderr}", pytrace=False)
    if skipped := next((line for line in lines if line.startswith("SKIPPED")), None):
        pytest.skip(skipped)
    return True
