"""The step and reset kernels: one launch for any environment, whose functions arrive as compile-time constants.

Arguments of both kernels:
    state_ptr: NamedTuple of column pointers, one per field of the state, each (num_envs,), or an array cell by cell.
    params_ptr: Tuple of pointers, one per parameter in memory, () or (num_envs,); None if there are none.
    tables_ptr: Tuple of pointers, one per table, and last where indices beyond them are noted, or None; None if there
        are none.
    columns: `Columns` of pointers, each (num_envs,).
    outputs, strides: `Outputs` of pointers, and of tuples of their strides in elements.
    ENV: What is compiled in of the environment. BLOCK: Environments per program, a power of two.
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
    begin_metrics,
    choose,
    draw_params,
    load,
    load_action,
    load_clock,
    load_metrics,
    load_params,
    load_state,
    log_metrics,
    new_episode,
    settle,
    show,
    store_clock,
    store_metrics,
    store_observation,
    store_params,
    store_state,
    transition,
)


@triton.jit
def step_kernel(
    state_ptr,
    params_ptr,
    tables_ptr,
    columns,
    num_envs,
    action_ptr,
    action_strides,
    outputs,
    strides,
    ENV: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Advance every environment by one action, in any of the three auto-reset modes."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = row < num_envs
    old = load_state(state_ptr, row, mask, num_envs, ENV)
    params = load_params(params_ptr, row, mask, ENV)
    seed, env_id, episode, elapsed, episode_return, waiting = load_clock(columns, row, mask)
    metrics = load_metrics(columns.metrics, row, mask, num_envs, ENV)
    blocks, valid = load_action(action_ptr, row, mask, action_strides, ENV.ACTIONS)
    active = valid
    bad = mask & ~valid
    if ENV.MODE != DISABLED:
        elapsed = tl.where(waiting, 0, elapsed)
        episode_return = tl.where(waiting, 0.0, episode_return)
        metrics = begin_metrics(metrics, waiting, ENV)
    if ENV.MODE != SAME_STEP:
        active = valid & ~waiting
        bad = bad & ~waiting
    # The first of all stores: state and clock have settled with it.
    add(columns.bad_actions, row, 1, bad)

    clock = seed, env_id, episode, elapsed, episode_return
    state, reward, terminated, truncated, elapsed, episode_return, metrics = transition(
        old, params, tables_ptr, row, blocks, active, clock, metrics, ENV
    )
    done = terminated | truncated
    add(columns.log_count, row, 1, done)
    add(columns.log_return, row, episode_return, done)
    add(columns.log_length, row, elapsed, done)
    log_metrics(columns.log_metrics, metrics, row, done, num_envs, ENV)

    ended = done
    if ENV.MODE == SAME_STEP:
        final = ENV.OBSERVE(state, *ENV.GIVEN(params, tables_ptr, row, mask))
        store_observation(outputs.final_obs, final, row, mask, strides.final_obs, ENV.OBS_SIZE)
        episode += done.to(tl.int32)
        params = draw_params(columns, row, done, episode, params, ENV)
        fresh = new_episode(columns, row, done, episode, params, tables_ptr, ENV)
        state = ENV.STATE(*choose(done, fresh, state, ENV))
    elif ENV.MODE == NEXT_STEP:
        episode += waiting.to(tl.int32)
        params = draw_params(columns, row, waiting, episode, params, ENV)
        fresh = new_episode(columns, row, waiting, episode, params, tables_ptr, ENV)
        state = ENV.STATE(*choose(waiting, fresh, state, ENV))
    else:
        add(columns.late_steps, row, 1, waiting)
        ended = done | waiting

    store_state(state_ptr, state, row, mask, num_envs, ENV)
    store_params(params_ptr, params, row, mask, ENV)
    show(state, params, tables_ptr, row, mask, outputs, strides, ENV)
    store_clock(columns, row, mask, episode, elapsed, episode_return, ended)
    store_metrics(columns.metrics, metrics, row, mask, num_envs, ENV)
    tl.store(outputs.reward + row, reward, mask=mask)
    tl.store(outputs.terminated + row, terminated, mask=mask)
    tl.store(outputs.truncated + row, truncated, mask=mask)


@triton.jit
def reset_kernel(
    state_ptr,
    params_ptr,
    tables_ptr,
    columns,
    num_envs,
    reset_mask_ptr,
    outputs,
    strides,
    ENV: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Begin a new episode where the mask holds; write every row's observation and action mask."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = row < num_envs
    chosen = load(reset_mask_ptr, row, mask) != 0
    old = load_state(state_ptr, row, mask, num_envs, ENV)
    params = load_params(params_ptr, row, mask, ENV)
    episode = load(columns.episode, row, mask) + 1
    params = draw_params(columns, row, chosen, episode, params, ENV)
    fresh = new_episode(columns, row, chosen, episode, params, tables_ptr, ENV)
    state = ENV.STATE(*choose(chosen, fresh, old, ENV))
    settle(row)
    store_state(state_ptr, state, row, chosen, num_envs, ENV)
    store_params(params_ptr, params, row, chosen, ENV)
    show(state, params, tables_ptr, row, mask, outputs, strides, ENV)
    store_clock(columns, row, chosen, episode, 0, 0.0, False)
    store_metrics(columns.metrics, ENV.STARTS, row, chosen, num_envs, ENV)
