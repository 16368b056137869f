"""The rollout kernel: many steps of any environment in one launch, with random, given or a network's actions.

One program owns a block of environments for all steps. State, clock and statistics stay in registers; memory sees what
the caller wants stored. Arguments beside those of the step kernel:
    policy_ptr: Actions, or a network's flat parameters; None for random actions.
    policy_strides: Of given actions, or None.
    shift_ptr, scale_ptr: A network's scaling of observations, or None.
    trajectory: `Trajectory` of pointers; nothing is computed for those that are None.
    strides: `Trajectory` of tuples of their strides in elements.
    present, present_strides: `Outputs`, for observation and action mask of the state after the last step.
    POLICY: RANDOM, GIVEN or NETWORK. NET: What is compiled in of a network.
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
    store_components,
    store_metrics,
    store_observation,
    store_params,
    store_state,
    transition,
)
from operant_gpu.kernels.triton.draw import draw
from operant_gpu.random import POLICY_STREAM

RANDOM = tl.constexpr(0)
GIVEN = tl.constexpr(1)
NETWORK = tl.constexpr(2)


@triton.jit
def _put(ptr, strides, t, row, block, mask):
    """Store one block of a (num_steps, num_envs) output, if it is wanted."""
    if ptr is not None:
        tl.store(ptr + t * tl.cast(strides[0], tl.int64) + row, block, mask=mask)


@triton.jit
def _put_components(ptr, strides, t, row, components, mask):
    """Store the components of a (num_steps, num_envs, size) output, if it is wanted."""
    if ptr is not None:
        at = ptr + t * tl.cast(strides[0], tl.int64)
        store_components(at, components, row, mask, strides[1:])


@triton.jit
def _put_observation(ptr, strides, t, row, components, mask, SIZE: tl.constexpr):
    """Store an observation of a (num_steps, num_envs, size) output, if it is wanted."""
    if ptr is not None:
        at = ptr + t * tl.cast(strides[0], tl.int64)
        store_observation(at, components, row, mask, strides[1:], SIZE)


@triton.jit
def _legal(state, params, tables_ptr, row, mask, ENV: tl.constexpr):
    if ENV.ACTION_MASK is None:
        return ()
    else:
        return ENV.ACTION_MASK(state, *ENV.GIVEN(params, tables_ptr, row, mask))


# One kernel for all lengths, also for 1 and multiples of 16, which Triton would otherwise compile anew for.
@triton.jit(do_not_specialize=["num_steps"])
def rollout_kernel(
    state_ptr,
    params_ptr,
    tables_ptr,
    columns,
    num_envs,
    present,
    present_strides,
    policy_ptr,
    policy_strides,
    shift_ptr,
    scale_ptr,
    trajectory,
    strides,
    num_steps,
    ENV: tl.constexpr,
    POLICY: tl.constexpr,
    NET: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Take `num_steps` steps of every environment, in any of the three auto-reset modes."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = row < num_envs
    state = load_state(state_ptr, row, mask, num_envs, ENV)
    params = load_params(params_ptr, row, mask, ENV)
    seed, env_id, episode, elapsed, episode_return, ended = load_clock(columns, row, mask)
    log_return, log_length = load(columns.log_return, row, mask), load(columns.log_length, row, mask)
    metrics = load_metrics(columns.metrics, row, mask, num_envs, ENV)
    # Of this rollout, in 32 bits.
    log_count, bad_actions = tl.zeros_like(elapsed), tl.zeros_like(elapsed)
    if POLICY == NETWORK:
        components = ENV.OBSERVE(state, *ENV.GIVEN(params, tables_ptr, row, mask))
        tl.static_assert(len(components) == NET.OBS_SIZE, "a network in a rollout sees numbers, not arrays")
        log_stds = ()
        for i in tl.static_range(len(ENV.ACTIONS.BOX_LOW)):
            log_stds = log_stds + (tl.load(policy_ptr + NET.OFFSETS[NET.HEAD + 4] + i),)

    for t in range(num_steps):
        waiting = ended
        if ENV.MODE != DISABLED:
            elapsed = tl.where(waiting, 0, elapsed)
            episode_return = tl.where(waiting, 0.0, episode_return)
            metrics = begin_metrics(metrics, waiting, ENV)
        components = ENV.OBSERVE(state, *ENV.GIVEN(params, tables_ptr, row, mask))
        legal = _legal(state, params, tables_ptr, row, mask, ENV)
        _put_observation(trajectory.obs, strides.obs, t, row, components, mask, ENV.OBS_SIZE)
        _put_components(trajectory.action_mask, strides.action_mask, t, row, legal, mask)
        rng = ENV.RNG(seed, env_id, episode, elapsed, POLICY_STREAM)
        if POLICY == GIVEN:
            at = policy_ptr + t * tl.cast(policy_strides[0], tl.int64)
            taken, valid = load_action(at, row, mask, policy_strides[1:], ENV.ACTIONS)
        else:
            outputs = ()
            stds = ()
            if POLICY == NETWORK:
                x = mlp.as_matrix(components, mask, shift_ptr, scale_ptr, NET)
                hidden = mlp.features(x, policy_ptr, 0, NET)
                outputs = mlp.head(hidden, policy_ptr, NET.HEAD, NET.OUTPUTS, NET.OUT_PAD, NET)
                stds = log_stds
                if trajectory.value is not None:
                    if not NET.SHARED:
                        hidden = mlp.features(x, policy_ptr, NET.CRITIC, NET)
                    value = mlp.value(hidden, policy_ptr, NET)
                    _put(trajectory.value, strides.value, t, row, value, mask)
            drawn, taken, log_prob, fine = draw(rng, legal, outputs, stds, POLICY == NETWORK, ENV.ACTIONS)
            valid = mask & fine
            _put(trajectory.log_prob, strides.log_prob, t, row, log_prob, mask)
            _put_components(trajectory.policy_action, strides.policy_action, t, row, drawn, mask)
        _put_components(trajectory.action, strides.action, t, row, taken, mask)

        active = valid
        bad = mask & ~valid
        if ENV.MODE != SAME_STEP:
            active = valid & ~waiting
            bad = bad & ~waiting
        bad_actions += bad.to(tl.int32)
        clock = seed, env_id, episode, elapsed, episode_return
        state, reward, terminated, truncated, elapsed, episode_return, metrics = transition(
            state, params, tables_ptr, row, taken, active, clock, metrics, ENV
        )
        done = terminated | truncated
        log_count += done.to(tl.int32)
        log_return = tl.where(done, log_return + episode_return, log_return)
        log_length = tl.where(done, log_length + elapsed, log_length)
        # Too rare to keep the sums in registers.
        if len(ENV.METRICS) > 0:  # noqa: SIM102 (known to the compiler, and not)
            if tl.max(done.to(tl.int32), 0) > 0:
                settle(row)
                log_metrics(columns.log_metrics, metrics, row, done, num_envs, ENV)
        ended = done
        if ENV.MODE == DISABLED:
            ended = done | waiting
        _put(trajectory.reward, strides.reward, t, row, reward, mask)
        _put(trajectory.terminated, strides.terminated, t, row, terminated, mask)
        _put(trajectory.truncated, strides.truncated, t, row, truncated, mask)

        if ENV.MODE == NEXT_STEP:
            episode += waiting.to(tl.int32)
            if tl.max(waiting.to(tl.int32), 0) > 0:
                params = draw_params(columns, row, waiting, episode, params, ENV)
                fresh = new_episode(columns, row, waiting, episode, params, tables_ptr, ENV)
                state = ENV.STATE(*choose(waiting, fresh, state, ENV))
        final = ENV.OBSERVE(state, *ENV.GIVEN(params, tables_ptr, row, mask))
        _put_observation(trajectory.final_obs, strides.final_obs, t, row, final, mask, ENV.OBS_SIZE)
        if trajectory.final_value is not None:
            # Where the episode was cut short, and where it goes on after the rollout.
            wanted = truncated & ~terminated
            if t == num_steps - 1:
                wanted = wanted | (mask & ~ended)
            final_value = reward * 0.0
            if tl.max(wanted.to(tl.int32), 0) > 0:
                x = mlp.as_matrix(final, mask, shift_ptr, scale_ptr, NET)
                following = mlp.value(mlp.features(x, policy_ptr, NET.CRITIC, NET), policy_ptr, NET)
                final_value = tl.where(wanted, following, final_value)
            _put(trajectory.final_value, strides.final_value, t, row, final_value, mask)
        if ENV.MODE == SAME_STEP:
            episode += done.to(tl.int32)
            if tl.max(done.to(tl.int32), 0) > 0:
                params = draw_params(columns, row, done, episode, params, ENV)
                fresh = new_episode(columns, row, done, episode, params, tables_ptr, ENV)
                state = ENV.STATE(*choose(done, fresh, state, ENV))

    settle(row)
    store_state(state_ptr, state, row, mask, num_envs, ENV)
    store_params(params_ptr, params, row, mask, ENV)
    store_clock(columns, row, mask, episode, elapsed, episode_return, ended)
    store_metrics(columns.metrics, metrics, row, mask, num_envs, ENV)
    tl.store(columns.log_return + row, log_return, mask=mask)
    tl.store(columns.log_length + row, log_length, mask=mask)
    add(columns.log_count, row, log_count, mask)
    add(columns.bad_actions, row, bad_actions, mask)
    show(state, params, tables_ptr, row, mask, present, present_strides, ENV)
