"""A small actor-critic network inside a kernel, for a block of environments.

Weights are read from the cache at each step: kept on the chip they would leave no room for more than one program a
multiprocessor. Widths are padded with zeros to powers of two of at least 16, which `tl.dot` needs. The reference is
`operant_gpu.mlp.MLP.evaluate`. What is compiled in of a network is one constant, `NET`, whose members
`backends/triton/constants.py` describes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from operant_gpu.kernels.triton.blocks import dot_precision, on_nvidia

# How many inputs an exact product takes at a time: all of them at once would not fit in the registers.
SLICE = tl.constexpr(16)


@triton.jit
def _load_vector(ptr, SIZE: tl.constexpr, PAD: tl.constexpr):
    i = tl.arange(0, PAD)
    return tl.load(ptr + i, mask=i < SIZE, other=0.0)


@triton.jit
def load_layer(ptr, start, INPUTS: tl.constexpr, WIDTH: tl.constexpr, IN_PAD: tl.constexpr, PAD: tl.constexpr):
    """Return a weight (width, inputs) as a block (IN_PAD, PAD), ready for the product with rows of inputs."""
    k, n = start + tl.arange(0, IN_PAD)[:, None], tl.arange(0, PAD)[None, :]
    return tl.load(ptr + n * INPUTS + k, mask=(k < INPUTS) & (n < WIDTH), other=0.0)


@triton.jit
def layer(x, ptr, bias_ptr, INPUTS: tl.constexpr, WIDTH: tl.constexpr, IN_PAD: tl.constexpr, PAD: tl.constexpr,
          PRECISION: tl.constexpr):  # fmt: skip
    """Return rows of inputs (BLOCK, IN_PAD) times a weight (width, inputs), plus a bias: (BLOCK, PAD)."""
    bias = _load_vector(bias_ptr, WIDTH, PAD)[None, :]
    if dot_precision(PRECISION) != "ieee" or IN_PAD == SLICE:
        weight = load_layer(ptr, 0, INPUTS, WIDTH, IN_PAD, PAD)
        return tl.dot(x, weight, input_precision=dot_precision(PRECISION)) + bias
    else:
        slices = tl.reshape(x, (x.shape[0], IN_PAD // SLICE, SLICE))
        number = tl.arange(0, IN_PAD // SLICE)[None, :, None]
        total = tl.zeros((x.shape[0], PAD), tl.float32)
        for i in range(IN_PAD // SLICE):
            part = tl.sum(tl.where(number == i, slices, 0.0), axis=1)
            weight = load_layer(ptr, i * SLICE, INPUTS, WIDTH, SLICE, PAD)
            total = tl.dot(part, weight, total, input_precision="ieee")
        return total + bias


@triton.jit
def as_matrix(components, mask, shift_ptr, scale_ptr, NET: tl.constexpr):
    """Return observations (BLOCK, PAD) from their components, scaled and clipped if there is a shift."""
    column = tl.arange(0, NET.PADS[0])[None, :]
    if NET.OBS_START is not None:
        return one_hot(tl.where(mask, components[0], 0), mask, NET)
    else:
        x = mask[:, None] & (column < 0)
        x = x.to(tl.float32)
        for i in tl.static_range(len(components)):
            block = tl.where(mask, components[i], 0).to(tl.float32)
            if shift_ptr is not None:
                block = tl.clamp((block - tl.load(shift_ptr + i)) * tl.load(scale_ptr + i), -NET.CLIP, NET.CLIP)
            x = tl.where(column == i, block[:, None], x)
        return x


@triton.jit
def one_hot(choice, exists, NET: tl.constexpr):
    """Return Discrete observations (BLOCK,) as rows (BLOCK, PAD) of zeros, with a one in the place of each."""
    place = choice.to(tl.int32) - NET.OBS_START
    return ((tl.arange(0, NET.PADS[0])[None, :] == place[:, None]) & exists[:, None]).to(tl.float32)


@triton.jit
def tanh(x, PRECISION: tl.constexpr):
    """Return the hyperbolic tangent, to some ulps; for tf32 on NVIDIA's to 2^-11 of it, as its products."""
    if PRECISION == "tf32" and on_nvidia():
        return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        # By its series where the difference would lose digits. Where exp overflows, the quotient is 0.
        z = x * x
        series = ((-0.005704989 * z + 0.02063909) * z - 0.05373972) * z + 0.13331442
        series = x + x * z * (series * z - 0.33333282)
        return tl.where(tl.abs(x) < 0.625, series, 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x)))


@triton.jit
def features(x, ptr, FIRST: tl.constexpr, NET: tl.constexpr):
    """Return the last hidden layer (BLOCK, PAD) of the trunk whose weights begin at entry FIRST."""
    for i in tl.static_range(NET.DEPTH):
        weight, bias = ptr + NET.OFFSETS[FIRST + 2 * i], ptr + NET.OFFSETS[FIRST + 2 * i + 1]
        x = layer(x, weight, bias, NET.SIZES[i], NET.SIZES[i + 1], NET.PADS[i], NET.PADS[i + 1], NET.PRECISION)
        if NET.ACTIVATION == "tanh":
            x = tanh(x, NET.PRECISION)
        else:
            x = tl.maximum(x, 0.0)
    return x


@triton.jit
def head(x, ptr, AT: tl.constexpr, OUTPUTS: tl.constexpr, PAD: tl.constexpr, NET: tl.constexpr):
    """Return a tuple of blocks, one for each output of the last layer whose weight is entry AT."""
    weight, bias = ptr + NET.OFFSETS[AT], ptr + NET.OFFSETS[AT + 1]
    x = layer(x, weight, bias, NET.SIZES[NET.DEPTH], OUTPUTS, NET.PADS[NET.DEPTH], PAD, NET.PRECISION)
    column = tl.arange(0, PAD)[None, :]
    outputs = ()
    for i in tl.static_range(OUTPUTS):
        outputs = outputs + (tl.sum(tl.where(column == i, x, 0.0), axis=1),)
    return outputs


@triton.jit
def value(x, ptr, NET: tl.constexpr):
    """Return the critic's block, from its last hidden layer."""
    return head(x, ptr, NET.HEAD + 2, 1, 16, NET)[0]
