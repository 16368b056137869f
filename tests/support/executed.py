"""Programs whose kernels are compiled and run on the executor, as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from here import PYTHONPATH, ROOT, SUPPORT


def executed(program: str, *arguments: str, package: Path = ROOT) -> Any:
    """Return the JSON of a program's last line.

    Args:
        program: Its name in this folder.
        arguments: What it is given.
        package: Where to find operant_gpu.
    """
    pytest.importorskip("triton", reason="compilation needs Triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(package), PYTHONPATH])
    command = [sys.executable, str(SUPPORT / program), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
