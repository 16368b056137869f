"""Actions drawn from the streams: inside a rollout, and by a kernel of its own for networks that PyTorch evaluates."""

from __future__ import annotations

import triton
import triton.language as tl

from operant_gpu.kernels.triton.blocks import DISABLED, load_clock, store_components
from operant_gpu.random import POLICY_STREAM
from operant_gpu.sampling import categorical, gaussian, random_floats, random_integers


@triton.jit
def draw(rng, legal, outputs, log_stds, NETWORK: tl.constexpr, ACTIONS: tl.constexpr):
    """Return an action as drawn, as the environment takes it, its log-probability, and whether it is a number."""
    fine = rng.env_id == rng.env_id
    log_prob = rng.env_id * 0.0
    if len(ACTIONS.FIRST) > 0:
        if NETWORK:
            drawn, log_prob = categorical(rng, outputs, legal, ACTIONS.LOW, ACTIONS.HIGH, ACTIONS.FIRST)
        else:
            drawn = random_integers(rng, legal, ACTIONS.LOW, ACTIONS.HIGH, ACTIONS.FIRST)
        return drawn, drawn, log_prob, fine
    elif NETWORK:
        drawn, log_prob = gaussian(rng, outputs, log_stds)
        taken = ()
        for i in tl.static_range(len(ACTIONS.BOX_LOW)):
            scaled = ACTIONS.CENTER[i] + ACTIONS.RADIUS[i] * drawn[i]
            # What is not a number stays so: clamp would give a bound.
            clipped = tl.clamp(scaled, ACTIONS.BOX_LOW[i], ACTIONS.BOX_HIGH[i])
            clipped = tl.where(scaled == scaled, clipped, scaled)
            taken = taken + (clipped,)
            fine = fine & (tl.abs(clipped) < float("inf"))
        return drawn, taken, log_prob, fine
    else:
        drawn = random_floats(rng, ACTIONS.BOX_LOW, ACTIONS.BOX_HIGH)
        return drawn, drawn, log_prob, fine


@triton.jit
def _components(ptr, row, mask, strides, SIZE: tl.constexpr):
    """Return a tuple of the columns of a (num_envs, SIZE) tensor, empty if there is none."""
    blocks = ()
    if ptr is not None:
        for i in tl.static_range(SIZE):
            at = ptr + row * strides[0] + i * tl.cast(strides[1], tl.int64)
            blocks = blocks + (tl.load(at, mask=mask, other=0),)
    return blocks


@triton.jit
def draw_kernel(
    columns,
    num_envs,
    outputs_ptr,
    outputs_strides,
    log_std_ptr,
    mask_ptr,
    mask_strides,
    drawn_ptr,
    taken_ptr,
    log_prob_ptr,
    ENV: tl.constexpr,
    OUTPUTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Draw the actions of the step that comes from a network's outputs (num_envs, OUTPUTS).

    Writes actions as drawn and as the environments take them, (num_envs, components) without gaps, and their
    log-probabilities.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = row < num_envs
    seed, env_id, episode, elapsed, _, ended = load_clock(columns, row, mask)
    if ENV.MODE != DISABLED:
        elapsed = tl.where(ended, 0, elapsed)
    outputs = _components(outputs_ptr, row, mask, outputs_strides, OUTPUTS)
    allowed = _components(mask_ptr, row, mask, mask_strides, OUTPUTS)
    legal = ()
    for i in tl.static_range(len(allowed)):
        legal = legal + (allowed[i] != 0,)
    log_stds = ()
    for i in tl.static_range(len(ENV.ACTIONS.BOX_LOW)):
        log_stds = log_stds + (tl.load(log_std_ptr + i),)
    rng = ENV.RNG(seed, env_id, episode, elapsed, POLICY_STREAM)
    drawn, taken, log_prob, _ = draw(rng, legal, outputs, log_stds, True, ENV.ACTIONS)
    store_components(drawn_ptr, drawn, row, mask, (ENV.ACTIONS.SIZE, 1))
    store_components(taken_ptr, taken, row, mask, (ENV.ACTIONS.SIZE, 1))
    tl.store(log_prob_ptr + row, log_prob, mask=mask)
