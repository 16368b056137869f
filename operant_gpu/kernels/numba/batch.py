"""The kernels of the numba backend: many steps, and resets, of any environment, whose programs arrive as addresses.

Environments are taken in blocks, whose columns the compiled programs of the environment work on (see `block.py`
and `backends/numba/source.py`). A block stays in the first-level cache for all steps of a rollout. Loops over its rows
have no branches, so that they become vector instructions; what concerns few rows, such as resets, gathers them first.

The reference that they are tested against is the NumPy backend.
"""

from __future__ import annotations

from typing import Any

from numba import carray, float32, float64, int32, int64, uint32

from operant_gpu.kernels.numba.block import (
    ACTIVE,
    ELAPSED,
    ENDED,
    ENV_ID,
    EPISODE,
    REWARD,
    TERMINATED,
    TRUNCATED,
    batch_at,
    blocks_in,
    call_at,
    load_actions,
    load_block,
    observe,
    show,
    show_final_obs,
    show_outcome,
    show_present,
    store_block,
)
from operant_gpu.kernels.numba.mathematics import call, lowest_bit, set_bits
from operant_gpu.kernels.numba.memory import (
    BLOCK,
    PITCH,
    RETURN,
    SEED,
    UNSIGNED_BYTE,
    copy_row,
    copy_state,
    doubles,
    doubles_at,
    floats,
    ints,
    ints_at,
    kernel,
    load,
    longs,
    longs_at,
)
from operant_gpu.memory.records import DISABLED, NEXT_STEP, SAME_STEP

# Where columns begin, for loops over several: at fixed distances from one start, which the vectorizer can tell apart.
_ELAPSED, _ENDED = ELAPSED * PITCH, ENDED * PITCH
_TERMINATED, _TRUNCATED, _ACTIVE = TERMINATED * PITCH, TRUNCATED * PITCH, ACTIVE * PITCH


@kernel
def _rows_where(narrow: Any, slot: Any, value: Any, rows: Any, n: Any) -> int:
    """Gather the rows whose flag has this value; return how many they are."""
    m = 0
    inverted = uint32(0) if value else ~uint32(0)
    for first in range(0, n, 32):
        bits = uint32(set_bits(narrow + 4 * (PITCH * slot + first)) ^ inverted)
        if n - first < 32:
            bits &= uint32((1 << (n - first)) - 1)
        while bits:
            rows[m] = first + lowest_bit(bits)
            bits = uint32(bits & (bits - uint32(1)))
            m += 1
    return m


@kernel
def _count(address: Any, base: Any, narrow: Any, slot: Any, value: Any, rows: Any, n: Any) -> None:
    """Add 1 to an int64 column of memory where a flag has this value."""
    for j in range(_rows_where(narrow, slot, value, rows, n)):
        longs_at(address + 8 * (base + rows[j]))[0] += 1


@kernel
def _begin_clock(batch: Any, narrow: Any, wide: Any, n: Any) -> None:
    """Read the clock, the return and the metrics of an episode that ended as they begin."""
    whole, total = ints_at(narrow), doubles(wide, RETURN)
    for k in range(n):
        whole[_ELAPSED + k] = int32(0) if whole[_ENDED + k] else whole[_ELAPSED + k]
    for k in range(n):
        total[k] = 0.0 if whole[_ENDED + k] else total[k]
    for i in range(batch.num_metrics):
        metric, start = doubles(wide, batch.metrics_slot + i), doubles_at(batch.starts)[i]
        for k in range(n):
            metric[k] = start if whole[_ENDED + k] else metric[k]


@kernel
def _find_active(batch: Any, call_: Any, base: Any, narrow: Any, rows: Any, n: Any) -> None:
    """Leave in ACTIVE the rows that take their action, and count those that should have but cannot."""
    if batch.mode == SAME_STEP:
        _count(batch.bad_actions, base, narrow, ACTIVE, False, rows, n)
        return
    whole = ints_at(narrow)
    for k in range(n):
        active, ended = whole[_ACTIVE + k], whole[_ENDED + k]
        whole[_TRUNCATED + k] = active | ended
        whole[_ACTIVE + k] = active & (ended ^ int32(1))
    _count(batch.bad_actions, base, narrow, TRUNCATED, False, rows, n)
    if batch.mode == DISABLED and call_.counts_late:
        _count(batch.late_steps, base, narrow, ENDED, True, rows, n)


