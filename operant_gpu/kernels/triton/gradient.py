"""The gradient of PPO's objective for a small actor-critic network, in one kernel over tiles of a minibatch.

A program takes tiles in turn: it reads samples through the shuffle, goes forward through the network, takes the losses,
goes back, and keeps the sums of the weights' gradients on the chip. It writes them once, to a row of its own, so that
the sum over programs has an order and equal seeds give equal bits. Actor and critic are programs apart, with ROLE 0 and
1, unless they share their trunk. Samples are rows: obs (n, inputs), actions (n, components), the rest (n,).

Forward is always as exact as float32: with tf32 some samples fall on the other side of the clip, which alone changed
gradients by up to a tenth. PRECISION is that of the way back.

Blocks of the head have the outputs in the first columns, then the value. Compile-time constants are those of `mlp.py`,
and of the objective. The reference is autograd through `operant_gpu.models.ppo.update.objective`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from operant_gpu.kernels.triton.blocks import INTERPRETED
from operant_gpu.kernels.triton.objective import NUM_SUMS, minibatch, objective

# Bits of a status.
STOPPED, FAULTY = tl.constexpr(1), tl.constexpr(2)


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """Return a matrix product: of tf32 numbers, or for "ieee" as exact as float32, by three of those."""
    if PRECISION == "tf32":
        a, b = _rounded(a), _rounded(b)
    if INTERPRETED:
        return tl.dot(a, b, input_precision="ieee")
    elif PRECISION == "tf32":
        return tl.dot(a, b, input_precision="tf32")
    else:
        return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def _rounded(x):
    """Return numbers rounded to tf32: the interpreter would take them whole, and tensor cores cut their last bits off.

    Cut off, all errors lean to one side, and gradients were wrong by up to 3e-3 of their norm. A GPU's NaN has all bits
    set but the sign: the minimum keeps it from overflowing to a zero.
    """
    bits = x.to(tl.int32, bitcast=True)
    return ((tl.minimum(bits, 0x7FFFEFFF) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def _activated(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        # What is not a number stays so.
        return tl.where(x < 0.0, 0.0, x)
    else:
        # Where exp overflows, the quotient is 0.
        return 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x))


@triton.jit
def _slope(y, ACTIVATION: tl.constexpr):
    """Return the derivative of the activation, from its result."""
    if ACTIVATION == "relu":
        return tl.where(y > 0.0, 1.0, y * 0.0)
    else:
        return 1.0 - y * y


@triton.jit
def _weight_at(ptr, INPUTS: tl.constexpr, WIDTH: tl.constexpr, IN_PAD: tl.constexpr, PAD: tl.constexpr):
    """Return where a weight (width, inputs) is, as a block (PAD, IN_PAD), and what of it exists."""
    n, k = tl.arange(0, PAD)[:, None], tl.arange(0, IN_PAD)[None, :]
    return ptr + n * INPUTS + k, (n < WIDTH) & (k < INPUTS)


@triton.jit
def _no_gradient(PAD: tl.constexpr, IN_PAD: tl.constexpr):
    """Return zeros for a layer's weight and bias."""
    return tl.zeros((PAD, IN_PAD), tl.float32), tl.zeros((PAD,), tl.float32)


@triton.jit
def _observations(obs_ptr, sample, exists, shift_ptr, scale_ptr, CLIP: tl.constexpr, INPUTS: tl.constexpr,
                  PAD: tl.constexpr):  # fmt: skip
    """Return observations (BLOCK, PAD), scaled and clipped if there is a shift."""
    k = tl.arange(0, PAD)
    inside = k < INPUTS
    x = tl.load(obs_ptr + sample[:, None] * INPUTS + k[None, :], mask=exists[:, None] & inside[None, :], other=0)
    x = x.to(tl.float32)
    if shift_ptr is not None:
        shift, scale = tl.load(shift_ptr + k, mask=inside, other=0.0), tl.load(scale_ptr + k, mask=inside, other=0.0)
        x = tl.clamp((x - shift[None, :]) * scale[None, :], -CLIP, CLIP)
    return x


