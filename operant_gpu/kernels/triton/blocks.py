"""What the step, reset and rollout kernels share: loads and stores of blocks, and one step of the semantics.

Blocks are of `BLOCK` environments; `row` are their numbers, int64, and `mask` where they exist. The transition and the
reset stand here once, so that a rollout cannot differ from as many steps.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import num_threads

from operant_gpu.arrays import cells
from operant_gpu.random import RESET_STREAM, STEP_STREAM

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
SAME_STEP = tl.constexpr(0)
NEXT_STEP = tl.constexpr(1)
DISABLED = tl.constexpr(2)


@triton.jit
def settle(row):
    """Let every warp load before any stores, where there are more threads than environments.

    Each warp then loads a copy of its own of the same numbers, and one of them stores: nothing else keeps a late one
    from loading what is new.
    """
    if not INTERPRETED and row.shape[0] < num_threads():
        tl.debug_barrier()


@triton.jit
def load(ptr, row, mask):
    """Return a block of a column; 0 where there is no environment."""
    return tl.load(ptr + row, mask=mask, other=0)


@triton.jit
def choose(condition, chosen, other, ARRAYS: tl.constexpr):
    """Return the fields of `chosen` where the condition holds, in the dtypes of `other`'s; 0 beyond arrays."""
    fields = ()
    for i in tl.static_range(len(other)):
        if ARRAYS[i] == 0:
            where = condition
            exists = condition
        else:
            where = condition[:, None]
            exists = where & (cells(ARRAYS[i]) < ARRAYS[i])
        # A block of its own first, then the cast: `where` of a float and an int takes both through float32.
        block = tl.where(exists, chosen[i], 0).to(other[i].dtype)
        fields = fields + (tl.where(where, block, other[i]),)
    return fields


@triton.jit
def _cells(row, mask, row_stride, cell_stride, SIZE: tl.constexpr):
    """Return where the cells of the environments' arrays are, and which exist: blocks (BLOCK, width)."""
    cell = cells(SIZE)
    return row[:, None] * row_stride + cell * tl.cast(cell_stride, tl.int64), mask[:, None] & (cell < SIZE)


@triton.jit
def _array_stride(num_envs):
    # As `memory.allocation.array_stride` has it.
    return (tl.cdiv(num_envs, 64) | 1) * 64


@triton.jit
def load_state(state_ptr, row, mask, num_envs, STATE: tl.constexpr, ARRAYS: tl.constexpr):
    """Return the state, 0 beyond arrays; `ARRAYS` has the size of each field's, 0 for a number."""
    fields = ()
    for i in tl.static_range(len(ARRAYS)):
        if ARRAYS[i] == 0:
            fields = fields + (tl.load(state_ptr[i] + row, mask=mask, other=0),)
        else:
            at, exists = _cells(row, mask, 1, _array_stride(num_envs), ARRAYS[i])
            fields = fields + (tl.load(state_ptr[i] + at, mask=exists, other=0),)
    return STATE(*fields)


@triton.jit
def store_state(state_ptr, state, row, mask, num_envs, ARRAYS: tl.constexpr):
    """Write every field of a state."""
    for i in tl.static_range(len(ARRAYS)):
        if ARRAYS[i] == 0:
            tl.store(state_ptr[i] + row, state[i], mask=mask)
        else:
            at, exists = _cells(row, mask, 1, _array_stride(num_envs), ARRAYS[i])
            tl.store(state_ptr[i] + at, state[i], mask=exists)


@triton.jit
def load_clock(columns, row, mask):
    """Return seed, env_id, episode, elapsed, episode_return, and whether the episode has ended."""
    seed, env_id = load(columns.seed, row, mask), load(columns.env_id, row, mask)
    episode, elapsed = load(columns.episode, row, mask), load(columns.elapsed, row, mask)
    episode_return, ended = load(columns.episode_return, row, mask), load(columns.ended, row, mask) != 0
    return seed, env_id, episode, elapsed, episode_return, ended


