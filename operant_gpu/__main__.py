"""`python -m operant_gpu` does what `operant-gpu` does."""

import sys

from operant_gpu.cli import main

sys.exit(main())
