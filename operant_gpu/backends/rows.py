"""Rows of environments copied onto others, on a CPU: what `kernels/triton/rows.py` does on a GPU."""

from __future__ import annotations

import numpy as np

from operant_gpu.backends.base import numpy_view
from operant_gpu.backends.lowering.operations import NumpyRng
from operant_gpu.backends.lowering.programs import lower_to_numpy
from operant_gpu.lang import constexpr_value
from operant_gpu.memory.rows import Copy
from operant_gpu.random import BRANCH_STREAM
from operant_gpu.sampling import branch_seed

# Below so many rows the calls for each cell take longer.
_FEW = 256
_BRANCH_STREAM, _branch_seed = constexpr_value(BRANCH_STREAM), lower_to_numpy(branch_seed)


def copy_rows(copy: Copy) -> None:
    """Copy rows onto rows. That all of them exist, whoever calls has seen."""
    first, (sources, targets, streams) = slice(copy.pairs), (copy.sources, copy.targets, copy.streams)
    source, target = (first if rows is None else numpy_view(rows) for rows in (copy.source_rows, copy.target_rows))
    seeds = numpy_view(sources.clock["seed"])[source].copy() if streams is not None else None
    for given, column in zip(sources.columns, targets.columns, strict=True):
        read, written = numpy_view(given), numpy_view(column)
        if read.ndim == 1 or copy.pairs < _FEW:
            written[target] = read[source]
            continue
        # As they lie in memory: NumPy takes a third of the time.
        for cell in range(read.shape[1]):
            written[target, cell] = read[source, cell]
    if streams is not None:
        env_ids, counts = numpy_view(streams.env_ids)[target], numpy_view(streams.counts)
        lower, upper = counts[target].astype(np.int32), (counts[target] >> 32).astype(np.int32)
        rng = NumpyRng(seeds, env_ids, lower, upper, _BRANCH_STREAM)
        numpy_view(targets.clock["seed"])[target] = _branch_seed(rng)
        numpy_view(targets.clock["env_id"])[target] = env_ids
        counts[target] += 1