@triton.jit
def store_clock(columns, row, mask, episode, elapsed, episode_return, ended):
    """Write what a step or a reset changes of the clock."""
    tl.store(columns.episode + row, episode, mask=mask)
    tl.store(columns.elapsed + row, elapsed, mask=mask)
    tl.store(columns.episode_return + row, episode_return, mask=mask)
    tl.store(columns.ended + row, ended, mask=mask)


@triton.jit
def store_components(ptr, components, row, mask, row_stride, column_stride):
    """Write components, blocks or plain numbers, to an array with any strides."""
    # A stride of num_envs times a component leaves 32 bits on large devices.
    column_stride = tl.cast(column_stride, tl.int64)
    for i in tl.static_range(len(components)):
        # A component may be a plain number: `where` makes a block of it.
        block = tl.where(mask, components[i], 0).to(ptr.dtype.element_ty)
        tl.store(ptr + row * row_stride + i * column_stride, block, mask=mask)


@triton.jit
def store_observation(ptr, components, row, mask, row_stride, column_stride, SIZE: tl.constexpr):
    """Write an observation of `SIZE` numbers, of which each component, a number or an array, has an equal share."""
    SHARE: tl.constexpr = SIZE // len(components)
    if SHARE == 1:
        store_components(ptr, components, row, mask, row_stride, column_stride)
    else:
        at, exists = _cells(row, mask, row_stride, column_stride, SHARE)
        for i in tl.static_range(len(components)):
            block = tl.where(exists, components[i], 0).to(ptr.dtype.element_ty)
            tl.store(ptr + at + i * SHARE * tl.cast(column_stride, tl.int64), block, mask=exists)


@triton.jit
def show(
    state,
    row,
    mask,
    obs_ptr,
    obs_row,
    obs_column,
    mask_ptr,
    mask_row,
    mask_column,
    PARAMS: tl.constexpr,
    OBSERVE: tl.constexpr,
    OBS_SIZE: tl.constexpr,
    ACTION_MASK: tl.constexpr,
):
    """Write the observation and the action mask of a state."""
    store_observation(obs_ptr, OBSERVE(state, PARAMS), row, mask, obs_row, obs_column, OBS_SIZE)
    if ACTION_MASK is not None:
        store_components(mask_ptr, ACTION_MASK(state, PARAMS), row, mask, mask_row, mask_column)


@triton.jit
def load_action(
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
def add(ptr, row, amount, mask):
    """Add to a column where `mask` holds; elsewhere its memory is not touched. What is loaded before has settled."""
    total = tl.load(ptr + row, mask=mask, other=0) + amount
    settle(row)
    tl.store(ptr + row, total, mask=mask)


@triton.jit
def new_episode(columns, row, mask, episode, RNG: tl.constexpr, PARAMS: tl.constexpr, RESET: tl.constexpr):
    """Return the first state of the given episodes; the streams of rows outside `mask` are not even read."""
    seed, env_id = load(columns.seed, row, mask), load(columns.env_id, row, mask)
    return RESET(RNG(seed, env_id, episode, tl.zeros_like(episode), RESET_STREAM), PARAMS)


@triton.jit
def transition(
    old,
    blocks,
    active,
    clock,
    STATE: tl.constexpr,
    ARRAYS: tl.constexpr,
    RNG: tl.constexpr,
    PARAMS: tl.constexpr,
    STEP: tl.constexpr,
    SCALAR: tl.constexpr,
    LIMIT: tl.constexpr,
):
    """Take one step of the active environments.

    `clock` is (seed, env_id, episode, elapsed, episode_return), already that of this step. Returns state, reward,
    terminated, truncated, elapsed and episode_return after it.
    """
    seed, env_id, episode, elapsed, episode_return = clock
    if SCALAR:
        action = blocks[0]
    else:
        action = blocks
    stepped, reward, terminated = STEP(old, action, RNG(seed, env_id, episode, elapsed, STEP_STREAM), PARAMS)
    state = STATE(*choose(active, stepped, old, ARRAYS))
    reward = tl.where(active, reward, 0.0).to(tl.float32)
    terminated = tl.where(active, terminated, False).to(tl.int1)
    elapsed += active.to(tl.int32)
    episode_return += reward
    return state, reward, terminated, active & (elapsed >= LIMIT), elapsed, episode_return
