"""PPO's objective for samples in Triton: the losses of a tile, their gradients by the head, and what is measured.

Before it come the cut of an iteration into minibatches and, in a kernel, the moments of each one's advantages.

A tile's head has the distribution's outputs in its first columns, then the value. Samples are rows: actions
(n, components), the rest (n,). The reference is autograd through `operant_gpu.models.ppo.update.objective`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from operant_gpu.sampling import LOG_SQRT_2PI, LOWEST

# Columns of what a program sums up over its samples.
POLICY_LOSS, VALUE_LOSS, ENTROPY, APPROX_KL, CLIP_FRAC = map(tl.constexpr, range(5))
NUM_SUMS = tl.constexpr(8)

_STD_EPS = tl.constexpr(1e-8)


@triton.jit(do_not_specialize=["samples", "minibatches"])
def moments_kernel(moments_ptr, advantage_ptr, order_ptr, samples, minibatches, PIECES: tl.constexpr,
                   BLOCK: tl.constexpr):  # fmt: skip
    """Write count, mean and sum of squared deviations of each piece of each minibatch: (steps, PIECES, 3).

    Program (i, j) does piece j of gradient step i, counted over all epochs: there may be more than a grid has on its
    second axis.
    """
    step, piece = tl.program_id(0), tl.program_id(1)
    start, count = minibatch(step, samples, minibatches)
    first, last = piece_of(count, piece, PIECES)
    size = (last - first).to(tl.int32)
    # Of differences: where all are equal, their mean is exactly that, and what is shifted by it 0.
    origin = tl.load(advantage_ptr + tl.load(order_ptr + start + first, mask=size > 0, other=0))
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(tl.cdiv(size, BLOCK)):
        place = i * BLOCK + tl.arange(0, BLOCK)
        sample = tl.load(order_ptr + start + first + place, mask=place < size, other=0)
        total += tl.where(place < size, tl.load(advantage_ptr + sample, mask=place < size, other=0.0) - origin, 0.0)
    divisor = tl.maximum(size, 1).to(tl.float32)
    mean = origin + tl.sum(total, 0) / divisor
    spread = tl.zeros((BLOCK,), tl.float32)
    for i in range(tl.cdiv(size, BLOCK)):
        place = i * BLOCK + tl.arange(0, BLOCK)
        sample = tl.load(order_ptr + start + first + place, mask=place < size, other=0)
        deviation = tl.load(advantage_ptr + sample, mask=place < size, other=0.0) - mean
        spread += tl.where(place < size, deviation * deviation, 0.0)
    at = moments_ptr + 3 * (step * PIECES + piece)
    tl.store(at, size.to(tl.float32))
    tl.store(at + 1, mean)
    tl.store(at + 2, tl.sum(spread, 0))


@triton.jit
def piece_of(count, piece, PIECES: tl.constexpr):
    """Return where a piece of so many samples begins and ends, int64: samples times pieces leave 32 bits."""
    count = tl.cast(count, tl.int64)
    return count * piece // PIECES, count * (piece + 1) // PIECES


@triton.jit
def minibatch(step, samples, minibatches):
    """Return where the order of a gradient step begins, over all epochs, and how many samples it has.

    As `torch.tensor_split` has it: the first minibatches of an epoch take one sample more.
    """
    number = step % minibatches
    share, more = samples // minibatches, samples % minibatches
    start = (step // minibatches).to(tl.int64) * samples + number * share + tl.minimum(number, more)
    return start, share + (number < more).to(tl.int32)


@triton.jit
def hyperparameters(ptr, LEARNER: tl.constexpr):
    """Return those of the iteration, by their names."""
    numbers = ()
    for i in tl.static_range(len(LEARNER.NAMES)):
        numbers = numbers + (tl.load(ptr + i),)
    return LEARNER.MAKE(*numbers)


@triton.jit
def objective(head, sample, exists, weight, log_std_ptr, action_ptr, mask_ptr, log_prob_ptr, value_ptr, advantage_ptr,
              moments_ptr, moments_start, hyperparameters_ptr, ACTIONS: tl.constexpr, NET: tl.constexpr,
              LEARNER: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Return the loss's gradients by the head and, summed, by log_stds, and what is measured of each sample."""
    column, now = tl.arange(0, NET.HEAD_PAD)[None, :], hyperparameters(hyperparameters_ptr, LEARNER)
    old_value = tl.load(value_ptr + sample, mask=exists, other=0.0)
    advantage = tl.load(advantage_ptr + sample, mask=exists, other=0.0)
    target = advantage + old_value
    if moments_ptr is not None:
        advantage = _normalized(advantage, moments_ptr + moments_start, LEARNER.PIECES)
    if len(ACTIONS.LOW) > 0:
        log_prob, entropy, d_log_prob, d_entropy = _categorical(
            head, sample, exists, action_ptr, mask_ptr, ACTIONS, NET, BLOCK
        )
    else:
        log_prob, entropy, d_log_prob, d_density = _gaussian(head, sample, exists, action_ptr, log_std_ptr, NET)
    log_ratio = log_prob - tl.load(log_prob_ptr + sample, mask=exists, other=0.0)
    ratio = tl.exp(log_ratio)
    plain = ratio * advantage
    clipped = tl.clamp(ratio, 1.0 - now.clip_eps, 1.0 + now.clip_eps) * advantage
    # What is not a number compares with nothing, and so is kept.
    is_clipped = clipped < plain
    pull = tl.where(exists, tl.where(is_clipped, 0.0, -plain) * weight, 0.0)
    is_value = column == NET.OUTPUTS
    square, d_value = _squared_error(tl.sum(tl.where(is_value, head, 0.0), 1), old_value, target, now.vf_clip_eps)
    d_value = tl.where(exists, d_value * (now.vf_coef * weight), 0.0)

    d = pull[:, None] * d_log_prob + tl.where(is_value, d_value[:, None], 0.0)
    if len(ACTIONS.LOW) > 0:
        d -= tl.where(exists, now.ent_coef * weight, 0.0)[:, None] * d_entropy
        d_density = tl.zeros((NET.HEAD_PAD,), tl.float32)
    else:
        d_density = tl.sum(pull[:, None] * d_density, 0)

    which = tl.arange(0, NUM_SUMS)[None, :]
    measured = tl.where(which == POLICY_LOSS, -tl.where(is_clipped, clipped, plain)[:, None], 0.0)
    measured = tl.where(which == VALUE_LOSS, 0.5 * square[:, None], measured)
    measured = tl.where(which == ENTROPY, entropy[:, None], measured)
    measured = tl.where(which == APPROX_KL, (ratio - 1.0 - log_ratio)[:, None], measured)
    beyond = tl.where(tl.abs(ratio - 1.0) > now.clip_eps, 1.0, 0.0)
    measured = tl.where(which == CLIP_FRAC, beyond[:, None], measured)
    return d, d_density, tl.where(exists[:, None], measured, 0.0)


