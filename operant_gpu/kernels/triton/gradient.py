"""The gradient of PPO's objective for a small actor-critic network, in one kernel over tiles of a minibatch.

A program takes tiles in turn: it reads samples through the shuffle, goes forward through the network, takes the losses,
goes back, and keeps the sums of the weights' gradients on the chip. It writes them once, to a row of its own, so that
the sum over programs has an order and equal seeds give equal bits. Actor and critic are programs apart, with ROLE 0 and
1, unless they share their trunk. Samples are rows: obs (n, inputs), actions (n, components), the rest (n,).

Forward is always as exact as float32: with tf32 some samples fall on the other side of the clip, which alone changed
gradients by up to a tenth. PRECISION is that of the way back.

Blocks of the head have the outputs in the first columns, then the value. Compile-time constants are those of `mlp.py`,
of the actions and of the objective. The reference is autograd through `operant_gpu.models.ppo.update.objective`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from operant_gpu.kernels.triton.blocks import dot_precision, on_nvidia
from operant_gpu.kernels.triton.mlp import one_hot
from operant_gpu.kernels.triton.objective import NUM_SUMS, hyperparameters, minibatch, objective

# Bits of a status.
STOPPED, FAULTY = tl.constexpr(1), tl.constexpr(2)


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """Return a matrix product: of tf32 numbers, or for "ieee" as exact as float32, on NVIDIA's by three of those."""
    if dot_precision(PRECISION) == "tf32":
        a, b = _rounded(a), _rounded(b)
    if PRECISION == "ieee" and on_nvidia():
        return tl.dot(a, b, input_precision="tf32x3")
    else:
        return tl.dot(a, b, input_precision=dot_precision(PRECISION))


@triton.jit
def _rounded(x):
    """Return numbers rounded to tf32: the interpreter would take them whole, and tensor cores cut their last bits off.

    Cut off, all errors lean to one side, and gradients were wrong by up to 3e-3 of their norm. A GPU's NaN has all bits
    set but the sign: the minimum keeps it from overflowing to a zero. With a sign, the sum takes that away.
    """
    bits = (x + 0.0).to(tl.int32, bitcast=True)
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
def _weight_at(ptr, i: tl.constexpr, NET: tl.constexpr):
    """Return where a weight (width, inputs) of a trunk is, as a block (PAD, IN_PAD), and what of it exists."""
    n, k = tl.arange(0, NET.PADS[i + 1])[:, None], tl.arange(0, NET.PADS[i])[None, :]
    return ptr + NET.OFFSETS[2 * i] + n * NET.SIZES[i] + k, (n < NET.SIZES[i + 1]) & (k < NET.SIZES[i])


@triton.jit
def _no_gradient(PAD: tl.constexpr, IN_PAD: tl.constexpr):
    """Return zeros for a layer's weight and bias."""
    return tl.zeros((PAD, IN_PAD), tl.float32), tl.zeros((PAD,), tl.float32)


@triton.jit
def _observations(obs_ptr, sample, exists, shift_ptr, scale_ptr, NET: tl.constexpr):
    """Return observations (BLOCK, PAD), scaled and clipped if there is a shift."""
    if NET.OBS_START is not None:
        return one_hot(tl.load(obs_ptr + sample, mask=exists, other=0), exists, NET)
    else:
        k = tl.arange(0, NET.PADS[0])
        inside = k < NET.SIZES[0]
        place = sample[:, None] * NET.SIZES[0] + k[None, :]
        x = tl.load(obs_ptr + place, mask=exists[:, None] & inside[None, :], other=0).to(tl.float32)
        if shift_ptr is not None:
            shift = tl.load(shift_ptr + k, mask=inside, other=0.0)
            scale = tl.load(scale_ptr + k, mask=inside, other=0.0)
            x = tl.clamp((x - shift[None, :]) * scale[None, :], -NET.CLIP, NET.CLIP)
        return x


