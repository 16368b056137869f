"""The rollout kernel: many steps of any environment in one launch, with random, given or a network's actions.

One program owns a block of environments for all steps. State, clock and statistics stay in registers; memory sees what
the caller wants stored. Arguments beside those of the step kernel:
    policy_ptr: Actions, or a network's flat parameters; None for random actions.
    policy_step, policy_row, policy_column: Strides of given actions.
    shift_ptr, scale_ptr: A network's scaling of observations, or None.
    trajectory: `Trajectory` of pointers; nothing is computed for those that are None.
    by_step, by_row, by_column: `Trajectory` of their strides in elements.
    present_obs_ptr, present_mask_ptr: Observation and action mask of the state after the last step.
    POLICY: RANDOM, GIVEN or NETWORK. Constants of a network are described in `mlp.py`.
The reference is `backends/stepwise.py`: single steps, one after the other.
"""

from __future__ import annotations

import triton
import triton.language as tl

from operant_gpu.kernels.triton import mlp
from operant_gpu.kernels.triton.blocks import (
    DISABLED,
    NEXT_STEP,
    SAME_STEP,
    choose,
    load,
    load_action,
    load_clock,
    load_state,
    new_episode,
    settle,
    show,
    store_clock,
    store_components,
    store_observation,
    store_state,
    transition,
)
from operant_gpu.kernels.triton.draw import draw
from operant_gpu.random import POLICY_STREAM

RANDOM = tl.constexpr(0)
GIVEN = tl.constexpr(1)
NETWORK = tl.constexpr(2)


@triton.jit
def _put(ptr, step_stride, t, row, block, mask):
    """Store one block of a (num_steps, num_envs) output, if it is wanted."""
    if ptr is not None:
        tl.store(ptr + t * tl.cast(step_stride, tl.int64) + row, block, mask=mask)


@triton.jit
def _put_components(ptr, step_stride, row_stride, column_stride, t, row, components, mask):
    """Store the components of a (num_steps, num_envs, size) output, if it is wanted."""
    if ptr is not None:
        at = ptr + t * tl.cast(step_stride, tl.int64)
        store_components(at, components, row, mask, row_stride, column_stride)


@triton.jit
def _put_observation(ptr, step_stride, row_stride, column_stride, t, row, components, mask, SIZE: tl.constexpr):
    """Store an observation of a (num_steps, num_envs, size) output, if it is wanted."""
    if ptr is not None:
        at = ptr + t * tl.cast(step_stride, tl.int64)
        store_observation(at, components, row, mask, row_stride, column_stride, SIZE)


@triton.jit
def _legal(state, PARAMS: tl.constexpr, ACTION_MASK: tl.constexpr):
    if ACTION_MASK is None:
        return ()
    else:
        return ACTION_MASK(state, PARAMS)