@triton.jit
def _squared_error(value, old_value, target, clip_eps):
    """Return the squared error of values, or of clipped ones where that is larger, and half its derivative."""
    error, moved = value - target, value - old_value
    clipped = old_value + tl.clamp(moved, -clip_eps, clip_eps) - target
    is_larger = (tl.abs(moved) > clip_eps) & (clipped * clipped > error * error)
    return tl.where(is_larger, clipped * clipped, error * error), tl.where(is_larger, 0.0, error)


@triton.jit
def _normalized(advantage, moments_ptr, PIECES: tl.constexpr):
    """Shift and scale advantages by the moments of a minibatch, merged from those of its pieces."""
    piece = moments_ptr + 3 * tl.arange(0, PIECES)
    count, mean, spread = tl.load(piece), tl.load(piece + 1), tl.load(piece + 2)
    total, origin = tl.sum(count, 0), tl.max(tl.where(count > 0, mean, -float("inf")), 0)
    center = origin + tl.sum(tl.where(count > 0, count * (mean - origin), 0.0), 0) / total
    variance = tl.sum(spread + count * (mean - center) * (mean - center), 0) / (total - 1.0)
    return (advantage - center) / (tl.sqrt(variance) + _STD_EPS)


@triton.jit
def _categorical(head, sample, exists, action_ptr, mask_ptr, ACTIONS: tl.constexpr, NET: tl.constexpr,
                 BLOCK: tl.constexpr):  # fmt: skip
    """Return log-probabilities and entropies, and the gradients of both by the logits."""
    LOW: tl.constexpr = ACTIONS.LOW
    FIRST: tl.constexpr = ACTIONS.FIRST
    PAD: tl.constexpr = NET.HEAD_PAD
    column = tl.arange(0, PAD)[None, :]
    legal = column < NET.OUTPUTS
    if mask_ptr is not None:
        at = mask_ptr + sample[:, None] * NET.OUTPUTS + column
        legal = tl.load(at, mask=exists[:, None] & legal, other=0) != 0
    log_prob, entropy = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    d_log_prob, d_entropy = tl.zeros((BLOCK, PAD), tl.float32), tl.zeros((BLOCK, PAD), tl.float32)
    for i in tl.static_range(len(LOW)):
        inside = (column >= FIRST[i]) & (column < FIRST[i] + ACTIONS.HIGH[i] - LOW[i])
        logits = tl.where(legal, head, LOWEST)
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
def _gaussian(head, sample, exists, action_ptr, log_std_ptr, NET: tl.constexpr):
    """Return log-densities, the entropy, and the gradients of the densities by means and by log_stds."""
    column = tl.arange(0, NET.HEAD_PAD)
    inside = column < NET.OUTPUTS
    log_std = tl.load(log_std_ptr + column, mask=inside, other=0.0)[None, :]
    at = action_ptr + sample[:, None] * NET.OUTPUTS + column[None, :]
    inside = inside[None, :]
    action = tl.load(at, mask=exists[:, None] & inside, other=0.0)
    inverse = tl.exp(-log_std)
    deviation = tl.where(inside, (action - head) * inverse, 0.0)
    terms = tl.where(inside, -0.5 * deviation * deviation - log_std - LOG_SQRT_2PI, 0.0)
    entropy = tl.sum(tl.where(inside, log_std + (0.5 + LOG_SQRT_2PI), 0.0), 1)
    return tl.sum(terms, 1), entropy, deviation * inverse, tl.where(inside, deviation * deviation - 1.0, 0.0)
