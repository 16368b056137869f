"""A block of environments of the numba backend: its columns, and what goes in and out of them.

The records say where a batch and a call have their memory; compiled programs work on the columns (`backends/numba`).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import carray, int32

from operant_gpu.kernels.numba.mathematics import call, pointer_to
from operant_gpu.kernels.numba.memory import (
    EIGHT_BYTES,
    FOUR_BYTES,
    PITCH,
    RETURN,
    SEED,
    UNSIGNED_BYTE,
    fill,
    floats_at,
    ints_at,
    kernel,
    load,
    longs_at,
    store,
    store_components,
)
from operant_gpu.memory.records import CALL, FLOAT32, INT64, record_dtype

# The first columns of a block's 4-byte stretch.
ENV_ID, EPISODE, ELAPSED, ENDED, REWARD, TERMINATED, TRUNCATED, ACTIVE, FREE = map(np.int64, range(9))

# Where a column is, how it lies there, and its place in the block. Of state and parameters: `num_columns` that are
# stored again, those of the state and what is drawn, up to `num_loaded` that are not, then `num_shared` of one number.
STATE_COLUMN = ("address", "kind", "slot")
# What is the same for every call: addresses of columns and of programs (0 for none), and places in the block.
BATCH = (
    *("mode", "limit", "narrow", "wide", "state", "num_columns", "num_loaded", "num_shared"),
    *("seed", "env_id", "episode", "elapsed", "episode_return", "ended"),
    *("log_count", "log_return", "log_length", "bad_actions", "late_steps", "num_envs"),
    *("step", "draw_params", "reset", "observe", "mask", "random", "draws"),
    *("action_slots", "action_size", "low", "high", "state_slot", "state_end", "params_end"),
    *("obs_slots", "obs_size", "obs_kind", "obs_bytes", "mask_slots", "mask_size"),
    # Of tables their addresses. Of 8-byte columns: where what is noted of bad indices is, which goes with an episode's
    # first state, and the first of the metrics, whose starts and sums of episodes lie at addresses.
    *("tables", "noted", "metrics_slot", "num_metrics", "starts", "log_metrics"),
)
_columns, batch_at, call_at = (
    pointer_to(numba.from_dtype(record_dtype(names))) for names in (STATE_COLUMN, BATCH, CALL)
)


@kernel
def load_block(batch: Any, base: Any, narrow: Any, wide: Any, draws: Any, n: Any) -> None:
    """Load state, parameters and clock of `n` environments; with `draws`, also what random numbers are functions of."""
    columns = carray(_columns(batch.state), batch.num_loaded + batch.num_shared)
    for column in columns[: batch.num_loaded]:
        load(column.address, column.kind, base, narrow, wide, column.slot, n)
    for column in columns[batch.num_loaded :]:
        fill(column.address, column.kind, narrow, column.slot, n)
    load(batch.elapsed, FOUR_BYTES, base, narrow, wide, ELAPSED, n)
    load(batch.episode_return, EIGHT_BYTES, base, narrow, wide, RETURN, n)
    load(batch.ended, UNSIGNED_BYTE, base, narrow, wide, ENDED, n)
    if draws:
        load(batch.episode, FOUR_BYTES, base, narrow, wide, EPISODE, n)
        load(batch.seed, EIGHT_BYTES, base, narrow, wide, SEED, n)
        load(batch.env_id, FOUR_BYTES, base, narrow, wide, ENV_ID, n)


@kernel
def store_block(batch: Any, base: Any, narrow: Any, wide: Any, n: Any) -> None:
    """Store state, what was drawn, and clock."""
    for column in carray(_columns(batch.state), batch.num_columns):
        store(column.address, column.kind, base, narrow, wide, column.slot, n)
    store(batch.elapsed, FOUR_BYTES, base, narrow, wide, ELAPSED, n)
    store(batch.episode_return, EIGHT_BYTES, base, narrow, wide, RETURN, n)
    store(batch.ended, UNSIGNED_BYTE, base, narrow, wide, ENDED, n)


@kernel
def load_actions(batch: Any, call_: Any, step: Any, base: Any, narrow: Any, n: Any) -> None:
    """Bring given actions into the block, and into ACTIVE whether they are valid."""
    for i in range(batch.action_size):
        first = step * call_.actions_step + base * call_.actions_row + i * call_.actions_column
        target, active = narrow + 4 * PITCH * longs_at(batch.action_slots)[i], narrow + 4 * ACTIVE * PITCH
        if call_.actions_kind == FLOAT32:
            _take_floats(floats_at(call_.actions + 4 * first), call_.actions_row, floats_at(target), ints_at(active), n)
            continue
        low, high = longs_at(batch.low)[i], longs_at(batch.high)[i]
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
def observe(batch: Any, narrow: Any, wide: Any, n: Any) -> None:
    """Compute the components of the observation that are not columns of the state."""
    if batch.observe:
        call(batch.observe, narrow, wide, n, batch.tables)


@kernel
def show(batch: Any, call_: Any, step: Any, base: Any, narrow: Any, wide: Any, observed: Any, n: Any) -> None:
    """Store what a policy sees, and draw the actions that are not given."""
    if call_.obs:
        if not observed:
            observe(batch, narrow, wide, n)
        address = call_.obs + batch.obs_bytes * step * call_.obs_step
        row, column, slots = call_.obs_row, call_.obs_column, batch.obs_slots
        store_components(address, batch.obs_kind, row, column, batch.obs_size, base, narrow, slots, n)
    if call_.action_mask:
        call(batch.mask, narrow, wide, n, batch.tables)
        row, column, slots = call_.action_mask_row, call_.action_mask_column, batch.mask_slots
        address = call_.action_mask + step * call_.action_mask_step
        store_components(address, UNSIGNED_BYTE, row, column, batch.mask_size, base, narrow, slots, n)
    if not call_.actions:
        call(batch.random, narrow, wide, n, batch.tables)
    if call_.action:
        row, column, slots = call_.action_row, call_.action_column, batch.action_slots
        kind, width = (EIGHT_BYTES, 8) if call_.action_kind == INT64 else (FOUR_BYTES, 4)
        address = call_.action + width * step * call_.action_step
        store_components(address, kind, row, column, batch.action_size, base, narrow, slots, n)


@kernel
def show_outcome(call_: Any, step: Any, base: Any, narrow: Any, wide: Any, n: Any) -> None:
    """Store reward and flags."""
    if call_.reward:
        store(call_.reward + 4 * step * call_.reward_step, FOUR_BYTES, base, narrow, wide, REWARD, n)
    if call_.terminated:
        store(call_.terminated + step * call_.terminated_step, UNSIGNED_BYTE, base, narrow, wide, TERMINATED, n)
    if call_.truncated:
        store(call_.truncated + step * call_.truncated_step, UNSIGNED_BYTE, base, narrow, wide, TRUNCATED, n)


@kernel
def show_final_obs(batch: Any, call_: Any, step: Any, base: Any, narrow: Any, wide: Any, n: Any) -> None:
    """Store what follows the step."""
    observe(batch, narrow, wide, n)
    address = call_.final_obs + batch.obs_bytes * step * call_.final_obs_step
    row, column, slots = call_.final_obs_row, call_.final_obs_column, batch.obs_slots
    store_components(address, batch.obs_kind, row, column, batch.obs_size, base, narrow, slots, n)


@kernel
def show_present(batch: Any, call_: Any, base: Any, narrow: Any, wide: Any, observed: Any, n: Any) -> None:
    """Write the observation and the action mask of the state as it is now."""
    if not observed:
        observe(batch, narrow, wide, n)
    row, column, slots = call_.present_obs_row, call_.present_obs_column, batch.obs_slots
    store_components(call_.present_obs, batch.obs_kind, row, column, batch.obs_size, base, narrow, slots, n)
    if call_.present_mask:
        call(batch.mask, narrow, wide, n, batch.tables)
        row, column, slots = call_.present_mask_row, call_.present_mask_column, batch.mask_slots
        store_components(call_.present_mask, UNSIGNED_BYTE, row, column, batch.mask_size, base, narrow, slots, n)


@kernel
def blocks_in(batch: Any, workspace: Any) -> Any:
    """Return the addresses of three blocks, their 8-byte parts, and a list of rows."""
    narrow, wide = 4 * PITCH * batch.narrow, 8 * PITCH * batch.wide
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