@triton.jit(do_not_specialize=["step", "samples", "minibatches"])
def gradient_kernel(
    partials_ptr,
    sums_ptr,
    status_ptr,
    hyperparameters_ptr,
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
    ACTIONS: tl.constexpr,
    NET: tl.constexpr,
    LEARNER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write a program's share of a gradient step's gradient, to its row of `partials`, and of its sums.

    The status of the step tells whether the iteration has stopped: then all shares are zero.
    """
    DEPTH: tl.constexpr = NET.DEPTH
    HEAD: tl.constexpr = NET.HEAD
    WIDTH: tl.constexpr = NET.SIZES[DEPTH]
    PAD: tl.constexpr = NET.PADS[DEPTH]
    HEAD_PAD: tl.constexpr = NET.HEAD_PAD
    program, role = tl.program_id(0), tl.program_id(1)
    trunk = parameters_ptr
    if not NET.SHARED:
        trunk = parameters_ptr + role * NET.OFFSETS[2 * DEPTH]
    start, count = minibatch(step, samples, minibatches)
    weight = 1.0 / count.to(tl.float32)
    tiles = tl.cdiv(count, BLOCK)
    if tl.load(status_ptr + step) & STOPPED:
        tiles = tiles * 0

    column = tl.arange(0, HEAD_PAD)
    is_output, is_value = column < NET.OUTPUTS, column == NET.OUTPUTS
    if NET.SHARED:
        own = column <= NET.OUTPUTS
    else:
        own = (column >= role * NET.OUTPUTS) & (column < NET.OUTPUTS + role)
    head_start = tl.where(is_value, NET.OFFSETS[HEAD + 2], NET.OFFSETS[HEAD] + column * WIDTH)
    bias_start = tl.where(is_value, NET.OFFSETS[HEAD + 3], NET.OFFSETS[HEAD + 1] + column)
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
        weights, biases = _no_gradient(NET.PADS[DEPTH - i], NET.PADS[DEPTH - 1 - i])
        d_weights = d_weights + (weights,)
        d_biases = d_biases + (biases,)
    sums = tl.zeros((BLOCK, NUM_SUMS), tl.float32)

    for tile in range(program, tiles, tl.num_programs(0)):
        place = tile * BLOCK + tl.arange(0, BLOCK)
        exists = place < count
        sample = tl.load(order_ptr + start + place, mask=exists, other=0).to(tl.int64)
        x = _observations(obs_ptr, sample, exists, shift_ptr, scale_ptr, NET)
        layers = (x,)
        for i in tl.static_range(DEPTH):
            at, inside = _weight_at(trunk, i, NET)
            w = tl.load(at, mask=inside, other=0.0)
            n = tl.arange(0, NET.PADS[i + 1])
            bias = tl.load(trunk + NET.OFFSETS[2 * i + 1] + n, mask=n < NET.SIZES[i + 1], other=0.0)
            x = _activated(product(x, tl.trans(w), "ieee") + bias[None, :], NET.ACTIVATION)
            layers = layers + (x,)
        w = tl.load(parameters_ptr + head_at, mask=in_head, other=0.0)
        bias = tl.load(parameters_ptr + bias_start, mask=own, other=0.0)
        head = product(x, w, "ieee") + bias[None, :]

        log_std_ptr = parameters_ptr
        if len(ACTIONS.LOW) == 0:
            log_std_ptr = parameters_ptr + NET.OFFSETS[HEAD + 4]
        d, d_density, measured = objective(
            head, sample, exists, weight, log_std_ptr, action_ptr, mask_ptr, log_prob_ptr, value_ptr, advantage_ptr,
            moments_ptr, 3 * LEARNER.PIECES * step, hyperparameters_ptr, ACTIONS, NET, LEARNER, BLOCK,
        )  # fmt: skip
        d = tl.where(own[None, :], d, 0.0)
        d_log_std += d_density
        sums += measured

        d_head_weight += product(tl.trans(layers[DEPTH]), d, NET.PRECISION)
        d_head_bias += tl.sum(d, 0)
        if DEPTH > 0:
            d = product(d, tl.trans(w), NET.PRECISION)
        new_weights = ()
        new_biases = ()
        for i in tl.static_range(DEPTH - 1, -1, -1):
            d = d * _slope(layers[i + 1], NET.ACTIVATION)
            new_weights = new_weights + (d_weights[DEPTH - 1 - i] + product(tl.trans(d), layers[i], NET.PRECISION),)
            new_biases = new_biases + (d_biases[DEPTH - 1 - i] + tl.sum(d, 0),)
            if i > 0:
                at, inside = _weight_at(trunk, i, NET)
                d = product(d, tl.load(at, mask=inside, other=0.0), NET.PRECISION)
        d_weights = new_weights
        d_biases = new_biases

    row = partials_ptr + program.to(tl.int64) * NET.OFFSETS[len(NET.OFFSETS) - 1]
    tl.store(row + head_at, d_head_weight, mask=in_head)
    tl.store(row + bias_start, d_head_bias, mask=own)
    if len(ACTIONS.LOW) == 0:
        # The entropy of normals grows by as much as the logarithms do.
        now = hyperparameters(hyperparameters_ptr, LEARNER)
        bonus = tl.where((program == 0) & (tiles > 0), now.ent_coef, 0.0)
        tl.store(row + NET.OFFSETS[HEAD + 4] + column, d_log_std - bonus, mask=is_output & (own | NET.SHARED))
    if not NET.SHARED:
        row += role * NET.OFFSETS[2 * DEPTH]
    for i in tl.static_range(DEPTH):
        at, inside = _weight_at(row, i, NET)
        tl.store(at, d_weights[DEPTH - 1 - i], mask=inside)
        n = tl.arange(0, NET.PADS[i + 1])
        tl.store(row + NET.OFFSETS[2 * i + 1] + n, d_biases[DEPTH - 1 - i], mask=n < NET.SIZES[i + 1])
    at = sums_ptr + (program * tl.num_programs(1) + role) * NUM_SUMS + tl.arange(0, NUM_SUMS)
    tl.store(at, tl.sum(sums, 0) * weight)
