"""The step and reset kernels: one launch for any environment, whose functions arrive as compile-time constants.

Arguments of both kernels:
    state_ptr: NamedTuple of column pointers, one per field of `STATE`, each (num_envs,).
    columns: `Columns` of pointers, each (num_envs,).
    *_row, *_column: Strides in elements of a (num_envs, size) tensor.
    STATE, RNG: Make the NamedTuples of their fields. PARAMS: The environment's constants.
    RESET, STEP, OBSERVE, ACTION_MASK: The environment's jit functions; the last may be None.
    BLOCK: Environments per program, a power of two.
The reference they are tested against is the NumPy backend.
"""

from __future__ import annotations

import triton
import triton.language as tl

from operant_gpu.random import RESET_STREAM, STEP_STREAM

SAME_STEP = tl.constexpr(0)
NEXT_STEP = tl.constexpr(1)
DISABLED = tl.constexpr(2)


@triton.jit
def _load(ptr, row, mask):
    return tl.load(ptr + row, mask=mask, other=0)


@triton.jit
def _where(condition, chosen, other):
    """Return the fields of `chosen` where the condition holds, in the dtypes of `other`'s."""
    fields = ()
    for i in tl.static_range(len(other)):
        # A block of its own first, then the cast: `where` of a float and an int takes both through float32.
        block = tl.where(condition, chosen[i], 0).to(other[i].dtype)
        fields = fields + (tl.where(condition, block, other[i]),)
    return fields


@triton.jit
def _store_state(state_ptr, state, row, mask):
    for i in tl.static_range(len(state)):
        tl.store(state_ptr[i] + row, state[i], mask=mask)


@triton.jit
def _store_components(ptr, components, row, mask, row_stride, column_stride, DTYPE: tl.constexpr):
    # A stride of num_envs times a component leaves 32 bits on large devices.
    column_stride = tl.cast(column_stride, tl.int64)
    for i in tl.static_range(len(components)):
        # A component may be a plain number: `where` makes a block of it.
        block = tl.where(mask, components[i], 0).to(DTYPE)
        tl.store(ptr + row * row_stride + i * column_stride, block, mask=mask)


@triton.jit
def _load_action(
    action_ptr, row, mask, action_row, action_column, LOW: tl.constexpr, HIGH: tl.constexpr, SIZE: tl.constexpr
):
    """Return a tuple of int32 or float32 blocks, and where all of them are valid."""
    valid = mask
    blocks = ()
    action_column = tl.cast(action_column, tl.int64)
    for i in tl.static_range(SIZE):
        block = tl.load(action_ptr + row * action_row + i * action_column, mask=mask, other=0)
        if len(LOW) > 0:
            valid = valid & (block >= LOW[i]) & (block < HIGH[i])
            blocks = blocks + (block.to(tl.int32),)
        else:
            valid = valid & (tl.abs(block) < float("inf"))
            blocks = blocks + (block,)
    return blocks, valid


@triton.jit
def _add(ptr, row, amount, mask):
    """Add to a column where `mask` holds; elsewhere its memory is not touched."""
    tl.store(ptr + row, tl.load(ptr + row, mask=mask, other=0) + amount, mask=mask)


