"""Where the tests are, and which backends of `Environment` run on the CPU of this process.

Triton's kernels run compiled, on the executor (`ptx_executor`), with PTX_EXECUTE=1, and in Triton's interpreter with
TRITON_INTERPRET=1, which Triton reads when kernels are decorated: each has processes of its own.
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
EXECUTED = os.environ.get("PTX_EXECUTE") == "1"
HAS_TRITON = INTERPRETED or EXECUTED
BACKENDS = ["numpy", "triton"] if HAS_TRITON else ["numpy", "numba"]
