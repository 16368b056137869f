"""What PTX of NVRTC has and that of Triton has not: functions, addresses of parameters, generic ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ptx_executor import MemoryFault, Unsupported
from ptx_lines import Array, compiled, launched

LANES = 32
HEAD = "mov.u32 %r0, %t; mul.wide.u32 %d1, %r0, 8; add.u64 %d2, %a0, %d1;"


def run(body: str, *arrays: Array, more: str = "", given: bytes | None = None, outside: str = "") -> Array:
    """Return the 64 bits that each of 32 threads leaves at [%d2]; %r0 is its number, arrays are %a1 and so on."""
    out = np.zeros(LANES, np.uint64)
    kernel = compiled(f"{HEAD} {body}", 1 + len(arrays), outside, more=more)
    launched(kernel, out, *arrays, more=[] if given is None else [given], schedule=1)
    return out


FUNCTIONS = """
    .func (.param .b64 sum) add_scaled(.param .b64 base, .param .align 8 .b8 pair[16]);
    .func (.param .b32 result) tripled(.param .b32 number)
    {
        .reg .b32 %r<3>; .reg .pred %p;
        ld.param.u32 %r0, [number];
        mul.lo.u32 %r1, %r0, 3;
        setp.gt.u32 %p, %r0, 20;
        @%p bra $large;
        st.param.b32 [result+0], %r1;
        ret;
    $large:
        st.param.b32 [result+0], 1000;
        ret;
    }
    .func (.param .b64 sum) add_scaled(.param .b64 base, .param .align 8 .b8 pair[16])
    {
        .reg .b32 %r<3>; .reg .b64 %d<6>;
        ld.param.u64 %d0, [base];
        ld.param.u64 %d1, [pair];
        ld.param.u32 %r0, [pair+8];
        {
            .param .b32 given; .param .b32 back;
            st.param.b32 [given+0], %r0;
            call.uni (back), tripled, (given);
            ld.param.b32 %r1, [back+0];
        }
        cvt.u64.u32 %d2, %r1;
        add.u64 %d3, %d0, %d1;
        add.u64 %d4, %d3, %d2;
        st.param.b64 [sum+0], %d4;
        ret;
    }
