"""`VecEnv`: many environments of one definition, stepped together, with Gymnasium's interface.

In come a definition, settings and actions; tensors on the device come out, in the memory that backends write. It checks
all that users give (`checks.py`, `actions.py`), takes environments out of a batch and puts them back (`snapshots.py`),
keeps steps that go wrong (`faults.py`) and takes them apart (`explaining.py`). It knows neither how a backend computes
nor what learns.
"""

from operant_gpu.backends.lowering.watching import Statement
from operant_gpu.vector.env import VecEnv
from operant_gpu.vector.explaining import Explanation
from operant_gpu.vector.faults import Faults, StepFault
from operant_gpu.vector.snapshots import Snapshot

__all__ = ["Explanation", "Faults", "Snapshot", "Statement", "StepFault", "VecEnv"]
