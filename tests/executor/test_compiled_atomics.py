"""Atomics as Triton compiles them, on the executor: words that several threads of several programs change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import triton
import triton.language as tl
from ptx_executor.kernels import Executor, Module
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

PROGRAMS, BLOCK, WORDS = 2, 64, 8
KINDS = {"i32": "int32", "u32": "uint32", "i64": "int64", "u64": "uint64", "fp32": "float32", "fp64": "float64"}


@triton.jit
def change(memory, values, found, count, IS_FLOAT: tl.constexpr, IS_HALF: tl.constexpr):
    i = tl.program_id(0) * 64 + tl.arange(0, 64)
    at, inside = memory + i % 8, i < count
    value = tl.load(values + i)
    tl.store(found + i, tl.atomic_add(at, value, mask=inside))
    tl.atomic_add(at + 8, value, mask=inside, sem="relaxed")
    if not IS_HALF:
        tl.atomic_max(at + 16, value, mask=inside, sem="release")
        tl.atomic_min(at + 24, value, mask=inside, scope="cta")
        tl.store(found + 128 + i, tl.atomic_xchg(at + 32, value, mask=inside))
    tl.store(found + 256 + i, tl.atomic_cas(at + 40, value * 0, value))
    if not IS_FLOAT:
        tl.atomic_and(at + 48, value, mask=inside)
        tl.atomic_or(at + 56, value, mask=inside)
        tl.atomic_xor(at + 64, value, mask=inside)


@pytest.mark.parametrize("schedule", [None, 1])
@pytest.mark.parametrize("kind", [*KINDS, "fp16"])
def test_compiled_atomics_lose_no_change(kind: str, schedule: int | None) -> None:
    is_float, is_half = kind.startswith("fp"), kind == "fp16"
    dtype = np.dtype(KINDS.get(kind, "float16"))
    draw = np.random.default_rng(0)
    total, count = PROGRAMS * BLOCK, PROGRAMS * BLOCK - 3
    # Of few bits: sums of floats are exact in any order.
    values = (
        draw.integers(1, 8, total).astype(dtype)
        if is_float
        else np.frombuffer(draw.bytes(total * dtype.itemsize), dtype)
    )
    memory, found = np.zeros((9, WORDS), dtype), np.zeros((3, total), dtype)
    launched(kind, is_float, is_half, count, schedule, memory, np.array(values), found)
    place = np.arange(count) % WORDS
    expected = np.zeros((9, WORDS), dtype)
    functions: dict[int, Any] = {0: np.add, 1: np.add}
    functions |= {} if is_half else {2: np.maximum, 3: np.minimum}
    functions |= {} if is_float else {6: np.bitwise_and, 7: np.bitwise_or, 8: np.bitwise_xor}
    for row, function in functions.items():
        function.at(expected[row], place, values[:count])
        assert np.array_equal(memory[row], expected[row]), function
    for word in range(WORDS):
        mine = place == word
        # What one finds is what all before it have left: each value but the last is found by somebody.
        if not is_half:
            left = [0, *values[:count][mine]]
            assert sorted([*found[1, :count][mine], memory[4, word]]) == sorted(left)
        # Whoever came first has set it; all others found that.
        seen = found[2].reshape(-1, WORDS)[:, word]
        assert (seen == 0).sum() == 1
        assert set(seen[seen != 0]) == {memory[5, word]}


def launched(
    kind: str, is_float: bool, is_half: bool, count: int, schedule: int | None, *buffers: np.ndarray[Any, Any]
) -> None:
    signature = {**dict.fromkeys(("memory", "values", "found"), f"*{kind}"), "count": "i32"}
    constants = {"IS_FLOAT": is_float, "IS_HALF": is_half}
    source = ASTSource(change, signature | dict.fromkeys(constants, "constexpr"), constants)
    made = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"enable_fp_fusion": True})
    kernel = Module(made.asm["ptx"]).kernel()
    named = [(array.ctypes.data, array.nbytes, name) for name, array in zip(signature, buffers)]
    parameters = kernel.packed([*(one[0] for one in named), count])
    Executor(schedule=schedule).launch(kernel, (PROGRAMS,), (128,), parameters, named, made.metadata.shared)
