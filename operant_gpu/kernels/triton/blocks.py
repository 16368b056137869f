"""What the step, reset and rollout kernels share: loads and stores of blocks, and one step of the semantics.

Blocks are of `BLOCK` environments; `row` are their numbers, int64, and `mask` where they exist. The transition and the
reset stand here once, so that a rollout cannot differ from as many steps. What is compiled in of an environment is one
constant, `ENV`, whose members `backends/triton/constants.py` describes.

The first functions say what there is on the device that a kernel is compiled for, NVIDIA's or AMD's: no other file asks
Triton for it.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import num_warps
from triton.language.target_info import current_target, is_cuda, is_hip_cdna3

from operant_gpu.arrays import cells
from operant_gpu.memory import records
from operant_gpu.metrics import STEPS, measured
from operant_gpu.random import PARAMS_STREAM, RESET_STREAM, STEP_STREAM
from operant_gpu.sampling import parameter

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
SAME_STEP = tl.constexpr(records.SAME_STEP)
NEXT_STEP = tl.constexpr(records.NEXT_STEP)
DISABLED = tl.constexpr(records.DISABLED)


@triton.constexpr_function
def on_nvidia():
    """Tell whether a kernel is compiled for a device of NVIDIA's, which has PTX."""
    return not INTERPRETED.value and is_cuda()


@triton.constexpr_function
def dot_precision(precision):
    """Return what `tl.dot` takes for a precision: of AMD's devices, those of CDNA 3 alone multiply tf32 numbers."""
    return precision if INTERPRETED.value or is_cuda() or is_hip_cdna3() else "ieee"


@triton.constexpr_function
def warp_size():
    """Return the threads of a warp, which has 64 on some of AMD's devices."""
    return current_target().warp_size


@triton.jit
def settle(row):
    """Let every warp load before any stores, where there are more threads than environments.

    Each warp then loads a copy of its own of the same numbers, and one of them stores: nothing else keeps a late one
    from loading what is new.
    """
    if not INTERPRETED and row.shape[0] < num_warps() * warp_size():
        tl.debug_barrier()


@triton.jit
def load(ptr, row, mask):
    """Return a block of a column; 0 where there is no environment."""
    return tl.load(ptr + row, mask=mask, other=0)


@triton.jit
def choose(condition, chosen, other, ENV: tl.constexpr):
    """Return the fields of `chosen` where the condition holds, in the dtypes of `other`'s; 0 beyond arrays."""
    fields = ()
    for i in tl.static_range(len(other)):
        if ENV.ARRAYS[i] == 0:
            where = condition
            exists = condition
        else:
            where = condition[:, None]
            exists = where & (cells(ENV.ARRAYS[i]) < ENV.ARRAYS[i])
        # A block of its own first, then the cast: `where` of a float and an int takes both through float32.
        block = tl.where(exists, chosen[i], 0).to(other[i].dtype)
        fields = fields + (tl.where(where, block, other[i]),)
    return fields


@triton.jit
def places(row, mask, row_stride, cell_stride, SIZE: tl.constexpr):
    """Return where the cells of the environments' arrays are, and which exist: blocks (BLOCK, width)."""
    cell = cells(SIZE)
    # Always 0, which the compiler does not know. Of cells that it knows to be aligned it gives a thread 16 in a row, so
    # a copy of each number of 16 environments too, and spills kilobytes.
    row = row + tl.program_id(1)
    return row[:, None] * row_stride + cell * tl.cast(cell_stride, tl.int64), mask[:, None] & (cell < SIZE)


@triton.jit
def _array_stride(num_envs):
    # As `memory.allocation.array_stride` has it.
    return (tl.cdiv(num_envs, 64) | 1) * 64


@triton.jit
def load_state(state_ptr, row, mask, num_envs, ENV: tl.constexpr):
    """Return the state, 0 beyond arrays."""
    fields = ()
    for i in tl.static_range(len(ENV.ARRAYS)):
        if ENV.ARRAYS[i] == 0:
            fields = fields + (tl.load(state_ptr[i] + row, mask=mask, other=0),)
        else:
            at, exists = places(row, mask, 1, _array_stride(num_envs), ENV.ARRAYS[i])
            fields = fields + (tl.load(state_ptr[i] + at, mask=exists, other=0),)
    return ENV.STATE(*fields)


