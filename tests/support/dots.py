"""Multiply matrices in Triton's kernels for sm_90 on the executor; print what came as JSON."""

from __future__ import annotations

import json
from typing import Any

import torch
import triton
import triton.language as tl
from ptx_executor.operant import install

# Rows, columns, terms of a sum, warps.
SHAPES = ((64, 16, 32, 4), (64, 64, 16, 4), (128, 32, 64, 4), (128, 64, 64, 8), (64, 128, 128, 4))


@triton.jit
def product_kernel(out_ptr, a_ptr, b_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, TRANSPOSED: tl.constexpr):
    """Store a @ b, (M, K) and (K, N), or of matrices that lie transposed."""
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    if TRANSPOSED:
        a = tl.trans(tl.load(a_ptr + k[:, None] * M + m[None, :]))
        b = tl.trans(tl.load(b_ptr + n[:, None] * K + k[None, :]))
    else:
        a = tl.load(a_ptr + m[:, None] * K + k[None, :])
        b = tl.load(b_ptr + k[:, None] * N + n[None, :])
    found = tl.dot(a, b, input_precision="tf32", out_dtype=tl.float32)
    tl.store(out_ptr + m[:, None] * N + n[None, :], found)


@triton.jit
def chain_kernel(out_ptr, a_ptr, b_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, TIMES: tl.constexpr):
    """Store a, (M, K), after some products with b and its transpose, (K, N), each added to what was there."""
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.load(a_ptr + m[:, None] * K + k[None, :])
    b = tl.load(b_ptr + k[:, None] * N + n[None, :])
    for _ in range(TIMES):
        a = tl.dot(tl.dot(a, b, input_precision="tf32"), tl.trans(b), a, input_precision="tf32")
    tl.store(out_ptr + m[:, None] * K + k[None, :], a)


def cut(x: torch.Tensor) -> torch.Tensor:
    """Return what tensor cores read of float32."""
    return (x.view(torch.int32) & -0x2000).view(torch.float32).double()


def record(name: str, kernel: Any, found: torch.Tensor, expected: torch.Tensor) -> None:
    """Note the error, and how many products of warpgroups the kernel's text has."""
    error = float((found.double() - expected).norm() / expected.norm())
    RECORDS[name] = {"error": error, "products": kernel.asm["ptx"].count("wgmma.mma_async")}


RECORDS: dict[str, dict[str, float]] = {}

if __name__ == "__main__":
    install(capability=90)
    generator = torch.Generator().manual_seed(0)
    for m, n, k, warps in SHAPES:
        shape = f"{m}x{n}x{k}, {warps} warps"
        a, b = torch.randn(m, k, generator=generator), torch.randn(k, n, generator=generator)
        for transposed in (False, True):
            given = [x.T.contiguous() if transposed else x for x in (a, b)]
            out = torch.full((m, n), torch.nan)
            kernel = product_kernel[(1,)](out, *given, m, n, k, transposed, num_warps=warps)
            record(f"{shape}{', transposed' * transposed}", kernel, out, cut(a) @ cut(b))
        # Whole numbers that need no more bits than operands have: every product of the chain is exact.
        a, b = torch.randint(-2, 3, (m, k), generator=generator).float(), torch.eye(k, n).roll(1, 1)
        out, expected = torch.full((m, k), torch.nan), a.double()
        kernel = chain_kernel[(1,)](out, a, b, m, n, k, 3, num_warps=warps)
        for _ in range(3):
            expected = expected + expected @ b.double() @ b.double().T
        record(f"{shape}, chained", kernel, out, expected)
    print(json.dumps(RECORDS))