"""


def calling(base: str, first: str, second: str, guard: str = "") -> str:
    return f"""{{
        .param .b64 a; .param .align 8 .b8 b[16]; .param .b64 back;
        st.param.b64 [a+0], {base};
        st.param.b64 [b+0], {first};
        st.param.b32 [b+8], {second};
        {guard} call (back), add_scaled, (a, b);
        ld.param.b64 %d10, [back+0];
    }}"""


def tripled(number: int) -> int:
    return 1000 if number > 20 else 3 * number


def test_functions_are_called_with_values_of_each_thread() -> None:
    body = f"""
        {calling("%d1", "7", "%r0")}
        mov.u64 %d11, %d10;
        add.u32 %r2, %r0, 2;
        {calling("%d11", "5", "%r2")}
        st.global.u64 [%d2], %d10;
    """
    expected = [8 * i + 7 + tripled(i) + 5 + tripled(i + 2) for i in range(LANES)]
    assert run(body, outside=FUNCTIONS).tolist() == expected


@pytest.mark.parametrize(("guard", "calls"), [("@%p1", lambda i: i < 11), ("@!%p1", lambda i: i >= 11)])
def test_a_guarded_call_leaves_the_others_out(guard: str, calls: Callable[[int], bool]) -> None:
    # What they load is what the first call has left.
    body = f"""
        {calling("0", "0", "0")}
        setp.lt.u32 %p1, %r0, 11;
        mov.u32 %r5, 0;
    $again:
        {calling("%d1", "0", "%r5", guard)}
        add.u32 %r5, %r5, 1;
        setp.lt.u32 %p2, %r5, 3;
        @%p2 bra $again;
        mov.u64 %d12, 0;
        {guard} mov.u64 %d12, %d10;
        st.global.u64 [%d2], %d12;
    """
    assert run(body, outside=FUNCTIONS).tolist() == [8 * i + 6 if calls(i) else 0 for i in range(LANES)]


@pytest.mark.parametrize(
    ("body", "outside", "message"),
    [
        ("call again;", ".func again() { call again; ret; }", "by itself"),
        ("call elsewhere;", ".extern .func elsewhere();", "no function of the module"),
        ("call %d1, (), $types;", "", "no function of the module"),
        ("{ .param .b64 a; call tripled, (a); }", FUNCTIONS, "not as declared"),
        ("{ .param .b64 a; .param .b32 b; call (a), tripled, (b); }", FUNCTIONS, "not as declared"),
        ("call (%r1), tripled, (%r2);", FUNCTIONS, "not as declared"),
        ("{ .param .b32 a; st.param.b64 [a+0], %d1; }", "", "beyond the end"),
        ("{ .param .b32 a; mov.b64 %d3, a; }", "", "address of what a function is given"),
    ],
)  # fmt: skip
def test_calls_that_are_not_known_are_refused(body: str, outside: str, message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        run(body, outside=outside)


TABLE = np.arange(100, 100 + LANES, dtype=np.uint32)
OF_TABLE = ".param .align 8 .b8 table[128]"


def test_parameters_are_read_by_computed_addresses() -> None:
    body = """
        mov.b64 %d3, table; mul.wide.u32 %d4, %r0, 4; add.u64 %d5, %d3, %d4; add.u64 %d6, %d5, 64;
        ld.param.u32 %r1, [%d6+-64]; ld.param.u32 %r2, [table+8]; add.u32 %r3, %r1, %r2; st.global.u32 [%d2], %r3;
    """
    assert run(body, given=TABLE.tobytes(), more=OF_TABLE).tolist() == (TABLE + 102).tolist()


def test_what_lies_beyond_parameters_is_found() -> None:
    body = "mov.b64 %d3, table; mul.wide.u32 %d4, %r0, 8; add.u64 %d5, %d3, %d4; ld.param.u32 %r1, [%d5];"
    with pytest.raises(MemoryFault, match=r"0x88 of 136 param bytes, by thread 16 "):
        run(body, given=TABLE.tobytes(), more=OF_TABLE)


def test_generic_addresses_lead_to_memory_of_all_kinds() -> None:
    """Threads read, by one instruction, of their own memory, of their block's and of the caller's."""
    body = """
        .local .align 8 .b8 own[16]; .shared .align 8 .b8 block[256];
        mov.u64 %d4, own; cvta.local.u64 %d5, %d4;
        mov.u64 %d6, block; add.u64 %d6, %d6, %d1; cvta.shared.u64 %d7, %d6;
        cvta.to.global.u64 %d8, %a1; add.u64 %d9, %d8, %d1;
        add.u32 %r1, %r0, 1000; add.u32 %r2, %r0, 2000;
        cvt.u64.u32 %d10, %r1; cvt.u64.u32 %d11, %r2;
        st.local.u64 [%d4+8], %d10; st.u64 [%d7], %d11;
        rem.u32 %r3, %r0, 3; setp.eq.u32 %p1, %r3, 0; setp.eq.u32 %p2, %r3, 1;
        add.u64 %d12, %d5, 8; selp.b64 %d13, %d12, %d7, %p1; selp.b64 %d14, %d9, %d13, %p2;
        ld.u64 %d15, [%d14]; add.u64 %d15, %d15, 1; st.u64 [%d14], %d15;
        cvta.to.local.u64 %d16, %d12; ld.local.u64 %d17, [%d16]; ld.shared.u64 %d18, [%d6];
        add.u64 %d19, %d17, %d18; st.global.u64 [%d2], %d19;
    """
    given = np.arange(5000, 5000 + LANES, dtype=np.uint64)
    found = run(body, given)
    lanes = np.arange(LANES)
    assert given.tolist() == (5000 + lanes + (lanes % 3 == 1)).tolist()
    assert found.tolist() == (3000 + 2 * lanes + (lanes % 3 != 1)).tolist()


def test_one_atomic_changes_memory_of_two_kinds() -> None:
    body = """
        .shared .align 8 .b8 block[8];
        mov.u64 %d4, block; st.shared.u64 [%d4], 100; cvta.shared.u64 %d5, %d4;
        bar.sync 0;
        and.b32 %r1, %r0, 1; setp.eq.u32 %p1, %r1, 0; selp.b64 %d6, %a1, %d5, %p1;
        cvt.u64.u32 %d7, %r0; atom.add.u64 %d8, [%d6], %d7;
        bar.sync 0;
        ld.shared.u64 %d9, [%d4]; st.global.u64 [%d2], %d9;
    """
    given = np.full(1, 1000, np.uint64)
    assert set(run(body, given).tolist()) == {100 + sum(range(1, LANES, 2))}
    assert given[0] == 1000 + sum(range(0, LANES, 2))


def test_generic_accesses_outside_local_memory_are_found() -> None:
    body = ".local .align 8 .b8 own[16]; mov.u64 %d4, own; cvta.local.u64 %d5, %d4; add.u64 %d5, %d5, %d1;"
    with pytest.raises(MemoryFault, match=r"0x10 of 16 local bytes, by thread 2 "):
        run(f"{body} st.u64 [%d5], %d1;")
    # Beyond the window of local memory there is nothing.
    with pytest.raises(MemoryFault, match="outside all memory"):
        run(f"{body} shl.b64 %d6, %d5, 8; ld.u64 %d7, [%d6];")
