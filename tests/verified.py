"""Run the command line with the executor of compiled kernels for a GPU: `python tests/verified.py doctor --verify`.

With a number in place of a command, so many checks of CartPole are made and printed as JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile

os.environ.setdefault("TRITON_CACHE_DIR", os.path.join(tempfile.gettempdir(), "ptx-executor"))

from ptx_executor.cuda_on_host import pretend
from ptx_executor.operant import install

from operant_gpu.cli import main
from operant_gpu.verification import examine

if __name__ == "__main__":
    install()
    pretend()
    first, *more = sys.argv[1:]
    if not first.isdecimal():
        sys.exit(main([first, *more]))
    print(json.dumps([check._asdict() for check in itertools.islice(examine("CartPole-v1"), int(first))]))
