"""Run the command line; print its exit status as JSON."""

from __future__ import annotations

import json
import sys

from operant_gpu.cli import main

if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
