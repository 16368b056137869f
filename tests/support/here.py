"""Where the tests are, and which backends of `Environment` run on the CPU of this process.

Triton reads TRITON_INTERPRET when kernels are decorated, so its interpreter has processes of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

SUPPORT = Path(__file__).parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent
# For a process that imports the library, what is in this folder, and what this process does.
PYTHONPATH = os.pathsep.join(
    [str(ROOT), str(SUPPORT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BACKENDS = ["numpy", "triton"] if INTERPRETED else ["numpy", "numba"]