@triton.jit
def store_state(state_ptr, state, row, mask, num_envs, ENV: tl.constexpr):
    """Write every field of a state."""
    for i in tl.static_range(len(ENV.ARRAYS)):
        if ENV.ARRAYS[i] == 0:
            tl.store(state_ptr[i] + row, state[i], mask=mask)
        else:
            at, exists = places(row, mask, 1, _array_stride(num_envs), ENV.ARRAYS[i])
            tl.store(state_ptr[i] + at, state[i], mask=exists)


@triton.jit
def load_params(params_ptr, row, mask, ENV: tl.constexpr):
    """Return the blocks of the parameters in memory, of which `ENV.PARAMS` makes all parameters."""
    blocks = ()
    for i in tl.static_range(len(ENV.SHARED)):
        # Of a shared one each thread reads the same number.
        at = row * 0 if ENV.SHARED[i] else row
        blocks = blocks + (tl.load(params_ptr[i] + at, mask=mask, other=0),)
    return blocks


@triton.jit
def store_params(params_ptr, params, row, mask, ENV: tl.constexpr):
    """Write the parameters that are drawn."""
    for i in tl.static_range(len(ENV.DRAWS)):
        if ENV.DRAWS[i] is not None:
            tl.store(params_ptr[i] + row, params[i], mask=mask)


@triton.jit
def draw_params(columns, row, mask, episode, params, ENV: tl.constexpr):
    """Return the parameters in memory, with those that the given episodes draw in the rows of `mask`."""
    if len(ENV.DRAWS) > 0:
        seed, env_id = load(columns.seed, row, mask), load(columns.env_id, row, mask)
        rng = ENV.RNG(seed, env_id, episode, tl.zeros_like(episode), PARAMS_STREAM)
        blocks = ()
        for i in tl.static_range(len(ENV.DRAWS)):
            if ENV.DRAWS[i] is None:
                blocks = blocks + (params[i],)
            else:
                number = parameter(rng, ENV.DRAWS[i][0], ENV.DRAWS[i][1], ENV.DRAWS[i][2])
                # A block of its own first: a choice of one alone is a number.
                blocks = blocks + (tl.where(mask, tl.where(mask, number, 0).to(params[i].dtype), params[i]),)
        return blocks
    else:
        return params


@triton.jit
def _metric(ptr, i: tl.constexpr, num_envs):
    """Return where a row of the metrics begins."""
    return ptr + i * tl.cast(num_envs, tl.int64)


@triton.jit
def load_metrics(ptr, row, mask, num_envs, ENV: tl.constexpr):
    """Return what the environments' metrics have come to."""
    blocks = ()
    for i in tl.static_range(len(ENV.METRICS)):
        blocks = blocks + (load(_metric(ptr, i, num_envs), row, mask),)
    return blocks


@triton.jit
def store_metrics(ptr, metrics, row, mask, num_envs, ENV: tl.constexpr):
    """Write the metrics, blocks or numbers."""
    for i in tl.static_range(len(ENV.METRICS)):
        tl.store(_metric(ptr, i, num_envs) + row, metrics[i], mask=mask)


@triton.jit
def log_metrics(ptr, metrics, row, done, num_envs, ENV: tl.constexpr):
    """Add the metrics of finished episodes to the sums."""
    for i in tl.static_range(len(ENV.METRICS)):
        add(_metric(ptr, i, num_envs), row, metrics[i], done)


@triton.jit
def begin_metrics(metrics, where, ENV: tl.constexpr):
    """Return the metrics, from the start where an episode begins."""
    blocks = ()
    for i in tl.static_range(len(ENV.METRICS)):
        blocks = blocks + (tl.where(where, ENV.STARTS[i], metrics[i]),)
    return blocks


@triton.jit
def _measure(metrics, values, active, ENV: tl.constexpr):
    """Return the metrics with the values of one more step of the active environments."""
    one = active.to(tl.float64)
    steps = one
    after = ()
    for i in tl.static_range(len(ENV.METRICS)):
        if ENV.METRICS[i] == STEPS:
            value = one
        else:
            value = tl.where(active, values[i - ENV.FIRST_METRIC], 0.0).to(tl.float32).to(tl.float64)
        total = tl.where(active, measured(ENV.METRICS[i], metrics[i], value, steps), metrics[i])
        if ENV.METRICS[i] == STEPS:
            steps = total
        after = after + (total,)
    return after


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
def _row_and_column(strides):
    """Return the strides from row to row and from component to component, of which there may be one alone."""
    if len(strides) == 1:
        return strides[0], 0
    else:
        # A stride of num_envs times a component leaves 32 bits on large devices.
        return strides[0], tl.cast(strides[1], tl.int64)