@kernel
def _advance(batch: Any, narrow: Any, wide: Any, kept: Any, kept_wide: Any, rows: Any, n: Any) -> None:
    """Take the step of the active rows; the others keep their state."""
    idle = _rows_where(narrow, ACTIVE, False, rows, n)
    if idle:
        copy_state(narrow, wide, kept, kept_wide, batch, n)
    call(batch.step, narrow, wide, n, batch.tables)
    for j in range(idle):
        copy_row(kept, kept_wide, rows[j], narrow, wide, rows[j], batch, batch.wide)
        floats(narrow, REWARD)[rows[j]] = float32(0.0)
        ints(narrow, TERMINATED)[rows[j]] = 0


@kernel
def _finish(narrow: Any, wide: Any, limit: Any, n: Any) -> None:
    """Move the clock and the statistics of active rows on; leave in ACTIVE what ended."""
    whole, reward, total, last = ints_at(narrow), floats(narrow, REWARD), doubles(wide, RETURN), int32(limit)
    for k in range(n):
        active = whole[_ACTIVE + k]
        elapsed = int32(whole[_ELAPSED + k] + active)
        truncated = active & int32(elapsed >= last)
        whole[_ELAPSED + k] = elapsed
        whole[_TRUNCATED + k] = truncated
        whole[_ACTIVE + k] = whole[_TERMINATED + k] | truncated
    for k in range(n):
        total[k] += float64(reward[k])


@kernel
def _log(batch: Any, base: Any, narrow: Any, wide: Any, rows: Any, m: Any) -> None:
    """Add the episodes that ended at the given rows to the logs."""
    for j in range(m):
        at = base + rows[j]
        longs_at(batch.log_count + 8 * at)[0] += 1
        doubles_at(batch.log_return + 8 * at)[0] += doubles(wide, RETURN)[rows[j]]
        longs_at(batch.log_length + 8 * at)[0] += int64(ints(narrow, ELAPSED)[rows[j]])
        for i in range(batch.num_metrics):
            metric = doubles(wide, batch.metrics_slot + i)[rows[j]]
            doubles_at(batch.log_metrics + 8 * (i * batch.num_envs + at))[0] += metric


@kernel
def _begin_episodes(
    batch: Any, base: Any, narrow: Any, wide: Any, fresh: Any, fresh_wide: Any, rows: Any, m: Any
) -> None:
    """Reset the given rows, in a block of their own, and copy them back."""
    for j in range(m):
        row = rows[j]
        episode = int32(ints_at(batch.episode)[base + row] + 1)
        ints_at(batch.episode)[base + row] = ints(narrow, EPISODE)[row] = ints(fresh, EPISODE)[j] = episode
        longs(fresh_wide, SEED)[j] = longs_at(batch.seed)[base + row]
        ints(fresh, ENV_ID)[j] = ints_at(batch.env_id)[base + row]
        ints(fresh, ELAPSED)[j] = 0
        for slot in range(batch.state_end, batch.params_end):
            ints(fresh, slot)[j] = ints(narrow, slot)[row]
        for slot in range(batch.noted, batch.metrics_slot):
            longs(fresh_wide, slot)[j] = longs(wide, slot)[row]
    if batch.draw_params:
        call(batch.draw_params, fresh, fresh_wide, m, batch.tables)
    call(batch.reset, fresh, fresh_wide, m, batch.tables)
    for j in range(m):
        copy_row(fresh, fresh_wide, j, narrow, wide, rows[j], batch, batch.metrics_slot)


@kernel
def _observe_rows(batch: Any, narrow: Any, wide: Any, fresh: Any, fresh_wide: Any, rows: Any, m: Any) -> None:
    """Observe the block of fresh rows, and copy the observations to their places."""
    observe(batch, fresh, fresh_wide, m)
    for component in range(batch.obs_size):
        slot = longs_at(batch.obs_slots)[component]
        # The others are columns of the state itself.
        if slot >= batch.state_end:
            for j in range(m):
                ints(narrow, slot)[rows[j]] = ints(fresh, slot)[j]
    for slot in range(batch.noted, batch.metrics_slot):
        for j in range(m):
            longs(wide, slot)[rows[j]] = longs(fresh_wide, slot)[j]


