"""Round numbers to tf32 in compiled code on the executor, and print their bits before and after as JSON."""

from __future__ import annotations

import json

import torch
import triton
import triton.language as tl
from ptx_executor.operant import install

from operant_gpu.kernels.triton.gradient import _rounded

# A third, one whose last bits carry over, the largest, an infinity; a GPU's NaN, NumPy's, and those with a sign.
BITS = (0x3EAAAAAB, 0x3FFFFFFF, 0x7F7FFFFF, -0x00800000, 0x7FFFFFFF, 0x7FC00000, -0x00400000, 0, 1)


@triton.jit
def round_kernel(out_ptr, x_ptr, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    tl.store(out_ptr + place, _rounded(tl.load(x_ptr + place)))


if __name__ == "__main__":
    install()
    bits = torch.tensor([*BITS] + [0] * (16 - len(BITS)), dtype=torch.int32)
    found = torch.empty(16)
    round_kernel[(1,)](found, bits.view(torch.float32), SIZE=16)
    print(json.dumps({"bits": bits.tolist(), "found": found.view(torch.int32).tolist()}))
