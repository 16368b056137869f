"""Verify an environment's kernels, compiled for the executor: `python tests/support/verified.py ID REGEX` prints JSON.

Those checks are made whose names match, with few environments and steps.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from ptx_executor.cuda_on_host import pretend
from ptx_executor.operant import install

from operant_gpu.verification import Check, examine, learning, report, stepping

if __name__ == "__main__":
    install()
    pretend()
    made, chosen = report._made, re.compile(sys.argv[2])

    def made_if_chosen(name: str, *arguments: Any) -> Check:
        return made(name, *arguments) if chosen.search(name) else Check(name, "not made", "")

    report._made = made_if_chosen
    stepping.NUM_ENVS, stepping.STEPS, learning._ITERATIONS = 44, 5, 1
    print(json.dumps([check._asdict() for check in examine(sys.argv[1]) if check.state != "not made"]))