# One kernel for all lengths, also for 1 and multiples of 16, which Triton would otherwise compile anew for.
@triton.jit(do_not_specialize=["num_steps"])
def rollout_kernel(
    state_ptr,
    columns,
    policy_ptr,
    policy_step,
    policy_row,
    policy_column,
    shift_ptr,
    scale_ptr,
    trajectory,
    by_step,
    by_row,
    by_column,
    present_obs_ptr,
    present_row,
    present_column,
    present_mask_ptr,
    mask_row,
    mask_column,
    num_envs,
    num_steps,
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
    BOX_LOW: tl.constexpr,
    BOX_HIGH: tl.constexpr,
    FIRST: tl.constexpr,
    SIZE: tl.constexpr,
    SCALAR: tl.constexpr,
    LIMIT: tl.constexpr,
    MODE: tl.constexpr,
    POLICY: tl.constexpr,
    OFFSETS: tl.constexpr,
    SIZES: tl.constexpr,
    PADS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    OUT_PAD: tl.constexpr,
    SHARED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    CLIP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Take `num_steps` steps of every environment, in any of the three auto-reset modes."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = row < num_envs
    state = load_state(state_ptr, row, mask, num_envs, STATE, ARRAYS)
    seed, env_id, episode, elapsed, episode_return, ended = load_clock(columns, row, mask)
    log_count, log_return = load(columns.log_count, row, mask), load(columns.log_return, row, mask)
    log_length, bad_actions = load(columns.log_length, row, mask), load(columns.bad_actions, row, mask)
    if POLICY == NETWORK:
        tl.static_assert(len(OBSERVE(state, PARAMS)) == SIZES[0], "a network in a rollout sees numbers, not arrays")
        AFTER: tl.constexpr = 2 * (len(SIZES) - 1)
        LAST: tl.constexpr = AFTER if SHARED else 2 * AFTER
        CRITIC: tl.constexpr = 0 if SHARED else AFTER
        log_stds = ()
        for i in tl.static_range(len(BOX_LOW)):
            log_stds = log_stds + (tl.load(policy_ptr + OFFSETS[LAST + 4] + i),)

    for t in range(num_steps):
        waiting = ended
        if MODE != DISABLED:
            elapsed = tl.where(waiting, 0, elapsed)
            episode_return = tl.where(waiting, 0.0, episode_return)
        components, legal = OBSERVE(state, PARAMS), _legal(state, PARAMS, ACTION_MASK)
        _put_observation(trajectory.obs, by_step.obs, by_row.obs, by_column.obs, t, row, components, mask, OBS_SIZE)
        _put_components(
            trajectory.action_mask, by_step.action_mask, by_row.action_mask, by_column.action_mask, t, row, legal, mask
        )
        rng = RNG(seed, env_id, episode, elapsed, POLICY_STREAM)
        if POLICY == GIVEN:
            at = policy_ptr + t * tl.cast(policy_step, tl.int64)
            taken, valid = load_action(at, row, mask, policy_row, policy_column, LOW, HIGH, SIZE)
            drawn = taken
        else:
            outputs = ()
            stds = ()
            if POLICY == NETWORK:
                x = mlp.as_matrix(components, mask, shift_ptr, scale_ptr, CLIP, PADS[0])
                hidden = mlp.features(x, policy_ptr, 0, OFFSETS, SIZES, PADS, ACTIVATION, PRECISION)
                outputs = mlp.head(hidden, policy_ptr, LAST, OUTPUTS, OUT_PAD, OFFSETS, SIZES, PADS, PRECISION)
                stds = log_stds
                if trajectory.value is not None:
                    if not SHARED:
                        hidden = mlp.features(x, policy_ptr, CRITIC, OFFSETS, SIZES, PADS, ACTIVATION, PRECISION)
                    value = mlp.value(hidden, policy_ptr, LAST + 2, OFFSETS, SIZES, PADS, PRECISION)
                    _put(trajectory.value, by_step.value, t, row, value, mask)
            drawn, taken, log_prob, fine = draw(
                rng, legal, outputs, stds, POLICY == NETWORK, LOW, HIGH, BOX_LOW, BOX_HIGH, FIRST
            )
            valid = mask & fine
            _put(trajectory.log_prob, by_step.log_prob, t, row, log_prob, mask)
        _put_components(trajectory.action, by_step.action, by_row.action, by_column.action, t, row, drawn, mask)

        active = valid
        bad = mask & ~valid
        if MODE != SAME_STEP:
            active = valid & ~waiting
            bad = bad & ~waiting
        bad_actions += bad.to(tl.int32)
        clock = seed, env_id, episode, elapsed, episode_return
        state, reward, terminated, truncated, elapsed, episode_return = transition(
            state, taken, active, clock, STATE, ARRAYS, RNG, PARAMS, STEP, SCALAR, LIMIT
        )
        done = terminated | truncated
        log_count += done.to(tl.int32)
        log_return = tl.where(done, log_return + episode_return, log_return)
        log_length = tl.where(done, log_length + elapsed, log_length)
        ended = done
        if MODE == DISABLED:
            ended = done | waiting
        _put(trajectory.reward, by_step.reward, t, row, reward, mask)
        _put(trajectory.terminated, by_step.terminated, t, row, terminated, mask)
        _put(trajectory.truncated, by_step.truncated, t, row, truncated, mask)

        if MODE == NEXT_STEP:
            episode += waiting.to(tl.int32)
            if tl.max(waiting.to(tl.int32), 0) > 0:
                fresh = new_episode(columns, row, waiting, episode, RNG, PARAMS, RESET)
                state = STATE(*choose(waiting, fresh, state, ARRAYS))
        final = OBSERVE(state, PARAMS)
        _put_observation(
            trajectory.final_obs, by_step.final_obs, by_row.final_obs, by_column.final_obs,
            t, row, final, mask, OBS_SIZE,
        )  # fmt: skip
        if trajectory.final_value is not None:
            # Where the episode was cut short, and where it goes on after the rollout.
            wanted = truncated & ~terminated
            if t == num_steps - 1:
                wanted = wanted | (mask & ~ended)
            final_value = reward * 0.0
            if tl.max(wanted.to(tl.int32), 0) > 0:
                x = mlp.as_matrix(final, mask, shift_ptr, scale_ptr, CLIP, PADS[0])
                hidden = mlp.features(x, policy_ptr, CRITIC, OFFSETS, SIZES, PADS, ACTIVATION, PRECISION)
                following = mlp.value(hidden, policy_ptr, LAST + 2, OFFSETS, SIZES, PADS, PRECISION)
                final_value = tl.where(wanted, following, final_value)
            _put(trajectory.final_value, by_step.final_value, t, row, final_value, mask)
        if MODE == SAME_STEP:
            episode += done.to(tl.int32)
            if tl.max(done.to(tl.int32), 0) > 0:
                fresh = new_episode(columns, row, done, episode, RNG, PARAMS, RESET)
                state = STATE(*choose(done, fresh, state, ARRAYS))

    settle(row)
    store_state(state_ptr, state, row, mask, num_envs, ARRAYS)
    store_clock(columns, row, mask, episode, elapsed, episode_return, ended)
    tl.store(columns.log_count + row, log_count, mask=mask)
    tl.store(columns.log_return + row, log_return, mask=mask)
    tl.store(columns.log_length + row, log_length, mask=mask)
    tl.store(columns.bad_actions + row, bad_actions, mask=mask)
    show(state, row, mask, present_obs_ptr, present_row, present_column, present_mask_ptr, mask_row, mask_column,
         PARAMS, OBSERVE, OBS_SIZE, ACTION_MASK)  # fmt: skip