@triton.jit
def _new_episode(columns, row, mask, episode, RNG: tl.constexpr, PARAMS: tl.constexpr, RESET: tl.constexpr):
    """Return the first state of the given episodes; the streams of rows outside `mask` are not even read."""
    seed, env_id = _load(columns.seed, row, mask), _load(columns.env_id, row, mask)
    return RESET(RNG(seed, env_id, episode, tl.zeros_like(episode), RESET_STREAM), PARAMS)


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
    RNG: tl.constexpr,
    PARAMS: tl.constexpr,
    RESET: tl.constexpr,
    STEP: tl.constexpr,
    OBSERVE: tl.constexpr,
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
    old = STATE(*[tl.load(ptr + row, mask=mask, other=0) for ptr in state_ptr])
    waiting = _load(columns.ended, row, mask) != 0
    episode = _load(columns.episode, row, mask)
    elapsed = _load(columns.elapsed, row, mask)
    episode_return = _load(columns.episode_return, row, mask)
    blocks, valid = _load_action(action_ptr, row, mask, action_row, action_column, LOW, HIGH, SIZE)
    if SCALAR:
        action = blocks[0]
    else:
        action = blocks

    active = valid
    bad = mask & ~valid
    if MODE != DISABLED:
        elapsed = tl.where(waiting, 0, elapsed)
        episode_return = tl.where(waiting, 0.0, episode_return)
    if MODE != SAME_STEP:
        active = valid & ~waiting
        bad = bad & ~waiting
    _add(columns.bad_actions, row, 1, bad)

    seed, env_id = _load(columns.seed, row, mask), _load(columns.env_id, row, mask)
    rng = RNG(seed, env_id, episode, elapsed, STEP_STREAM)
    stepped, reward, terminated = STEP(old, action, rng, PARAMS)
    state = STATE(*_where(active, stepped, old))
    reward = tl.where(active, reward, 0.0).to(tl.float32)
    terminated = tl.where(active, terminated, False).to(tl.int1)

    elapsed += active.to(tl.int32)
    episode_return += reward
    truncated = active & (elapsed >= LIMIT)
    done = terminated | truncated
    _add(columns.log_count, row, 1, done)
    _add(columns.log_return, row, episode_return, done)
    _add(columns.log_length, row, elapsed, done)

    ended = done
    if MODE == SAME_STEP:
        components = OBSERVE(state, PARAMS)
        _store_components(outputs.final_obs, components, row, mask, final_row, final_column, tl.float32)
        episode += done.to(tl.int32)
        state = STATE(*_where(done, _new_episode(columns, row, done, episode, RNG, PARAMS, RESET), state))
    elif MODE == NEXT_STEP:
        episode += waiting.to(tl.int32)
        state = STATE(*_where(waiting, _new_episode(columns, row, waiting, episode, RNG, PARAMS, RESET), state))
    else:
        _add(columns.late_steps, row, 1, waiting)
        ended = done | waiting

    _store_state(state_ptr, state, row, mask)
    _store_components(outputs.obs, OBSERVE(state, PARAMS), row, mask, obs_row, obs_column, tl.float32)
    if ACTION_MASK is not None:
        conditions = ACTION_MASK(state, PARAMS)
        _store_components(outputs.action_mask, conditions, row, mask, mask_row, mask_column, tl.int1)
    tl.store(columns.episode + row, episode, mask=mask)
    tl.store(columns.elapsed + row, elapsed, mask=mask)
    tl.store(columns.episode_return + row, episode_return, mask=mask)
    tl.store(columns.ended + row, ended, mask=mask)
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
    RNG: tl.constexpr,
    PARAMS: tl.constexpr,
    RESET: tl.constexpr,
    OBSERVE: tl.constexpr,
    ACTION_MASK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Begin a new episode where the mask holds; write every row's observation and action mask."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = row < num_envs
    chosen = _load(reset_mask_ptr, row, mask) != 0
    old = STATE(*[tl.load(ptr + row, mask=mask, other=0) for ptr in state_ptr])
    episode = _load(columns.episode, row, mask) + 1
    state = STATE(*_where(chosen, _new_episode(columns, row, chosen, episode, RNG, PARAMS, RESET), old))
    _store_state(state_ptr, state, row, chosen)
    _store_components(obs_ptr, OBSERVE(state, PARAMS), row, mask, obs_row, obs_column, tl.float32)
    if ACTION_MASK is not None:
        conditions = ACTION_MASK(state, PARAMS)
        _store_components(action_mask_ptr, conditions, row, mask, mask_row, mask_column, tl.int1)
    tl.store(columns.episode + row, episode, mask=chosen)
    tl.store(columns.elapsed + row, 0, mask=chosen)
    tl.store(columns.episode_return + row, 0.0, mask=chosen)
    tl.store(columns.ended + row, False, mask=chosen)