@triton.jit(do_not_specialize=["step", "samples", "minibatches"])
def gradient_kernel(
    partials_ptr,
    sums_ptr,
    status_ptr,
    parameters_ptr,
    shift_ptr,
    scale_ptr,
    obs_ptr,
    action_ptr,
    mask_ptr,
    log_prob_ptr,
    value_ptr,
    advantage_ptr,
    order_ptr,
    moments_ptr,
    step,
    samples,
    minibatches,
    LOW: tl.constexpr,
    HIGH: tl.constexpr,
    FIRST: tl.constexpr,
    OFFSETS: tl.constexpr,
    SIZES: tl.constexpr,
    PADS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    SHARED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    CLIP: tl.constexpr,
    CLIP_EPS: tl.constexpr,
    VF_CLIP_EPS: tl.constexpr,
    VF_COEF: tl.constexpr,
    ENT_COEF: tl.constexpr,
    PIECES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write a program's share of a gradient step's gradient, to its row of `partials`, and of its sums.

    The status of the step tells whether the iteration has stopped: then all shares are zero.
    """
    DEPTH: tl.constexpr = len(SIZES) - 1
    WIDTH: tl.constexpr = SIZES[DEPTH]
    PAD: tl.constexpr = PADS[DEPTH]
    LAST: tl.constexpr = 2 * DEPTH if SHARED else 4 * DEPTH
    program, role = tl.program_id(0), tl.program_id(1)
    trunk = parameters_ptr
    if not SHARED:
        trunk = parameters_ptr + role * OFFSETS[2 * DEPTH]
    start, count = minibatch(step, samples, minibatches)
    weight = 1.0 / count.to(tl.float32)
    tiles = tl.cdiv(count, BLOCK)
    if tl.load(status_ptr + step) & STOPPED:
        tiles = tiles * 0

    column = tl.arange(0, HEAD_PAD)
    is_output, is_value = column < OUTPUTS, column == OUTPUTS
    if SHARED:
        own = column <= OUTPUTS
    else:
        own = (column >= role * OUTPUTS) & (column < OUTPUTS + role)
    head_start = tl.where(is_value, OFFSETS[LAST + 2], OFFSETS[LAST] + column * WIDTH)
    bias_start = tl.where(is_value, OFFSETS[LAST + 3], OFFSETS[LAST + 1] + column)
    k = tl.arange(0, PAD)
    head_at = head_start[None, :] + k[:, None]
    in_head = own[None, :] & (k < WIDTH)[:, None]

    d_head_weight = tl.zeros((PAD, HEAD_PAD), tl.float32)
    d_head_bias = tl.zeros((HEAD_PAD,), tl.float32)
    d_log_std = tl.zeros((HEAD_PAD,), tl.float32)
    d_weights = ()
    d_biases = ()
    for i in tl.static_range(DEPTH):
        # From the last layer to the first, as they are met on the way back.
        weights, biases = _no_gradient(PADS[DEPTH - i], PADS[DEPTH - 1 - i])
        d_weights = d_weights + (weights,)
        d_biases = d_biases + (biases,)
    sums = tl.zeros((BLOCK, NUM_SUMS), tl.float32)

    for tile in range(program, tiles, tl.num_programs(0)):
        place = tile * BLOCK + tl.arange(0, BLOCK)
        exists = place < count
        sample = tl.load(order_ptr + start + place, mask=exists, other=0).to(tl.int64)
        x = _observations(obs_ptr, sample, exists, shift_ptr, scale_ptr, CLIP, SIZES[0], PADS[0])
        layers = (x,)
        for i in tl.static_range(DEPTH):
            at, inside = _weight_at(trunk + OFFSETS[2 * i], SIZES[i], SIZES[i + 1], PADS[i], PADS[i + 1])
            w = tl.load(at, mask=inside, other=0.0)
            n = tl.arange(0, PADS[i + 1])
            bias = tl.load(trunk + OFFSETS[2 * i + 1] + n, mask=n < SIZES[i + 1], other=0.0)
            x = _activated(product(x, tl.trans(w), "ieee") + bias[None, :], ACTIVATION)
            layers = layers + (x,)
        w = tl.load(parameters_ptr + head_at, mask=in_head, other=0.0)
        bias = tl.load(parameters_ptr + bias_start, mask=own, other=0.0)
        head = product(x, w, "ieee") + bias[None, :]

        log_std_ptr = parameters_ptr
        if len(LOW) == 0:
            log_std_ptr = parameters_ptr + OFFSETS[LAST + 4]
        d, d_density, measured = objective(
            head, sample, exists, weight, log_std_ptr, action_ptr, mask_ptr, log_prob_ptr, value_ptr, advantage_ptr,
            moments_ptr, 3 * PIECES * step, LOW, HIGH, FIRST, OUTPUTS, CLIP_EPS, VF_CLIP_EPS, VF_COEF, ENT_COEF, PIECES,
            BLOCK, HEAD_PAD,
        )  # fmt: skip
        d = tl.where(own[None, :], d, 0.0)
        d_log_std += d_density
        sums += measured

        d_head_weight += product(tl.trans(layers[DEPTH]), d, PRECISION)
        d_head_bias += tl.sum(d, 0)
        if DEPTH > 0:
            d = product(d, tl.trans(w), PRECISION)
        new_weights = ()
        new_biases = ()
        for i in tl.static_range(DEPTH - 1, -1, -1):
            d = d * _slope(layers[i + 1], ACTIVATION)
            new_weights = new_weights + (d_weights[DEPTH - 1 - i] + product(tl.trans(d), layers[i], PRECISION),)
            new_biases = new_biases + (d_biases[DEPTH - 1 - i] + tl.sum(d, 0),)
            if i > 0:
                at, inside = _weight_at(trunk + OFFSETS[2 * i], SIZES[i], SIZES[i + 1], PADS[i], PADS[i + 1])
                d = product(d, tl.load(at, mask=inside, other=0.0), PRECISION)
        d_weights = new_weights
        d_biases = new_biases

    row = partials_ptr + program.to(tl.int64) * OFFSETS[len(OFFSETS) - 1]
    tl.store(row + head_at, d_head_weight, mask=in_head)
    tl.store(row + bias_start, d_head_bias, mask=own)
    if len(LOW) == 0:
        # The entropy of normals grows by as much as the logarithms do.
        bonus = tl.where((program == 0) & (tiles > 0), ENT_COEF, 0.0)
        tl.store(row + OFFSETS[LAST + 4] + column, d_log_std - bonus, mask=is_output & (own | SHARED))
    if not SHARED:
        row += role * OFFSETS[2 * DEPTH]
    for i in tl.static_range(DEPTH):
        at, inside = _weight_at(row + OFFSETS[2 * i], SIZES[i], SIZES[i + 1], PADS[i], PADS[i + 1])
        tl.store(at, d_weights[DEPTH - 1 - i], mask=inside)
        n = tl.arange(0, PADS[i + 1])
        tl.store(row + OFFSETS[2 * i + 1] + n, d_biases[DEPTH - 1 - i], mask=n < SIZES[i + 1])
    at = sums_ptr + (program * tl.num_programs(1) + role) * NUM_SUMS + tl.arange(0, NUM_SUMS)
    tl.store(at, tl.sum(sums, 0) * weight)