@kernel
def _end(narrow: Any, keep: Any, n: Any) -> None:
    """Remember what ended in this step and, with `keep`, before it."""
    whole = ints_at(narrow)
    for k in range(n):
        whole[_ENDED + k] = whole[_ACTIVE + k] | (whole[_ENDED + k] & keep)


@kernel
def _run_block(batch: Any, call_: Any, base: Any, n: Any, num_steps: Any, space: Any) -> None:
    """Take all steps of a block."""
    narrow, fresh, kept, wide, fresh_wide, kept_wide, rows_address = space
    active, rows = ints(narrow, ACTIVE), ints_at(rows_address)
    observed = False
    for step in range(num_steps):
        if batch.mode != DISABLED:
            _begin_clock(batch, narrow, wide, n)
        show(batch, call_, step, base, narrow, wide, observed, n)
        for k in range(n):
            active[k] = 1
        if call_.actions:
            load_actions(batch, call_, step, base, narrow, n)
        _find_active(batch, call_, base, narrow, rows, n)
        _advance(batch, narrow, wide, kept, kept_wide, rows, n)
        _finish(narrow, wide, batch.limit, n)
        show_outcome(call_, step, base, narrow, wide, n)
        m = _rows_where(narrow, ACTIVE, True, rows, n)
        _log(batch, base, narrow, wide, rows, m)

        observed = call_.final_obs != 0
        if observed and batch.mode == SAME_STEP:
            show_final_obs(batch, call_, step, base, narrow, wide, n)
        if batch.mode == NEXT_STEP:
            m = _rows_where(narrow, ENDED, True, rows, n)
        if m and batch.mode != DISABLED:
            _begin_episodes(batch, base, narrow, wide, fresh, fresh_wide, rows, m)
            if observed and batch.mode == SAME_STEP:
                _observe_rows(batch, narrow, wide, fresh, fresh_wide, rows, m)
        if observed and batch.mode != SAME_STEP:
            show_final_obs(batch, call_, step, base, narrow, wide, n)
        _end(narrow, int32(batch.mode == DISABLED), n)
    show_present(batch, call_, base, narrow, wide, observed, n)


def rollout(batch_address: Any, call_address: Any, workspace: Any, first: Any, last: Any, num_steps: Any) -> None:
    """Take `num_steps` steps of the environments from `first` up to `last`."""
    batch, call_ = carray(batch_at(batch_address), 1)[0], carray(call_at(call_address), 1)[0]
    space = blocks_in(batch, workspace)
    for base in range(first, last, BLOCK):
        n = min(BLOCK, last - base)
        load_block(batch, base, space[0], space[3], batch.draws or not call_.actions, n)
        _run_block(batch, call_, base, n, num_steps, space)
        store_block(batch, base, space[0], space[3], n)


def reset(batch_address: Any, call_address: Any, workspace: Any, first: Any, last: Any, mask: Any) -> None:
    """Begin new episodes where the bytes of `mask` are not 0, of the environments from `first` up to `last`."""
    batch, call_ = carray(batch_at(batch_address), 1)[0], carray(call_at(call_address), 1)[0]
    narrow, fresh, _, wide, fresh_wide, _, rows_address = blocks_in(batch, workspace)
    rows = ints_at(rows_address)
    for base in range(first, last, BLOCK):
        n = min(BLOCK, last - base)
        load_block(batch, base, narrow, wide, False, n)
        load(mask, UNSIGNED_BYTE, base, narrow, wide, ACTIVE, n)
        m = _rows_where(narrow, ACTIVE, True, rows, n)
        if m:
            _begin_episodes(batch, base, narrow, wide, fresh, fresh_wide, rows, m)
            for j in range(m):
                ints(narrow, ELAPSED)[rows[j]] = 0
                doubles(wide, RETURN)[rows[j]] = 0.0
                ints(narrow, ENDED)[rows[j]] = 0
                for i in range(batch.num_metrics):
                    doubles(wide, batch.metrics_slot + i)[rows[j]] = doubles_at(batch.starts)[i]
        show_present(batch, call_, base, narrow, wide, False, n)
        if m or batch.noted < batch.metrics_slot:
            store_block(batch, base, narrow, wide, n)
