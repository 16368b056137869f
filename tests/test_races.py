"""Compiled kernels in a random order of warps, with a detector of races: see `races.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="compilation needs Triton")
HERE = Path(__file__).parent


def test_warps_that_share_environments_do_not_race() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE)])
    # A network; as many threads as rows; more threads.
    command = [sys.executable, str(HERE / "races.py"), "0", "16", "100"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    launches = json.loads(done.stdout.splitlines()[-1])
    assert launches.keys() == {"step_kernel", "reset_kernel", "rollout_kernel", "draw_kernel"}
