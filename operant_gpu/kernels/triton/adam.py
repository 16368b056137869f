"""The end of a gradient step: sum the programs' gradients, clip their norm, and take Adam's step, in two kernels.

Parameters are taken in chunks, none of which has numbers of two tensors, so that the chunks' squares give the norm of
each tensor. All sums have an order of their own: equal seeds give equal bits. What a step decides is written for the
next one, never over what other programs still read. Arguments:
    chunks_ptr: (chunks, 3) int32: first parameter, number of them, and tensor that they are of.
    trainable_ptr: Whether a tensor is to be moved; a frozen one has no gradient.
    status_ptr, count_ptr: (steps + 1,): status, and number of steps taken, before each step.
The reference is `operant_gpu.models.ppo.optimizer.Adam`.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from operant_gpu.hyperparameters import KL_MARGIN
from operant_gpu.kernels.triton.gradient import FAULTY, STOPPED
from operant_gpu.kernels.triton.objective import APPROX_KL, CLIP_FRAC, NUM_SUMS, VALUE_LOSS, hyperparameters

# Where the norm of a step's gradient stands, after what the gradient kernel sums up.
GRAD_NORM = tl.constexpr(5)
NUM_MEASURED = tl.constexpr(6)

_BETA1, _BETA2, _EPS = tl.constexpr(0.9), tl.constexpr(0.999), tl.constexpr(1e-5)
_LOG_BETA1, _LOG_BETA2 = tl.constexpr(math.log(0.9)), tl.constexpr(math.log(0.999))
_NORM_EPS = tl.constexpr(1e-6)
_KL_MARGIN = tl.constexpr(KL_MARGIN)


@triton.jit(do_not_specialize=["step", "programs"])
def reduce_kernel(
    gradient_ptr,
    squares_ptr,
    measured_ptr,
    partials_ptr,
    sums_ptr,
    chunks_ptr,
    trainable_ptr,
    step,
    programs,
    size,
    ROLES: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Sum the partial gradients of one chunk a program, and their squares; the first program sums what was measured."""
    chunk = tl.program_id(0)
    first, count = tl.load(chunks_ptr + 3 * chunk), tl.load(chunks_ptr + 3 * chunk + 1)
    k, r = tl.arange(0, CHUNK), tl.arange(0, ROWS)
    total = tl.zeros((ROWS, CHUNK), tl.float32)
    for i in range(tl.cdiv(programs, ROWS)):
        row = i * ROWS + r
        at = partials_ptr + row[:, None].to(tl.int64) * size + first + k[None, :]
        total += tl.load(at, mask=(row < programs)[:, None] & (k < count)[None, :], other=0.0)
    gradient = tl.sum(total, 0)
    if tl.load(trainable_ptr + tl.load(chunks_ptr + 3 * chunk + 2)) == 0:
        gradient = tl.zeros((CHUNK,), tl.float32)
    tl.store(gradient_ptr + first + k, gradient, mask=k < count)
    tl.store(squares_ptr + step * tl.num_programs(0) + chunk, tl.sum(gradient * gradient, 0))
    if chunk == 0:
        which = tl.arange(0, NUM_SUMS)[None, :]
        role = tl.where(which == VALUE_LOSS, ROLES - 1, 0)
        measured = tl.zeros((ROWS, NUM_SUMS), tl.float32)
        for i in range(tl.cdiv(programs, ROWS)):
            row = (i * ROWS + r)[:, None]
            measured += tl.load(sums_ptr + (row * ROLES + role) * NUM_SUMS + which, mask=row < programs, other=0.0)
        column = tl.arange(0, NUM_SUMS)
        tl.store(measured_ptr + step * NUM_MEASURED + column, tl.sum(measured, 0), mask=column <= CLIP_FRAC)


@triton.jit(do_not_specialize=["step"])
def adam_kernel(
    parameters_ptr,
    means_ptr,
    variances_ptr,
    gradient_ptr,
    squares_ptr,
    measured_ptr,
    status_ptr,
    count_ptr,
    hyperparameters_ptr,
    chunks_ptr,
    trainable_ptr,
    step,
    LEARNER: tl.constexpr,
    NUM_CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Decide whether a step is to be taken, and take it, one chunk a program."""
    chunk, now = tl.program_id(0), hyperparameters(hyperparameters_ptr, LEARNER)
    every = tl.arange(0, NUM_CHUNKS)
    at = squares_ptr + step * tl.num_programs(0) + every
    norm = tl.sqrt(tl.sum(tl.load(at, mask=every < tl.num_programs(0), other=0.0), 0))
    column = tl.arange(0, NUM_SUMS)
    measured = tl.load(measured_ptr + step * NUM_MEASURED + column, mask=column <= CLIP_FRAC, other=0.0)
    # Losses and entropy come first.
    finite = tl.where((column >= APPROX_KL) | (tl.abs(measured) < float("inf")), 0, 1)
    is_faulty = (tl.max(finite, 0) > 0) | ~(norm < float("inf"))
    before = tl.load(status_ptr + step)
    kl = tl.sum(tl.where(column == APPROX_KL, measured, 0.0), 0)
    status = before | tl.where(is_faulty, FAULTY, 0) | tl.where(kl > _KL_MARGIN * now.target_kl, STOPPED, 0)
    if (before & STOPPED) != 0:
        status = before
    count = tl.load(count_ptr + step)
    taken = tl.where(status == 0, 1.0, 0.0)
    if chunk == 0:
        tl.store(status_ptr + step + 1, status)
        tl.store(count_ptr + step + 1, count + taken)
        tl.store(measured_ptr + step * NUM_MEASURED + GRAD_NORM, norm)
    is_trainable = tl.load(trainable_ptr + tl.load(chunks_ptr + 3 * chunk + 2)) != 0
    if (status == 0) & is_trainable:
        first, size = tl.load(chunks_ptr + 3 * chunk), tl.load(chunks_ptr + 3 * chunk + 1)
        k = tl.arange(0, CHUNK)
        inside = k < size
        # In float64: after the first steps, what is left of 1 is a thousandth.
        number = (count + 1.0).to(tl.float64)
        correction1 = (1.0 - tl.exp(number * _LOG_BETA1)).to(tl.float32)
        correction2 = (1.0 - tl.exp(number * _LOG_BETA2)).to(tl.float32)
        gradient = tl.load(gradient_ptr + first + k, mask=inside, other=0.0)
        gradient = gradient / tl.maximum((norm + _NORM_EPS) / now.max_grad_norm, 1.0)
        mean = tl.load(means_ptr + first + k, mask=inside, other=0.0)
        variance = tl.load(variances_ptr + first + k, mask=inside, other=0.0)
        mean = _BETA1 * mean + (1.0 - _BETA1) * gradient
        variance = _BETA2 * variance + (1.0 - _BETA2) * gradient * gradient
        deviation = tl.sqrt(variance) / tl.sqrt(correction2) + _EPS
        moved = tl.load(parameters_ptr + first + k, mask=inside, other=0.0)
        moved -= now.lr / correction1 * mean / deviation
        tl.store(means_ptr + first + k, mean, mask=inside)
        tl.store(variances_ptr + first + k, variance, mask=inside)
        tl.store(parameters_ptr + first + k, moved, mask=inside)
