"""What sm_90 and later generations add to the instructions of one warp and of one thread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ptx_executor import Executor, Module

pytestmark = pytest.mark.quick

TEXT = """
.version 8.0
.target sm_90a
.address_size 64
.visible .entry kernel(.param .u64 given, .param .u64 found) .reqntid 32
{
    .reg .b32 %r<16>;
    .reg .b64 %rd<8>;
    .shared .align 16 .b8 memory[512];
    ld.param.u64 %rd1, [given];
    ld.param.u64 %rd2, [found];
    mov.u32 %r0, %tid.x;
    mul.wide.u32 %rd3, %r0, 16;
    add.u64 %rd1, %rd1, %rd3;
    add.u64 %rd2, %rd2, %rd3;
    ld.global.v4.b32 {%r1,%r2,%r3,%r4}, [%rd1];
    shl.b32 %r9, %r0, 4;
    BODY
    st.global.v4.b32 [%rd2], {%r5,%r6,%r7,%r8};
    ret;
}
"""


def run(body: str, given: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return what four registers of each lane hold, r5 to r8, after r1 to r4 were given."""
    kernel, found = Module(TEXT.replace("BODY", body)).kernel(), np.zeros_like(given)
    buffers = [(one.ctypes.data, one.nbytes, name) for one, name in ((given, "given"), (found, "found"))]
    Executor().launch(kernel, (1,), (32,), kernel.packed([address for address, *_ in buffers]), buffers)
    return found


@pytest.mark.parametrize("transposes", [False, True], ids=["rows", "columns"])
def test_matrices_are_stored_as_lanes_hold_them(transposes: bool) -> None:
    numbers = np.arange(256, dtype=np.uint16).reshape(4, 8, 8)
    # Of each lane: two neighbours of a row of each matrix.
    given = np.ascontiguousarray(numbers.reshape(4, 32, 2).transpose(1, 0, 2)).view(np.uint32)[:, :, 0].copy()
    store = f"stmatrix.sync.aligned.m8n8.x4{'.trans' if transposes else ''}.shared.b16 [%r9], {{%r1,%r2,%r3,%r4}};"
    # Each lane reads the row whose address it gave.
    found = run(f"{store}\nbar.warp.sync -1;\nld.shared.v4.b32 {{%r5,%r6,%r7,%r8}}, [%r9];", given)
    expected = numbers.transpose(0, 2, 1) if transposes else numbers
    np.testing.assert_array_equal(found.view(np.uint16).reshape(4, 8, 8), expected)


@pytest.mark.parametrize("transposes", [False, True], ids=["rows", "columns"])
def test_matrices_come_back(transposes: bool) -> None:
    given, trans = np.random.default_rng(0).integers(0, 2**32, (32, 4), np.uint32), ".trans" * transposes
    found = run(
        f"stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%r9], {{%r1,%r2,%r3,%r4}};\nbar.warp.sync -1;\n"
        f"ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r5,%r6,%r7,%r8}}, [%r9];",
        given,
    )
    np.testing.assert_array_equal(found, given)


def test_extremes_of_sizes_have_the_sign_of_the_product() -> None:
    pairs = [(1, 2), (-1, 2), (1, -2), (-1, -2), (-0.0, 3), (np.nan, -2), (-2, np.nan), (np.inf, -1)]
    given = np.zeros((32, 4), np.float32)
    given[: len(pairs), :2] = pairs
    found = run("min.xorsign.abs.f32 %r5, %r1, %r2;\nmax.xorsign.abs.f32 %r6, %r1, %r2;", given)[: len(pairs), :2]
    expected = [(1, 2), (-1, -2), (-1, -2), (1, 2), (-0.0, -3), (-2, -2), (-2, -2), (-1, -np.inf)]
    assert np.signbit(found).tolist() == np.signbit(np.array(expected, np.float32)).tolist()
    np.testing.assert_array_equal(abs(found), abs(np.array(expected, np.float32)))


def test_pairs_do_not_carry_into_each_other() -> None:
    given = np.zeros((32, 4), np.uint32)
    given[:, 0], given[:, 1] = 0xFFFF_8000, 0x0001_8001
    found = run("add.s16x2 %r5, %r1, %r2;\nadd.u16x2 %r6, %r2, %r2;", given)
    assert found[0, :2].tolist() == [0x0000_0001, 0x0002_0002]


def test_pairs_of_floats() -> None:
    given = np.array([[1.5, -2.0, 0.25, 3.0]] * 32, np.float32)
    both = "mov.b64 %rd4, {%r1,%r2};\nmov.b64 %rd5, {%r3,%r4};\n"
    found = run(f"{both}fma.rn.f32x2 %rd6, %rd4, %rd5, %rd5;\nmov.b64 {{%r5,%r6}}, %rd6;", given)
    assert found[0, :2].tolist() == [0.625, -3.0]


def test_extremes_of_three() -> None:
    given = np.array([[1.5, -2.0, 0.25, np.nan]] * 32, np.float32)
    found = run("max.f32 %r5, %r1, %r2, %r3;\nmin.f32 %r6, %r1, %r4, %r2;\nmax.NaN.f32 %r7, %r4, %r2, %r3;", given)
    assert found[0, :2].tolist() == [1.5, -2.0]
    assert np.isnan(found[0, 2])