@triton.jit
def store_components(ptr, components, row, mask, strides):
    """Write components, blocks or plain numbers, to an array (num_envs, ...) with any strides."""
    row_stride, column_stride = _row_and_column(strides)
    for i in tl.static_range(len(components)):
        # A component may be a plain number: `where` makes a block of it.
        block = tl.where(mask, components[i], 0).to(ptr.dtype.element_ty)
        tl.store(ptr + row * row_stride + i * column_stride, block, mask=mask)


@triton.jit
def store_observation(ptr, components, row, mask, strides, SIZE: tl.constexpr):
    """Write an observation of `SIZE` numbers, of which each component, a number or an array, has an equal share."""
    SHARE: tl.constexpr = SIZE // len(components)
    if SHARE == 1:
        store_components(ptr, components, row, mask, strides)
    else:
        row_stride, column_stride = _row_and_column(strides)
        at, exists = places(row, mask, row_stride, column_stride, SHARE)
        for i in tl.static_range(len(components)):
            block = tl.where(exists, components[i], 0).to(ptr.dtype.element_ty)
            tl.store(ptr + at + i * SHARE * column_stride, block, mask=exists)


@triton.jit
def show(state, params, tables_ptr, row, mask, outputs, strides, ENV: tl.constexpr):
    """Write the observation and the action mask of a state."""
    components = ENV.OBSERVE(state, *ENV.GIVEN(params, tables_ptr, row, mask))
    store_observation(outputs.obs, components, row, mask, strides.obs, ENV.OBS_SIZE)
    if ENV.ACTION_MASK is not None:
        legal = ENV.ACTION_MASK(state, *ENV.GIVEN(params, tables_ptr, row, mask))
        store_components(outputs.action_mask, legal, row, mask, strides.action_mask)


@triton.jit
def load_action(action_ptr, row, mask, strides, ACTIONS: tl.constexpr):
    """Return a tuple of int32 or float32 blocks, and where all of them are valid."""
    valid = mask
    blocks = ()
    action_row, action_column = _row_and_column(strides)
    for i in tl.static_range(ACTIONS.SIZE):
        block = tl.load(action_ptr + row * action_row + i * action_column, mask=mask, other=0)
        if len(ACTIONS.LOW) > 0:
            valid = valid & (block >= ACTIONS.LOW[i]) & (block < ACTIONS.HIGH[i])
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
def new_episode(columns, row, mask, episode, params, tables_ptr, ENV: tl.constexpr):
    """Return the first state of the given episodes; the streams of rows outside `mask` are not even read."""
    seed, env_id = load(columns.seed, row, mask), load(columns.env_id, row, mask)
    rng = ENV.RNG(seed, env_id, episode, tl.zeros_like(episode), RESET_STREAM)
    return ENV.RESET(rng, *ENV.GIVEN(params, tables_ptr, row, mask))


@triton.jit
def transition(old, params, tables_ptr, row, blocks, active, clock, metrics, ENV: tl.constexpr):
    """Take one step of the active environments.

    `clock` is (seed, env_id, episode, elapsed, episode_return), already that of this step, as are the metrics. Returns
    state, reward, terminated, truncated, elapsed, episode_return and metrics after it.
    """
    seed, env_id, episode, elapsed, episode_return = clock
    if ENV.ACTIONS.SCALAR:
        action = blocks[0]
    else:
        action = blocks
    rng = ENV.RNG(seed, env_id, episode, elapsed, STEP_STREAM)
    result = ENV.STEP(old, action, rng, *ENV.GIVEN(params, tables_ptr, row, active))
    state = ENV.STATE(*choose(active, result[0], old, ENV))
    reward = tl.where(active, result[1], 0.0).to(tl.float32)
    terminated = tl.where(active, result[2], False).to(tl.int1)
    if len(ENV.METRICS) > 0:
        metrics = _measure(metrics, result[3], active, ENV)
    elapsed += active.to(tl.int32)
    episode_return += reward
    return state, reward, terminated, active & (elapsed >= ENV.LIMIT), elapsed, episode_return, metrics
