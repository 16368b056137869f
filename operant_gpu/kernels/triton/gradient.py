"""The gradient of PPO's objective for a small actor-critic network, in one kernel over tiles of a minibatch.

A program takes tiles in turn: it reads samples through the shuffle, goes forward through the network, takes the losses,
goes back, and keeps the sums of the weights' gradients on the chip. It writes them once, to a row of its own, so that
the sum over programs has an order and equal seeds give equal bits. Actor and critic are programs apart, with ROLE 0 and
1, unless they share their trunk. Samples are rows: obs (n, inputs), actions (n, components), the rest (n,).

Forward is always as exact as float32: with tf32 some samples fall on the other side of the clip, which alone changed
gradients by up to a tenth. PRECISION is that of the way back.

Blocks of the head have the outputs in the first columns, then the value. Compile-time constants are those of `mlp.py`,
and of the objective. The reference is autograd through `operant_gpu.models.update.objective`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from operant_gpu.kernels.triton.blocks import INTERPRETED

# Columns of what a program sums up over its samples.
POLICY_LOSS, VALUE_LOSS, ENTROPY, APPROX_KL, CLIP_FRAC = map(tl.constexpr, range(5))
NUM_SUMS = tl.constexpr(8)
# Bits of a status.
STOPPED, FAULTY = tl.constexpr(1), tl.constexpr(2)

_LOG_SQRT_2PI = tl.constexpr(0.9189385332046727)
_LOWEST = tl.constexpr(-3.4028234663852886e38)
_STD_EPS = tl.constexpr(1e-8)


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


@triton.jit
def _normalized(advantage, moments_ptr, PARTS: tl.constexpr):
    """Shift and scale advantages by the moments of a minibatch, merged from those of its parts."""
    part = moments_ptr + 3 * tl.arange(0, PARTS)
    count, mean, spread = tl.load(part), tl.load(part + 1), tl.load(part + 2)
    total = tl.sum(count, 0)
    center = tl.sum(count * mean, 0) / total
    variance = tl.sum(spread + count * (mean - center) * (mean - center), 0) / (total - 1.0)
    return (advantage - center) / (tl.sqrt(variance) + _STD_EPS)


@triton.jit
def _categorical(head, sample, exists, action_ptr, mask_ptr, LOW: tl.constexpr, HIGH: tl.constexpr,
                 FIRST: tl.constexpr, OUTPUTS: tl.constexpr, BLOCK: tl.constexpr, PAD: tl.constexpr):  # fmt: skip
    """Return log-probabilities and entropies, and the gradients of both by the logits."""
    column = tl.arange(0, PAD)[None, :]
    legal = column < OUTPUTS
    if mask_ptr is not None:
        at = mask_ptr + sample[:, None] * OUTPUTS + column
        legal = tl.load(at, mask=exists[:, None] & legal, other=0) != 0
    log_prob, entropy = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    d_log_prob, d_entropy = tl.zeros((BLOCK, PAD), tl.float32), tl.zeros((BLOCK, PAD), tl.float32)
    for i in tl.static_range(len(LOW)):
        inside = (column >= FIRST[i]) & (column < FIRST[i] + HIGH[i] - LOW[i])
        logits = tl.where(legal, head, _LOWEST)
        highest = tl.max(tl.where(inside, logits, float("-inf")), 1)[:, None]
        weights = tl.where(inside, tl.exp(logits - highest), 0.0)
        total = tl.sum(weights, 1)[:, None]
        probs, log_probs = weights / total, logits - highest - tl.log(total)
        action = tl.load(action_ptr + sample * len(LOW) + i, mask=exists, other=LOW[i]).to(tl.int32)
        chosen = column == (action - LOW[i] + FIRST[i])[:, None]
        log_prob += tl.sum(tl.where(chosen, log_probs, 0.0), 1)
        surprise = tl.where(inside, probs * log_probs, 0.0)
        negative = tl.sum(surprise, 1)
        entropy -= negative
        free = inside & legal
        d_log_prob += tl.where(free, tl.where(chosen, 1.0, 0.0) - probs, 0.0)
        d_entropy += tl.where(free, probs * negative[:, None] - surprise, 0.0)
    return log_prob, entropy, d_log_prob, d_entropy


@triton.jit
def _gaussian(head, sample, exists, action_ptr, log_std_ptr, OUTPUTS: tl.constexpr, PAD: tl.constexpr):
    """Return log-densities, the entropy, and the gradients of the densities by means and by log_stds."""
    column = tl.arange(0, PAD)
    inside = column < OUTPUTS
    log_std = tl.load(log_std_ptr + column, mask=inside, other=0.0)[None, :]
    at = action_ptr + sample[:, None] * OUTPUTS + column[None, :]
    inside = inside[None, :]
    action = tl.load(at, mask=exists[:, None] & inside, other=0.0)
    inverse = tl.exp(-log_std)
    deviation = tl.where(inside, (action - head) * inverse, 0.0)
    terms = tl.where(inside, -0.5 * deviation * deviation - log_std - _LOG_SQRT_2PI, 0.0)
    entropy = tl.sum(tl.where(inside, log_std + (0.5 + _LOG_SQRT_2PI), 0.0), 1)
    return tl.sum(terms, 1), entropy, deviation * inverse, tl.where(inside, deviation * deviation - 1.0, 0.0)


@triton.jit
def _objective(head, sample, exists, weight, log_std_ptr, action_ptr, mask_ptr, log_prob_ptr, value_ptr, advantage_ptr,
               moments_ptr, moments_start, LOW: tl.constexpr, HIGH: tl.constexpr, FIRST: tl.constexpr,
               OUTPUTS: tl.constexpr, CLIP_EPS: tl.constexpr, VF_CLIP_EPS: tl.constexpr, VF_COEF: tl.constexpr,
               ENT_COEF: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr, PAD: tl.constexpr):  # fmt: skip
    """Return the loss's gradients by the head and, summed, by log_stds, and what is measured of each sample."""
    column = tl.arange(0, PAD)[None, :]
    old_value = tl.load(value_ptr + sample, mask=exists, other=0.0)
    advantage = tl.load(advantage_ptr + sample, mask=exists, other=0.0)
    target = advantage + old_value
    if moments_ptr is not None:
        advantage = _normalized(advantage, moments_ptr + moments_start, PARTS)
    if len(LOW) > 0:
        log_prob, entropy, d_log_prob, d_entropy = _categorical(
            head, sample, exists, action_ptr, mask_ptr, LOW, HIGH, FIRST, OUTPUTS, BLOCK, PAD
        )
    else:
        log_prob, entropy, d_log_prob, d_density = _gaussian(
            head, sample, exists, action_ptr, log_std_ptr, OUTPUTS, PAD
        )
    log_ratio = log_prob - tl.load(log_prob_ptr + sample, mask=exists, other=0.0)
    ratio = tl.exp(log_ratio)
    plain = ratio * advantage
    clipped = tl.clamp(ratio, 1.0 - CLIP_EPS, 1.0 + CLIP_EPS) * advantage
    # What is not a number compares with nothing, and so is kept.
    is_clipped = clipped < plain
    pull = tl.where(exists, tl.where(is_clipped, 0.0, -plain) * weight, 0.0)
    square, d_value = _squared_error(tl.sum(tl.where(column == OUTPUTS, head, 0.0), 1), old_value, target, VF_CLIP_EPS)
    d_value = tl.where(exists, d_value * (VF_COEF * weight), 0.0)

    d = pull[:, None] * d_log_prob + tl.where(column == OUTPUTS, d_value[:, None], 0.0)
    if len(LOW) > 0:
        d -= tl.where(exists, ENT_COEF * weight, 0.0)[:, None] * d_entropy
        d_density = tl.zeros((PAD,), tl.float32)
    else:
        d_density = tl.sum(pull[:, None] * d_density, 0)

    which = tl.arange(0, NUM_SUMS)[None, :]
    measured = tl.where(which == POLICY_LOSS, -tl.where(is_clipped, clipped, plain)[:, None], 0.0)
    measured = tl.where(which == VALUE_LOSS, 0.5 * square[:, None], measured)
    measured = tl.where(which == ENTROPY, entropy[:, None], measured)
    measured = tl.where(which == APPROX_KL, (ratio - 1.0 - log_ratio)[:, None], measured)
    beyond = tl.where(tl.abs(ratio - 1.0) > CLIP_EPS, 1.0, 0.0)
    measured = tl.where(which == CLIP_FRAC, beyond[:, None], measured)
    return d, d_density, tl.where(exists[:, None], measured, 0.0)


