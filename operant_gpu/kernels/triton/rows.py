"""Rows of environments copied onto others, all columns in one launch.

Arguments of the kernel:
    sources, targets: Tuples of columns, (rows,) or (rows, cells), with their strides in elements.
    source_rows_ptr, target_rows_ptr: Which rows, (num_pairs,); None for the first ones.
    misses_ptr: Where to count pairs with a row that does not exist, int64 ().
    own_ids_ptr, counts_ptr: `NewStreams`; None if branches draw as their sources do.
    GATHERED: Whether `sources` has the sources alone, in the order of the pairs; `num_sources` is as it was before.
    SIZES: Cells of each column, 0 for (rows,). BLOCK: Pairs per program, a power of two.
The reference is `backends/rows.py`, in NumPy.
"""

from __future__ import annotations

import triton
import triton.language as tl

from operant_gpu.kernels.triton.blocks import load, places, settle
from operant_gpu.memory.rows import CLOCK
from operant_gpu.random import BRANCH_STREAM, Rng
from operant_gpu.sampling import branch_seed

# The first of the columns.
SEED, ENV_ID = tl.constexpr(CLOCK.index("seed")), tl.constexpr(CLOCK.index("env_id"))


@triton.jit
def _row(ptr, pair, exists):
    """Return the rows of pairs: as many, one after the other, if nobody says which."""
    if ptr is None:
        return pair
    else:
        return load(ptr, pair, exists).to(tl.int64)


@triton.jit(do_not_specialize=["num_sources", "num_targets", "num_pairs"])
def copy_rows_kernel(
    sources,
    source_strides,
    source_rows_ptr,
    num_sources,
    targets,
    target_strides,
    target_rows_ptr,
    num_targets,
    num_pairs,
    misses_ptr,
    own_ids_ptr,
    counts_ptr,
    GATHERED: tl.constexpr,
    SIZES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Copy row number `source_rows[i]` of `sources` onto row `target_rows[i]` of `targets`, for each pair i.

    No row may be written that another pair reads. A pair with a row that does not exist is counted; what is new memory
    has zeros for it, and other targets stay.
    """
    pair = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = pair < num_pairs
    source, target = _row(source_rows_ptr, pair, exists), _row(target_rows_ptr, pair, exists)
    has_source = exists & (source >= 0) & (source < num_sources)
    found = has_source & (target >= 0) & (target < num_targets)
    if GATHERED:
        # Pairs without a source were counted before.
        missed, source = has_source & ~found, pair
    else:
        missed = exists & ~found
    tl.atomic_add(misses_ptr + pair * 0, missed.to(tl.int64), mask=missed)
    written = found
    if target_rows_ptr is None and not GATHERED:
        written = exists
    # Of branches with draws of their own, the first two are not their sources'.
    for i in tl.static_range(0 if counts_ptr is None else ENV_ID + 1, len(SIZES)):
        if SIZES[i] == 0:
            block = tl.load(sources[i] + source * source_strides[i][0], mask=found, other=0)
            tl.store(targets[i] + target * target_strides[i][0], block, mask=written)
        else:
            at, is_cell = places(source, found, source_strides[i][0], source_strides[i][1], SIZES[i])
            block = tl.load(sources[i] + at, mask=is_cell, other=0)
            at, is_cell = places(target, written, target_strides[i][0], target_strides[i][1], SIZES[i])
            tl.store(targets[i] + at, block, mask=is_cell)
    if counts_ptr is not None:
        own_id, given = load(own_ids_ptr, target, found), load(counts_ptr, target, found)
        seed, lower, upper = load(sources[SEED], source, found), given.to(tl.int32), (given >> 32).to(tl.int32)
        seed = branch_seed(Rng(seed, own_id, lower, upper, BRANCH_STREAM))
        settle(pair)
        tl.store(targets[SEED] + target, seed, mask=found)
        tl.store(targets[ENV_ID] + target, own_id, mask=found)
        tl.store(counts_ptr + target, given + 1, mask=found)
