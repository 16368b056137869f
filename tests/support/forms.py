"""List what the executor refuses of the library's kernels: `python tests/support/forms.py 90 steps networks`.

The number is a compute capability times ten; kinds of kernels are those of `aot.py`, whose cache is used. The last line
is JSON: how many kernels there are, how often each form of an instruction stands in them, and why a kernel is refused.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

import triton
from aot import NoGPU, all_launches, compile_launch
from ptx_executor import PtxError
from ptx_executor.compiler import Compiler
from ptx_executor.syntax import parse
from ptx_executor.triton_driver import shared_memory_of
from triton.runtime import driver

if __name__ == "__main__":
    target, *kinds = int(sys.argv[1]), *sys.argv[2:]
    driver.set_active(NoGPU())
    # What ptxas says is kept beside each kernel.
    triton.knobs.nvidia.dump_ptxas_log = True
    forms: Counter[str] = Counter()
    kernels, refused = 0, {}
    for launch in (launch for kind in kinds for launch in all_launches(kind)):
        if launch.is_large and shared_memory_of(target) <= 101_376:
            continue
        module = parse(compile_launch(launch, target)[0].asm["ptx"])
        kernels += 1
        for function in module.functions.values():
            forms.update(".".join((one.opcode, *one.modifiers)) for one in function.body)
            try:
                Compiler(module, function, dict.fromkeys(module.variables, 0)).program()
            except PtxError as error:
                refused[f"{function.name} {launch.environment} {launch.variant}"] = str(error)
    print(json.dumps({"kernels": kernels, "forms": dict(sorted(forms.items())), "refused": refused}))
