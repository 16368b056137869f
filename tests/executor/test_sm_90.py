"""What sm_90 and later generations add to the instructions of one warp and of one thread."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_lines import Array, compiled, launched

pytestmark = pytest.mark.quick


# Of 0xFFFF and 1, and of 0x8000 and 0x8001.
EXTREMES = {
    ("max", "s16"): 0x0001_8001,
    ("min", "s16"): 0xFFFF_8000,
    ("max", "u16"): 0xFFFF_8001,
    ("min", "u16"): 0x0001_8000,
}


def run(body: str, given: Array) -> Array:
    """Return what four registers of each lane hold, r5 to r8, after r1 to r4 were given."""
    found = np.zeros_like(given)
    text = f"""
    mad.wide.u32 %d1, %t, 16, %a0; mad.wide.u32 %d2, %t, 16, %a1; shl.b32 %r9, %t, 4;
    ld.global.v4.b32 {{%r1,%r2,%r3,%r4}}, [%d1];
    {body}
    st.global.v4.b32 [%d2], {{%r5,%r6,%r7,%r8}};
    """
    launched(compiled(text, 2, declared=".shared .align 16 .b8 memory[512];"), given, found)
    return found


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposes", [False, True], ids=["rows", "columns"])
def test_matrices_are_stored_as_lanes_hold_them(transposes: bool, count: int) -> None:
    numbers = np.arange(64 * count, dtype=np.uint16).reshape(count, 8, 8)
    given = np.zeros((32, 4), np.uint32)
    # Of each lane: two neighbours of a row of each matrix.
    given[:, :count] = np.ascontiguousarray(numbers.reshape(count, 32, 2).transpose(1, 0, 2)).view(np.uint32)[:, :, 0]
    # Addresses of lanes that have no row are not looked at: no memory is there.
    address = f"setp.lt.u32 %p1, %t, {8 * count}; selp.b32 %r10, %r9, 0x7fffffff, %p1;"
    registers = ",".join(f"%r{1 + i}" for i in range(count))
    opcode = f"stmatrix.sync.aligned.m8n8.x{count}{'.trans' if transposes else ''}.shared.b16"
    store = f"{opcode} [%r10], {{{registers}}};\nbar.warp.sync -1;"
    # Each lane reads the row whose address it gave.
    found = run(f"{address}\n{store}\nld.shared.v4.b32 {{%r5,%r6,%r7,%r8}}, [%r9];", given)
    expected = numbers.transpose(0, 2, 1) if transposes else numbers
    np.testing.assert_array_equal(found[: 8 * count].view(np.uint16).reshape(count, 8, 8), expected)


def test_pairs_do_not_carry_into_each_other() -> None:
    given = np.zeros((32, 4), np.uint32)
    given[:, 0], given[:, 1] = 0xFFFF_8000, 0x0001_8001
    found = run("add.s16x2 %r5, %r1, %r2;\nadd.u16x2 %r6, %r2, %r2;", given)
    assert found[0, :2].tolist() == [0x0000_0001, 0x0002_0002]


def test_each_of_a_pair_has_an_extreme_of_its_own() -> None:
    given = np.zeros((32, 4), np.uint32)
    given[:, 0], given[:, 1] = 0xFFFF_8000, 0x0001_8001
    lines = [f"{name}.{kind}x2 %r{5 + i}, %r1, %r2;" for i, (name, kind) in enumerate(EXTREMES)]
    assert run("\n".join(lines), given)[0].tolist() == list(EXTREMES.values())


def test_pairs_of_floats() -> None:
    given = np.array([[1.5, -2.0, 0.25, 3.0]] * 32, np.float32)
    both = "mov.b64 %d4, {%r1,%r2};\nmov.b64 %d5, {%r3,%r4};\n"
    found = run(f"{both}fma.rn.f32x2 %d6, %d4, %d5, %d5;\nmov.b64 {{%r5,%r6}}, %d6;", given)
    assert found[0, :2].tolist() == [0.625, -3.0]


def test_extremes_of_three() -> None:
    given = np.array([[1.5, -2.0, 0.25, np.nan]] * 32, np.float32)
    found = run("max.f32 %r5, %r1, %r2, %r3;\nmin.f32 %r6, %r1, %r4, %r2;\nmax.NaN.f32 %r7, %r4, %r2, %r3;", given)
    assert found[0, :2].tolist() == [1.5, -2.0]
    assert np.isnan(found[0, 2])