@triton.jit
def _squared_error(value, old_value, target, VF_CLIP_EPS: tl.constexpr):
    """Return the squared error of values, or of clipped ones where that is larger, and half its derivative."""
    error = value - target
    square = error * error
    if VF_CLIP_EPS is not None:
        moved = value - old_value
        clipped = old_value + tl.clamp(moved, -VF_CLIP_EPS, VF_CLIP_EPS) - target
        is_larger = clipped * clipped > square
        square = tl.where(is_larger, clipped * clipped, square)
        error = tl.where(is_larger, tl.where(tl.abs(moved) > VF_CLIP_EPS, 0.0, clipped), error)
    return square, error


@triton.jit(do_not_specialize=["samples", "minibatches"])
def moments_kernel(moments_ptr, advantage_ptr, order_ptr, samples, minibatches, PARTS: tl.constexpr,
                   BLOCK: tl.constexpr):  # fmt: skip
    """Write count, mean and sum of squared deviations of each part of each minibatch: (steps, PARTS, 3).

    Program (i, j) does part i of gradient step j, counted over all epochs.
    """
    step, part = tl.program_id(1), tl.program_id(0)
    start, count = minibatch(step, samples, minibatches)
    first, last = count * part // PARTS, count * (part + 1) // PARTS
    size = last - first
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(tl.cdiv(size, BLOCK)):
        place = i * BLOCK + tl.arange(0, BLOCK)
        sample = tl.load(order_ptr + start + first + place, mask=place < size, other=0)
        total += tl.load(advantage_ptr + sample, mask=place < size, other=0.0)
    divisor = tl.maximum(size, 1).to(tl.float32)
    mean = tl.sum(total, 0) / divisor
    spread = tl.zeros((BLOCK,), tl.float32)
    for i in range(tl.cdiv(size, BLOCK)):
        place = i * BLOCK + tl.arange(0, BLOCK)
        sample = tl.load(order_ptr + start + first + place, mask=place < size, other=0)
        deviation = tl.load(advantage_ptr + sample, mask=place < size, other=0.0) - mean
        spread += tl.where(place < size, deviation * deviation, 0.0)
    at = moments_ptr + 3 * (step * PARTS + part)
    tl.store(at, size.to(tl.float32))
    tl.store(at + 1, mean)
    tl.store(at + 2, tl.sum(spread, 0))


@triton.jit
def minibatch(step, samples, minibatches):
    """Return where the order of a gradient step begins, over all epochs, and how many samples it has.

    As `torch.tensor_split` has it: the first minibatches of an epoch take one sample more.
    """
    number = step % minibatches
    share, more = samples // minibatches, samples % minibatches
    start = (step // minibatches).to(tl.int64) * samples + number * share + tl.minimum(number, more)
    return start, share + (number < more).to(tl.int32)


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
    PARTS: tl.constexpr,
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
        d, d_density, measured = _objective(
            head, sample, exists, weight, log_std_ptr, action_ptr, mask_ptr, log_prob_ptr, value_ptr, advantage_ptr,
            moments_ptr, 3 * PARTS * step, LOW, HIGH, FIRST, OUTPUTS, CLIP_EPS, VF_CLIP_EPS, VF_COEF, ENT_COEF, PARTS,
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
