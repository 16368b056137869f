"""The kernels of the numba backend: many steps, and resets, of any environment, whose programs arrive as addresses.

Environments are taken in blocks, whose columns the compiled programs of the environment work on (see `memory.py`
and `backends/numba_source.py`). A block stays in the first-level cache for all steps of a rollout. Loops over its rows
have no branches, so that they become vector instructions; what concerns few rows, such as resets, gathers them first.

The reference that they are tested against is the NumPy backend.

Their cache on disk notices changes of this file alone: after one of `mathematics.py`, `memory.py` or the records of
`memory/records.py`, touch it.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import carray, cfunc, float32, int32, int64, types, uint32

from operant_gpu.kernels.numba.mathematics import call, lowest_bit, pointer_to, set_bits
from operant_gpu.kernels.numba.memory import (
    BLOCK,
    EIGHT_BYTES,
    FOUR_BYTES,
    PITCH,
    UNSIGNED_BYTE,
    copy_row,
    copy_state,
    floats,
    floats_at,
    ints,
    ints_at,
    kernel,
    load,
    longs,
    longs_at,
    store,
    store_components,
)
from operant_gpu.memory.records import CALL, FLOAT32, INT64, record_dtype

# The first columns of a block's 4-byte stretch, and the first of its 8-byte one.
ENV_ID, EPISODE, ELAPSED, RETURN, ENDED, REWARD, TERMINATED, TRUNCATED, ACTIVE, FREE = map(np.int64, range(10))
SEED = np.int64(0)

# Where they begin, for loops over several: at fixed distances from one start, which the vectorizer can tell apart.
_ELAPSED, _RETURN, _ENDED = ELAPSED * PITCH, RETURN * PITCH, ENDED * PITCH
_REWARD, _TERMINATED, _TRUNCATED, _ACTIVE = REWARD * PITCH, TERMINATED * PITCH, TRUNCATED * PITCH, ACTIVE * PITCH

SAME_STEP, NEXT_STEP, DISABLED = range(3)


# Where a column of the state is, how it lies there, and its place in the block.
COLUMN = ("address", "kind", "slot")
# What is the same for every call: addresses of columns and of programs (0 for none), and places in the block.
LAYOUT = (
    *("mode", "limit", "narrow", "wide", "state", "num_columns"),
    *("seed", "env_id", "episode", "elapsed", "episode_return", "ended"),
    *("log_count", "log_return", "log_length", "bad_actions", "late_steps"),
    *("step", "reset", "observe", "mask", "random", "draws"),
    *("action_slots", "action_size", "low", "high", "state_slot", "state_end"),
    *("obs_slots", "obs_size", "obs_kind", "obs_bytes", "mask_slots", "mask_size"),
)
_columns, _layout, _call = (pointer_to(numba.from_dtype(record_dtype(names))) for names in (COLUMN, LAYOUT, CALL))


@kernel
def _load_block(layout: Any, base: Any, narrow: Any, wide: Any, draws: Any, n: Any) -> None:
    for column in carray(_columns(layout.state), layout.num_columns):
        load(column.address, column.kind, base, narrow, wide, column.slot, n)
    load(layout.elapsed, FOUR_BYTES, base, narrow, wide, ELAPSED, n)
    load(layout.episode_return, FOUR_BYTES, base, narrow, wide, RETURN, n)
    load(layout.ended, UNSIGNED_BYTE, base, narrow, wide, ENDED, n)
    if draws:
        load(layout.episode, FOUR_BYTES, base, narrow, wide, EPISODE, n)
        load(layout.seed, EIGHT_BYTES, base, narrow, wide, SEED, n)
        load(layout.env_id, FOUR_BYTES, base, narrow, wide, ENV_ID, n)


@kernel
def _store_block(layout: Any, base: Any, narrow: Any, wide: Any, n: Any) -> None:
    for column in carray(_columns(layout.state), layout.num_columns):
        store(column.address, column.kind, base, narrow, wide, column.slot, n)
    store(layout.elapsed, FOUR_BYTES, base, narrow, wide, ELAPSED, n)
    store(layout.episode_return, FOUR_BYTES, base, narrow, wide, RETURN, n)
    store(layout.ended, UNSIGNED_BYTE, base, narrow, wide, ENDED, n)


@kernel
def _load_actions(layout: Any, call_: Any, step: Any, base: Any, narrow: Any, n: Any) -> None:
    """Bring given actions into the block, and into ACTIVE whether they are valid."""
    for i in range(layout.action_size):
        first = step * call_.actions_step + base * call_.actions_row + i * call_.actions_column
        target, active = narrow + 4 * PITCH * longs_at(layout.action_slots)[i], narrow + 4 * _ACTIVE
        if call_.actions_kind == FLOAT32:
            _take_floats(floats_at(call_.actions + 4 * first), call_.actions_row, floats_at(target), ints_at(active), n)
            continue
        low, high = longs_at(layout.low)[i], longs_at(layout.high)[i]
        if call_.actions_kind == INT64:
            source = longs_at(call_.actions + 8 * first)
            _take_integers(source, call_.actions_row, ints_at(target), ints_at(active), low, high, n)
        else:
            narrow_source = ints_at(call_.actions + 4 * first)
            _take_integers(narrow_source, call_.actions_row, ints_at(target), ints_at(active), low, high, n)


@kernel
def _take_integers(source: Any, stride: Any, target: Any, valid: Any, low: Any, high: Any, n: Any) -> None:
    # Two loops: the vectorizer tells two arrays apart, but not three.
    if stride == 1:
        for k in range(n):
            target[k] = int32(source[k])
        for k in range(n):
            valid[k] &= int32((source[k] >= low) & (source[k] < high))
    else:
        for k in range(n):
            target[k] = int32(source[k * stride])
            valid[k] &= int32((source[k * stride] >= low) & (source[k * stride] < high))


@kernel
def _take_floats(source: Any, stride: Any, target: Any, valid: Any, n: Any) -> None:
    for k in range(n):
        target[k] = source[k * stride]
    for k in range(n):
        valid[k] &= int32(abs(target[k]) < np.inf)


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
    """Add 1 to an int32 column of memory where a flag has this value."""
    for j in range(_rows_where(narrow, slot, value, rows, n)):
        ints_at(address + 4 * (base + rows[j]))[0] += 1


@kernel
def _begin_clock(narrow: Any, n: Any) -> None:
    """Read the clock and the return of an episode that ended as zero."""
    whole, real = ints_at(narrow), floats_at(narrow)
    for k in range(n):
        ended = whole[_ENDED + k]
        whole[_ELAPSED + k] = int32(0) if ended else whole[_ELAPSED + k]
        real[_RETURN + k] = float32(0.0) if ended else real[_RETURN + k]


@kernel
def _find_active(layout: Any, call_: Any, base: Any, narrow: Any, rows: Any, n: Any) -> None:
    """Leave in ACTIVE the rows that take their action, and count those that should have but cannot."""
    if layout.mode == SAME_STEP:
        _count(layout.bad_actions, base, narrow, ACTIVE, False, rows, n)
        return
    whole = ints_at(narrow)
    for k in range(n):
        active, ended = whole[_ACTIVE + k], whole[_ENDED + k]
        whole[_TRUNCATED + k] = active | ended
        whole[_ACTIVE + k] = active & (ended ^ int32(1))
    _count(layout.bad_actions, base, narrow, TRUNCATED, False, rows, n)
    if layout.mode == DISABLED and call_.counts_late:
        _count(layout.late_steps, base, narrow, ENDED, True, rows, n)


@kernel
def _advance(layout: Any, narrow: Any, wide: Any, kept: Any, kept_wide: Any, rows: Any, n: Any) -> None:
    """Take the step of the active rows; the others keep their state."""
    idle = _rows_where(narrow, ACTIVE, False, rows, n)
    if idle:
        copy_state(narrow, wide, kept, kept_wide, layout, n)
    call(layout.step, narrow, wide, n)
    for j in range(idle):
        copy_row(kept, kept_wide, rows[j], narrow, wide, rows[j], layout)
        floats(narrow, REWARD)[rows[j]] = float32(0.0)
        ints(narrow, TERMINATED)[rows[j]] = 0


@kernel
def _finish(narrow: Any, limit: Any, n: Any) -> None:
    """Move the clock and the statistics of active rows on; leave in ACTIVE what ended."""
    whole, real, last = ints_at(narrow), floats_at(narrow), int32(limit)
    for k in range(n):
        active = whole[_ACTIVE + k]
        elapsed = int32(whole[_ELAPSED + k] + active)
        truncated = active & int32(elapsed >= last)
        whole[_ELAPSED + k] = elapsed
        real[_RETURN + k] += real[_REWARD + k]
        whole[_TRUNCATED + k] = truncated
        whole[_ACTIVE + k] = whole[_TERMINATED + k] | truncated


@kernel
def _log(layout: Any, base: Any, narrow: Any, rows: Any, m: Any) -> None:
    """Add the episodes that ended at the given rows to the logs."""
    for j in range(m):
        at = base + rows[j]
        ints_at(layout.log_count + 4 * at)[0] += 1
        floats_at(layout.log_return + 4 * at)[0] += floats(narrow, RETURN)[rows[j]]
        longs_at(layout.log_length + 8 * at)[0] += int64(ints(narrow, ELAPSED)[rows[j]])


@kernel
def _begin_episodes(
    layout: Any, base: Any, narrow: Any, wide: Any, fresh: Any, fresh_wide: Any, rows: Any, m: Any
) -> None:
    """Reset the given rows, in a block of their own, and copy them back."""
    for j in range(m):
        row = rows[j]
        episode = int32(ints_at(layout.episode)[base + row] + 1)
        ints_at(layout.episode)[base + row] = ints(narrow, EPISODE)[row] = ints(fresh, EPISODE)[j] = episode
        longs(fresh_wide, SEED)[j] = longs_at(layout.seed)[base + row]
        ints(fresh, ENV_ID)[j] = ints_at(layout.env_id)[base + row]
        ints(fresh, ELAPSED)[j] = 0
    call(layout.reset, fresh, fresh_wide, m)
    for j in range(m):
        copy_row(fresh, fresh_wide, j, narrow, wide, rows[j], layout)


@kernel
def _observe(layout: Any, narrow: Any, wide: Any, n: Any) -> None:
    """Compute the components of the observation that are not columns of the state."""
    if layout.observe:
        call(layout.observe, narrow, wide, n)


@kernel
def _observe_rows(layout: Any, narrow: Any, fresh: Any, fresh_wide: Any, rows: Any, m: Any) -> None:
    """Observe the block of fresh rows, and copy the observations to their places."""
    _observe(layout, fresh, fresh_wide, m)
    for component in range(layout.obs_size):
        slot = longs_at(layout.obs_slots)[component]
        # The others are columns of the state itself.
        if slot >= layout.state_end:
            for j in range(m):
                ints(narrow, slot)[rows[j]] = ints(fresh, slot)[j]


@kernel
def _show(layout: Any, call_: Any, step: Any, base: Any, narrow: Any, wide: Any, observed: Any, n: Any) -> None:
    """Store what a policy sees, and draw the actions that are not given."""
    if call_.obs:
        if not observed:
            _observe(layout, narrow, wide, n)
        address = call_.obs + layout.obs_bytes * step * call_.obs_step
        row, column, slots = call_.obs_row, call_.obs_column, layout.obs_slots
        store_components(address, layout.obs_kind, row, column, layout.obs_size, base, narrow, slots, n)
    if call_.mask:
        call(layout.mask, narrow, wide, n)
        row, column, slots = call_.mask_row, call_.mask_column, layout.mask_slots
        address = call_.mask + step * call_.mask_step
        store_components(address, UNSIGNED_BYTE, row, column, layout.mask_size, base, narrow, slots, n)
    if not call_.actions:
        call(layout.random, narrow, wide, n)
    if call_.action:
        row, column, slots = call_.action_row, call_.action_column, layout.action_slots
        kind, width = (EIGHT_BYTES, 8) if call_.action_kind == INT64 else (FOUR_BYTES, 4)
        address = call_.action + width * step * call_.action_step
        store_components(address, kind, row, column, layout.action_size, base, narrow, slots, n)


@kernel
def _show_outcome(call_: Any, step: Any, base: Any, narrow: Any, wide: Any, n: Any) -> None:
    """Store reward and flags."""
    if call_.reward:
        store(call_.reward + 4 * step * call_.reward_step, FOUR_BYTES, base, narrow, wide, REWARD, n)
    if call_.terminated:
        store(call_.terminated + step * call_.terminated_step, UNSIGNED_BYTE, base, narrow, wide, TERMINATED, n)
    if call_.truncated:
        store(call_.truncated + step * call_.truncated_step, UNSIGNED_BYTE, base, narrow, wide, TRUNCATED, n)


@kernel
def _show_final_obs(layout: Any, call_: Any, step: Any, base: Any, narrow: Any, wide: Any, n: Any) -> None:
    _observe(layout, narrow, wide, n)
    address = call_.final_obs + layout.obs_bytes * step * call_.final_obs_step
    row, column, slots = call_.final_obs_row, call_.final_obs_column, layout.obs_slots
    store_components(address, layout.obs_kind, row, column, layout.obs_size, base, narrow, slots, n)


@kernel
def _show_present(layout: Any, call_: Any, base: Any, narrow: Any, wide: Any, observed: Any, n: Any) -> None:
    """Write the observation and the action mask of the state as it is now."""
    if not observed:
        _observe(layout, narrow, wide, n)
    row, column, slots = call_.present_obs_row, call_.present_obs_column, layout.obs_slots
    store_components(call_.present_obs, layout.obs_kind, row, column, layout.obs_size, base, narrow, slots, n)
    if call_.present_mask:
        call(layout.mask, narrow, wide, n)
        row, column, slots = call_.present_mask_row, call_.present_mask_column, layout.mask_slots
        store_components(call_.present_mask, UNSIGNED_BYTE, row, column, layout.mask_size, base, narrow, slots, n)


@kernel
def _end(narrow: Any, keep: Any, n: Any) -> None:
    """Remember what ended in this step and, with `keep`, before it."""
    whole = ints_at(narrow)
    for k in range(n):
        whole[_ENDED + k] = whole[_ACTIVE + k] | (whole[_ENDED + k] & keep)


@kernel
def _run_block(layout: Any, call_: Any, base: Any, n: Any, num_steps: Any, space: Any) -> None:
    """Take all steps of a block."""
    narrow, fresh, kept, wide, fresh_wide, kept_wide, rows_address = space
    active, rows = ints(narrow, ACTIVE), ints_at(rows_address)
    observed = False
    for step in range(num_steps):
        if layout.mode != DISABLED:
            _begin_clock(narrow, n)
        _show(layout, call_, step, base, narrow, wide, observed, n)
        for k in range(n):
            active[k] = 1
        if call_.actions:
            _load_actions(layout, call_, step, base, narrow, n)
        _find_active(layout, call_, base, narrow, rows, n)
        _advance(layout, narrow, wide, kept, kept_wide, rows, n)
        _finish(narrow, layout.limit, n)
        _show_outcome(call_, step, base, narrow, wide, n)
        m = _rows_where(narrow, ACTIVE, True, rows, n)
        _log(layout, base, narrow, rows, m)

        observed = call_.final_obs != 0
        if observed and layout.mode == SAME_STEP:
            _show_final_obs(layout, call_, step, base, narrow, wide, n)
        if layout.mode == NEXT_STEP:
            m = _rows_where(narrow, ENDED, True, rows, n)
        if m and layout.mode != DISABLED:
            _begin_episodes(layout, base, narrow, wide, fresh, fresh_wide, rows, m)
            if observed and layout.mode == SAME_STEP:
                _observe_rows(layout, narrow, fresh, fresh_wide, rows, m)
        if observed and layout.mode != SAME_STEP:
            _show_final_obs(layout, call_, step, base, narrow, wide, n)
        _end(narrow, int32(layout.mode == DISABLED), n)
    _show_present(layout, call_, base, narrow, wide, observed, n)


@kernel
def _space(layout: Any, workspace: Any) -> Any:
    """Return the addresses of three blocks, their 8-byte parts, and a list of rows."""
    narrow, wide = 4 * PITCH * layout.narrow, 8 * PITCH * layout.wide
    second = workspace + 3 * wide
    return (
        second,
        second + narrow,
        second + 2 * narrow,
        workspace,
        workspace + wide,
        workspace + 2 * wide,
        (second + 3 * narrow),
    )


def workspace_bytes(narrow: int, wide: int) -> int:
    """Return the memory that a kernel works in, for blocks of so many columns."""
    return 4 * PITCH * (3 * narrow + 1) + 8 * PITCH * 3 * wide


@cfunc(types.void(*[types.intp] * 6), error_model="numpy", cache=True)
def rollout(layout_address: Any, call_address: Any, workspace: Any, first: Any, last: Any, num_steps: Any) -> None:
    """Take `num_steps` steps of the environments from `first` up to `last`."""
    layout, call_ = carray(_layout(layout_address), 1)[0], carray(_call(call_address), 1)[0]
    space = _space(layout, workspace)
    for base in range(first, last, BLOCK):
        n = min(BLOCK, last - base)
        _load_block(layout, base, space[0], space[3], layout.draws or not call_.actions, n)
        _run_block(layout, call_, base, n, num_steps, space)
        _store_block(layout, base, space[0], space[3], n)


@cfunc(types.void(*[types.intp] * 6), error_model="numpy", cache=True)
def reset(layout_address: Any, call_address: Any, workspace: Any, first: Any, last: Any, mask: Any) -> None:
    """Begin new episodes where the bytes of `mask` are not 0, of the environments from `first` up to `last`."""
    layout, call_ = carray(_layout(layout_address), 1)[0], carray(_call(call_address), 1)[0]
    narrow, fresh, _, wide, fresh_wide, _, rows_address = _space(layout, workspace)
    rows = ints_at(rows_address)
    for base in range(first, last, BLOCK):
        n = min(BLOCK, last - base)
        _load_block(layout, base, narrow, wide, False, n)
        load(mask, UNSIGNED_BYTE, base, narrow, wide, ACTIVE, n)
        m = _rows_where(narrow, ACTIVE, True, rows, n)
        if m:
            _begin_episodes(layout, base, narrow, wide, fresh, fresh_wide, rows, m)
            for j in range(m):
                ints(narrow, ELAPSED)[rows[j]] = 0
                floats(narrow, RETURN)[rows[j]] = float32(0.0)
                ints(narrow, ENDED)[rows[j]] = 0
            _store_block(layout, base, narrow, wide, n)
        _show_present(layout, call_, base, narrow, wide, False, n)
