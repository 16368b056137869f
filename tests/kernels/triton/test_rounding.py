"""Factors of products are rounded to what tensor cores read of them."""

from __future__ import annotations

import pytest
import torch
from here import EXECUTED, HAS_TRITON

pytest.importorskip("triton", reason="the kernel's file needs Triton")

import triton
import triton.language as tl

from operant_gpu.backends.triton.launching import launch
from operant_gpu.backends.triton.update import OPTIONS
from operant_gpu.kernels.triton.gradient import _rounded

# A third, one whose last bits carry over, the largest, an infinity; a GPU's NaN, NumPy's, and those with a sign.
BITS = (0x3EAAAAAB, 0x3FFFFFFF, 0x7F7FFFFF, -0x00800000, 0x7FFFFFFF, 0x7FC00000, -0x00400000, 1)
# What a GPU makes of its NaN where it changes a sign.
BITS += (-1,) * EXECUTED


@triton.jit
def round_kernel(out_ptr, x_ptr, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    tl.store(out_ptr + place, _rounded(tl.load(x_ptr + place)))


@pytest.mark.skipif(not HAS_TRITON, reason="needs what runs Triton's kernels")
def test_triton_rounds_factors_to_tf32() -> None:
    bits, found = torch.tensor([*BITS, *[0] * (16 - len(BITS))], dtype=torch.int32), torch.empty(16)
    x = bits.view(torch.float32)
    launch(round_kernel, (1,), (found, x), {"SIZE": 16}, x.device, OPTIONS, "")
    assert torch.equal(found.view(torch.int32) & 0x1FFF, torch.zeros_like(bits))
    assert torch.equal(found.isnan(), x.isnan())
    numbers = x.isfinite() & found.isfinite()
    # Half a spacing of 11 significant bits.
    assert ((found - x).abs()[numbers] <= (2.0**-11 * x.abs())[numbers] + 1e-42).all()
