"""Tell how far floats of compiled kernels are from NumPy's after a step from the same state; draws must be equal.

Run as a program: `python tests/support/ulps.py CAPABILITY [ID ...]`, for all environments with floats unless some are
named. An ulp is the spacing of float32 numbers at a component's largest over the batch. Results are once as exact as
float32 can be, then with errors of approximate instructions as the ISA allows them. The last line is JSON: of each
environment the ulps without errors, the most with them, and how many steps had other integers in all.
"""

from __future__ import annotations

import functools
import json
import re
import sys

from contract_envs import MAKERS
from gymnasium.vector import AutoresetMode
from ptx_executor.kernels import Executor
from ptx_executor.operant import install

from operant_gpu.verification import stepping

SEEDS = (1, 2, 3)
NUM_ENVS, STEPS, LIMIT = 100, 40, 30
_TOLD = re.compile(r"floats within (\S+) ulps, integers equal(?: but in (\d+))?")


def apart(name: str) -> tuple[float, int]:
    """Return ulps, and of how many steps integers differ."""
    make = functools.partial(MAKERS[name], device="cpu", backend="triton")
    ulps, others = _TOLD.search(stepping.compare_steps(make, "numpy", AutoresetMode.SAME_STEP)).groups(default="0")
    return float(ulps), int(others)


if __name__ == "__main__":
    driver = install(capability=int(sys.argv[1]))
    stepping.NUM_ENVS, stepping.STEPS, stepping.LIMIT = NUM_ENVS, STEPS, LIMIT
    table = {}
    for name in sys.argv[2:] or sorted(MAKERS):
        found = []
        for seed in (None, *SEEDS):
            driver.executor = Executor(approximation=seed)
            found.append(apart(name))
        exact, *moved = [ulps for ulps, _ in found]
        table[name] = exact, max(moved), sum(others for _, others in found)
        print(f"{name:28} {exact:6.3g} {max(moved):6.3g} {table[name][2]}", flush=True)
    print(json.dumps(table))
