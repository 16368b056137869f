"""The step and reset kernels: one launch for any environment, whose functions arrive as compile-time constants.

Arguments of both kernels:
    state_ptr: NamedTuple of column pointers, one per field of `STATE`, each (num_envs,), or an array cell by cell.
    columns: `Columns` of pointers, each (num_envs,).
    *_row, *_column: Strides in elements of a (num_envs, size) tensor.
    STATE, RNG: Make the NamedTuples of their fields. PARAMS: The environment's constants.
    ARRAYS: Size of the array in each field of the state, 0 for a number. OBS_SIZE: Numbers in an observation.
    RESET, STEP, OBSERVE, ACTION_MASK: The environment's jit functions; the last may be None.
    BLOCK: Environments per program, a power of two.
The reference they are tested against is the NumPy backend.
"""

from __future__ import annotations

import triton
import triton.language as tl

from operant_gpu.kernels.triton.blocks import (
    DISABLED,
    NEXT_STEP,
    SAME_STEP,
    add,
    choose,
    load,
    load_action,
    load_clock,
    load_state,
    new_episode,
    settle,
    show,
    store_clock,
    store_observation,
    store_state,
    transition,
)


@triton.jit
def step_kernel(
    state_ptr,
    columns,
    action_ptr,
    action_row,
    action_column,
    outputs,
    obs_row,
    obs_column,
    final_row,
    final_column,
    mask_row,
    mask_column,
    num_envs,
    STATE: tl.constexpr,
    ARRAYS: tl.constexpr,
    RNG: tl.constexpr,
    PARAMS: tl.constexpr,
    RESET: tl.constexpr,
    STEP: tl.constexpr,
    OBSERVE: tl.constexpr,
    OBS_SIZE: tl.constexpr,
    ACTION_MASK: tl.constexpr,
    LOW: tl.constexpr,
    HIGH: tl.constexpr,
    SIZE: tl.constexpr,
    SCALAR: tl.constexpr,
    LIMIT: tl.constexpr,
    MODE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Advance every environment by one action, in any of the three auto-reset modes."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = row < num_envs
    old = load_state(state_ptr, row, mask, num_envs, STATE, ARRAYS)
    seed, env_id, episode, elapsed, episode_return, waiting = load_clock(columns, row, mask)
    blocks, valid = load_action(action_ptr, row, mask, action_row, action_column, LOW, HIGH, SIZE)
    active = valid
    bad = mask & ~valid
    if MODE != DISABLED:
        elapsed = tl.where(waiting, 0, elapsed)
        episode_return = tl.where(waiting, 0.0, episode_return)
    if MODE != SAME_STEP:
        active = valid & ~waiting
        bad = bad & ~waiting
    # The first of all stores: state and clock have settled with it.
    add(columns.bad_actions, row, 1, bad)

    clock = seed, env_id, episode, elapsed, episode_return
    state, reward, terminated, truncated, elapsed, episode_return = transition(
        old, blocks, active, clock, STATE, ARRAYS, RNG, PARAMS, STEP, SCALAR, LIMIT
    )
    done = terminated | truncated
    add(columns.log_count, row, 1, done)
    add(columns.log_return, row, episode_return, done)
    add(columns.log_length, row, elapsed, done)

    ended = done
    if MODE == SAME_STEP:
        components = OBSERVE(state, PARAMS)
        store_observation(outputs.final_obs, components, row, mask, final_row, final_column, OBS_SIZE)
        episode += done.to(tl.int32)
        state = STATE(*choose(done, new_episode(columns, row, done, episode, RNG, PARAMS, RESET), state, ARRAYS))
    elif MODE == NEXT_STEP:
        episode += waiting.to(tl.int32)
        state = STATE(*choose(waiting, new_episode(columns, row, waiting, episode, RNG, PARAMS, RESET), state, ARRAYS))
    else:
        add(columns.late_steps, row, 1, waiting)
        ended = done | waiting

    store_state(state_ptr, state, row, mask, num_envs, ARRAYS)
    show(state, row, mask, outputs.obs, obs_row, obs_column, outputs.action_mask, mask_row, mask_column,
         PARAMS, OBSERVE, OBS_SIZE, ACTION_MASK)  # fmt: skip
    store_clock(columns, row, mask, episode, elapsed, episode_return, ended)
    tl.store(outputs.reward + row, reward, mask=mask)
    tl.store(outputs.terminated + row, terminated, mask=mask)
    tl.store(outputs.truncated + row, truncated, mask=mask)


@triton.jit
def reset_kernel(
    state_ptr,
    columns,
    reset_mask_ptr,
    obs_ptr,
    action_mask_ptr,
    obs_row,
    obs_column,
    mask_row,
    mask_column,
    num_envs,
    STATE: tl.constexpr,
    ARRAYS: tl.constexpr,
    RNG: tl.constexpr,
    PARAMS: tl.constexpr,
    RESET: tl.constexpr,
    OBSERVE: tl.constexpr,
    OBS_SIZE: tl.constexpr,
    ACTION_MASK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Begin a new episode where the mask holds; write every row's observation and action mask."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = row < num_envs
    chosen = load(reset_mask_ptr, row, mask) != 0
    old = load_state(state_ptr, row, mask, num_envs, STATE, ARRAYS)
    episode = load(columns.episode, row, mask) + 1
    state = STATE(*choose(chosen, new_episode(columns, row, chosen, episode, RNG, PARAMS, RESET), old, ARRAYS))
    settle(row)
    store_state(state_ptr, state, row, chosen, num_envs, ARRAYS)
    show(state, row, mask, obs_ptr, obs_row, obs_column, action_mask_ptr, mask_row, mask_column,
         PARAMS, OBSERVE, OBS_SIZE, ACTION_MASK)  # fmt: skip
    store_clock(columns, row, chosen, episode, 0, 0.0, False)
