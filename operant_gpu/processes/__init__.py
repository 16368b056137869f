"""Processes that train together: what they compute in common, where they meet, and how all of them end if one does.

What carries the numbers is torch.distributed: NCCL between GPUs, gloo between CPUs. `Processes` is one process by
itself (`alone.py`), `Group` several (`group.py`); threads in each look whether the others live (`watch.py`). Nothing
here knows what is learned.
"""

from operant_gpu.processes.alone import (
    ALONE,
    BEGINNING,
    CHECKPOINT,
    END_OF_ITERATION,
    EVALUATION,
    FAILED,
    FAULTY,
    STOP,
    Processes,
    merged_moments,
)
from operant_gpu.processes.group import Group
from operant_gpu.processes.joining import distributed, present, started_rank

__all__ = [
    "ALONE",
    "BEGINNING",
    "CHECKPOINT",
    "END_OF_ITERATION",
    "EVALUATION",
    "FAILED",
    "FAULTY",
    "STOP",
    "Group",
    "Processes",
    "distributed",
    "merged_moments",
    "present",
    "started_rank",
]
