"""A small actor-critic network inside a kernel, for a block of environments.

Weights stay on the chip for all steps of a rollout. Widths are padded to powers of two of at least 16, which `tl.dot`
needs; the padding is zeros. The reference is `operant_gpu.mlp.MLP.evaluate`. Compile-time constants:
    OFFSETS: Where each weight and bias begins in the flat tensor, in the order of `MLPLayout.shapes`.
    SIZES, PADS: Widths from the inputs to the last hidden layer, and what they are padded to.
    PRECISION: Of the products, as `tl.dot` takes it.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load_vector(ptr, SIZE: tl.constexpr, PAD: tl.constexpr):
    i = tl.arange(0, PAD)
    return tl.load(ptr + i, mask=i < SIZE, other=0.0)


@triton.jit
def load_layer(ptr, INPUTS: tl.constexpr, WIDTH: tl.constexpr, IN_PAD: tl.constexpr, PAD: tl.constexpr):
    """Return a weight (width, inputs) as a block (IN_PAD, PAD), ready for the product with rows of inputs."""
    k, n = tl.arange(0, IN_PAD)[:, None], tl.arange(0, PAD)[None, :]
    return tl.load(ptr + n * INPUTS + k, mask=(k < INPUTS) & (n < WIDTH), other=0.0)


@triton.jit
def as_matrix(components, mask, shift_ptr, scale_ptr, CLIP: tl.constexpr, PAD: tl.constexpr):
    """Return observations (BLOCK, PAD) from their components, scaled and clipped if there is a shift."""
    column = tl.arange(0, PAD)[None, :]
    x = mask[:, None] & (column < 0)
    x = x.to(tl.float32)
    for i in tl.static_range(len(components)):
        block = tl.where(mask, components[i], 0).to(tl.float32)
        if shift_ptr is not None:
            block = tl.clamp((block - tl.load(shift_ptr + i)) * tl.load(scale_ptr + i), -CLIP, CLIP)
        x = tl.where(column == i, block[:, None], x)
    return x


@triton.jit
def features(x, ptr, FIRST: tl.constexpr, OFFSETS: tl.constexpr, SIZES: tl.constexpr, PADS: tl.constexpr,
             ACTIVATION: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Return the last hidden layer (BLOCK, PAD) of the trunk whose weights begin at entry FIRST."""
    for i in tl.static_range(len(SIZES) - 1):
        weight = load_layer(ptr + OFFSETS[FIRST + 2 * i], SIZES[i], SIZES[i + 1], PADS[i], PADS[i + 1])
        bias = _load_vector(ptr + OFFSETS[FIRST + 2 * i + 1], SIZES[i + 1], PADS[i + 1])
        x = tl.dot(x, weight, input_precision=PRECISION) + bias[None, :]
        if ACTIVATION == "tanh":
            # exp is one instruction; where it overflows, the quotient is 0.
            x = 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x))
        else:
            x = tl.maximum(x, 0.0)
    return x


@triton.jit
def head(x, ptr, AT: tl.constexpr, OUTPUTS: tl.constexpr, PAD: tl.constexpr, OFFSETS: tl.constexpr,
         SIZES: tl.constexpr, PADS: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Return a tuple of blocks, one for each output of the last layer whose weight is entry AT."""
    weight = load_layer(ptr + OFFSETS[AT], SIZES[len(SIZES) - 1], OUTPUTS, PADS[len(PADS) - 1], PAD)
    x = tl.dot(x, weight, input_precision=PRECISION) + _load_vector(ptr + OFFSETS[AT + 1], OUTPUTS, PAD)[None, :]
    column = tl.arange(0, PAD)[None, :]
    outputs = ()
    for i in tl.static_range(OUTPUTS):
        outputs = outputs + (tl.sum(tl.where(column == i, x, 0.0), axis=1),)
    return outputs
