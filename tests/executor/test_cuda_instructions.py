"""What PTX of NVRTC has and that of Triton has not: functions, addresses of parameters, generic ones, roundings."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from ptx_executor import Executor, MemoryFault, Module, Unsupported

LANES = 32
HEAD = """
    .reg .pred %p<4>; .reg .b32 %r<20>; .reg .f32 %f<8>; .reg .b64 %rd<20>;
    mov.u32 %r0, %tid.x;
    ld.param.u64 %rd0, [out];
    mul.wide.u32 %rd1, %r0, 8;
    add.u64 %rd2, %rd0, %rd1;
"""


def run(body: str, *values: np.ndarray | bytes, parameters: str = "", before: str = "") -> np.ndarray:
    """Return the 64 bits that each of 32 threads leaves at [%rd2]; %r0 is its number, arrays are given by address."""
    text = f"""
        .version 8.0
        .target sm_80
        .address_size 64
        {before}
        .visible .entry kernel(.param .u64 out{parameters})
        {{ {HEAD} {body} ret; }}
    """
    kernel, out = Module(text).kernel(), np.zeros(LANES, np.uint64)
    arrays = [out, *(value for value in values if isinstance(value, np.ndarray))]
    packed = [value if isinstance(value, bytes) else value.ctypes.data for value in (out, *values)]
    buffers = [(array.ctypes.data, array.nbytes, f"array {i}") for i, array in enumerate(arrays)]
    Executor(schedule=1).launch(kernel, (1,), (LANES,), kernel.packed(packed), buffers)
    return out


def applied(instruction: str, bits: list[np.ndarray]) -> np.ndarray:
    """Return what an instruction makes of operands: `{0}` to `{2}` stand for registers of their bits, `{d}` for 32."""
    width, found = bits[0].dtype.itemsize * 8, []
    for start in range(0, len(bits[0]), LANES):
        parts = [np.ascontiguousarray(np.resize(each[start : start + LANES], LANES)) for each in bits]
        loads = "".join(
            f"ld.param.u64 %rd{3 + i}, [in{i}]; mul.wide.u32 %rd10, %r0, {width // 8}; add.u64 %rd{3 + i}, "
            f"%rd{3 + i}, %rd10; .reg .b{width} %x{i}; ld.global.b{width} %x{i}, [%rd{3 + i}];"
            for i in range(len(parts))
        )
        line = instruction.format(*(f"%x{i}" for i in range(len(parts))), d="%r1")
        named = "".join(f", .param .u64 in{i}" for i in range(len(parts)))
        found.append(run(f"{loads} {line}; st.global.u32 [%rd2], %r1;", *parts, parameters=named))
    return np.concatenate(found)[: len(bits[0])].astype(np.uint32)


def floats() -> list[np.ndarray]:
    """Return operands of a fused product: any bits, numbers whose sums cancel or tie, and special ones."""
    rng = np.random.default_rng(3)
    a, b, c = rng.integers(0, 2**32, (3, 320), np.uint32).view(np.float32)
    x, y = rng.normal(size=(2, 320)).astype(np.float32)
    cancelled = -(x.astype(np.float64) * y).astype(np.float32)
    special = np.float32([0, -0.0, 1, -1, 1e-45, -1e-45, 3.4e38, np.inf, -np.inf, np.nan])
    every = np.stack(np.meshgrid(special, special, special), -1).reshape(-1, 3).T
    return [np.concatenate(parts) for parts in zip((a, b, c), (x, y, cancelled), (x, y, np.roll(x, 1)), every)]


def rounded(exact: Fraction, mode: str) -> float:
    """Return the float32 on the side of a number that the mode asks for: of all floats, in order, the nearest there."""
    low, high = 0, 0x7F800000

    def value(bits: int) -> Any:
        return math.inf if bits == high else Fraction(float(np.uint32(bits).view(np.float32)))

    size, is_negative = abs(exact), exact < 0
    below, above = low, high
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if value(middle) <= size else (below, middle)
    outwards = mode == ("m" if is_negative else "p")
    bits = above if outwards and value(below) != size else below
    return float(np.uint32(bits | is_negative << 31).view(np.float32))


@pytest.mark.parametrize("mode", ["z", "m", "p"])
def test_directed_rounding_of_fused_products(mode: str) -> None:
    a, b, c = floats()
    found = applied(f"fma.r{mode}.f32 {{d}}, {{0}}, {{1}}, {{2}}", [x.view(np.uint32) for x in (a, b, c)])
    for x, y, z, bits in zip(a, b, c, found, strict=True):
        result = float(np.uint32(bits).view(np.float32))
        if not np.isfinite([x, y, z]).all():
            with np.errstate(invalid="ignore", over="ignore"):
                expected = float(np.float64(x) * np.float64(y) + np.float64(z))
        elif exact := Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)):
            expected = rounded(exact, mode)
        else:
            signs = {np.signbit(x) ^ np.signbit(y), np.signbit(z)}
            expected = -0.0 if signs == {True} or (len(signs) == 2 and mode == "m") else 0.0
        told = f"fma.r{mode}({x!r}, {y!r}, {z!r}) is {result!r}, expected {expected!r}"
        assert result == expected or (result != result and expected != expected), told
        assert result != 0 or math.copysign(1, result) == math.copysign(1, expected), told


def test_other_roundings_of_doubles_are_refused() -> None:
    with pytest.raises(Unsupported, match=r"rounding \.rz"):
        run(".reg .f64 %d<2>; fma.rz.f64 %d0, %d1, %d1, %d1;")


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("shift", ["", ".shiftamt"])
def test_highest_bits(kind: str, shift: str) -> None:
    width = int(kind[1:])
    rng = np.random.default_rng(1)
    numbers = [int(x) >> int(by) for x, by in zip(rng.integers(0, 2**63, 90), rng.integers(0, 63, 90), strict=True)]
    numbers += [0, 1, 2**31, 2**31 - 1, 2**32 - 1, 2**63, 2**63 - 1, 2**64 - 1]
    numbers += [~number for number in numbers]
    bits = np.array([number % 2**width for number in numbers], f"u{width // 8}")
    found = applied(f"bfind{shift}.{kind} {{d}}, {{0}}", [bits])
    for number, place in zip(map(int, bits), map(int, found), strict=True):
        if kind[0] == "s" and number >> (width - 1):
            number ^= 2**width - 1
        highest = number.bit_length() - 1
        expected = 2**32 - 1 if highest < 0 else width - 1 - highest if shift else highest
        assert place == expected, f"bfind{shift}.{kind} {number:#x}"


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
        .reg .b32 %r<3>; .reg .b64 %rd<6>;
        ld.param.u64 %rd0, [base];
        ld.param.u64 %rd1, [pair];
        ld.param.u32 %r0, [pair+8];
        {
            .param .b32 given; .param .b32 back;
            st.param.b32 [given+0], %r0;
            call.uni (back), tripled, (given);
            ld.param.b32 %r1, [back+0];
        }
        cvt.u64.u32 %rd2, %r1;
        add.u64 %rd3, %rd0, %rd1;
        add.u64 %rd4, %rd3, %rd2;
        st.param.b64 [sum+0], %rd4;
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
        ld.param.b64 %rd10, [back+0];
    }}"""


def tripled(number: int) -> int:
    return 1000 if number > 20 else 3 * number


def test_functions_are_called_with_values_of_each_thread() -> None:
    body = f"""
        {calling("%rd1", "7", "%r0")}
        mov.u64 %rd11, %rd10;
        add.u32 %r2, %r0, 2;
        {calling("%rd11", "5", "%r2")}
        st.global.u64 [%rd2], %rd10;
    """
    expected = [8 * i + 7 + tripled(i) + 5 + tripled(i + 2) for i in range(LANES)]
    assert run(body, before=FUNCTIONS).tolist() == expected


@pytest.mark.parametrize(("guard", "calls"), [("@%p1", lambda i: i < 11), ("@!%p1", lambda i: i >= 11)])
def test_a_guarded_call_leaves_the_others_out(guard: str, calls: Callable[[int], bool]) -> None:
    # What they load is what the first call has left.
    body = f"""
        {calling("0", "0", "0")}
        setp.lt.u32 %p1, %r0, 11;
        mov.u32 %r5, 0;
    $again:
        {calling("%rd1", "0", "%r5", guard)}
        add.u32 %r5, %r5, 1;
        setp.lt.u32 %p2, %r5, 3;
        @%p2 bra $again;
        mov.u64 %rd12, 0;
        {guard} mov.u64 %rd12, %rd10;
        st.global.u64 [%rd2], %rd12;
    """
    assert run(body, before=FUNCTIONS).tolist() == [8 * i + 6 if calls(i) else 0 for i in range(LANES)]


@pytest.mark.parametrize(
    ("body", "before", "message"),
    [
        ("call again;", ".func again() { call again; ret; }", "by itself"),
        ("call elsewhere;", ".extern .func elsewhere();", "no function of the module"),
        ("call %rd1, (), $types;", "", "no function of the module"),
        ("{ .param .b64 a; call tripled, (a); }", FUNCTIONS, "not as declared"),
        ("{ .param .b64 a; .param .b32 b; call (a), tripled, (b); }", FUNCTIONS, "not as declared"),
        ("call (%r1), tripled, (%r2);", FUNCTIONS, "not as declared"),
        ("{ .param .b32 a; st.param.b64 [a+0], %rd1; }", "", "beyond the end"),
        ("{ .param .b32 a; mov.b64 %rd3, a; }", "", "address of what a function is given"),
    ],
)  # fmt: skip
def test_calls_that_are_not_known_are_refused(body: str, before: str, message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        run(body, before=before)


TABLE = np.arange(100, 100 + LANES, dtype=np.uint32)
OF_TABLE = ", .param .align 8 .b8 table[128]"


def test_parameters_are_read_by_computed_addresses() -> None:
    body = """
        mov.b64 %rd3, table; mul.wide.u32 %rd4, %r0, 4; add.u64 %rd5, %rd3, %rd4; add.u64 %rd6, %rd5, 64;
        ld.param.u32 %r1, [%rd6+-64]; ld.param.u32 %r2, [table+8]; add.u32 %r3, %r1, %r2; st.global.u32 [%rd2], %r3;
    """
    assert run(body, TABLE.tobytes(), parameters=OF_TABLE).tolist() == (TABLE + 102).tolist()


def test_what_lies_beyond_parameters_is_found() -> None:
    body = "mov.b64 %rd3, table; mul.wide.u32 %rd4, %r0, 8; add.u64 %rd5, %rd3, %rd4; ld.param.u32 %r1, [%rd5];"
    with pytest.raises(MemoryFault, match=r"0x88 of 136 param bytes, by thread 16 "):
        run(body, TABLE.tobytes(), parameters=OF_TABLE)
    with pytest.raises(Unsupported, match="beyond the end of a parameter"):
        run("ld.param.u32 %r1, [table+128];", TABLE.tobytes(), parameters=OF_TABLE)


def test_generic_addresses_lead_to_memory_of_all_kinds() -> None:
    """Threads read, by one instruction, of their own memory, of their block's and of the caller's."""
    body = """
        .local .align 8 .b8 own[16]; .shared .align 8 .b8 block[256];
        ld.param.u64 %rd3, [given];
        mov.u64 %rd4, own; cvta.local.u64 %rd5, %rd4;
        mov.u64 %rd6, block; add.u64 %rd6, %rd6, %rd1; cvta.shared.u64 %rd7, %rd6;
        cvta.to.global.u64 %rd8, %rd3; add.u64 %rd9, %rd8, %rd1;
        add.u32 %r1, %r0, 1000; add.u32 %r2, %r0, 2000;
        cvt.u64.u32 %rd10, %r1; cvt.u64.u32 %rd11, %r2;
        st.local.u64 [%rd4+8], %rd10; st.u64 [%rd7], %rd11;
        rem.u32 %r3, %r0, 3; setp.eq.u32 %p1, %r3, 0; setp.eq.u32 %p2, %r3, 1;
        add.u64 %rd12, %rd5, 8; selp.b64 %rd13, %rd12, %rd7, %p1; selp.b64 %rd14, %rd9, %rd13, %p2;
        ld.u64 %rd15, [%rd14]; add.u64 %rd15, %rd15, 1; st.u64 [%rd14], %rd15;
        cvta.to.local.u64 %rd16, %rd12; ld.local.u64 %rd17, [%rd16]; ld.shared.u64 %rd18, [%rd6];
        add.u64 %rd19, %rd17, %rd18; st.global.u64 [%rd2], %rd19;
    """
    given = np.arange(5000, 5000 + LANES, dtype=np.uint64)
    found = run(body, given, parameters=", .param .u64 given")
    lanes = np.arange(LANES)
    assert given.tolist() == (5000 + lanes + (lanes % 3 == 1)).tolist()
    assert found.tolist() == (3000 + 2 * lanes + (lanes % 3 != 1)).tolist()


def test_one_atomic_changes_memory_of_two_kinds() -> None:
    body = """
        .shared .align 8 .b8 block[8];
        ld.param.u64 %rd3, [given];
        mov.u64 %rd4, block; st.shared.u64 [%rd4], 100; cvta.shared.u64 %rd5, %rd4;
        bar.sync 0;
        and.b32 %r1, %r0, 1; setp.eq.u32 %p1, %r1, 0; selp.b64 %rd6, %rd3, %rd5, %p1;
        cvt.u64.u32 %rd7, %r0; atom.add.u64 %rd8, [%rd6], %rd7;
        bar.sync 0;
        ld.shared.u64 %rd9, [%rd4]; st.global.u64 [%rd2], %rd9;
    """
    given = np.full(1, 1000, np.uint64)
    assert set(run(body, given, parameters=", .param .u64 given").tolist()) == {100 + sum(range(1, LANES, 2))}
    assert given[0] == 1000 + sum(range(0, LANES, 2))


def test_accesses_outside_local_memory_are_found() -> None:
    body = ".local .align 8 .b8 own[16]; mov.u64 %rd4, own; cvta.local.u64 %rd5, %rd4; add.u64 %rd5, %rd5, %rd1;"
    with pytest.raises(MemoryFault, match=r"0x10 of 16 local bytes, by thread 2 "):
        run(f"{body} st.u64 [%rd5], %rd1;")
    with pytest.raises(MemoryFault, match=r"0xfffffffffffffff8 of 16 local bytes, by thread 0 "):
        run(f"{body} ld.local.u64 %rd6, [%rd4+-8];")
    # Beyond the window of local memory there is nothing.
    with pytest.raises(MemoryFault, match="outside all memory"):
        run(f"{body} shl.b64 %rd6, %rd5, 8; ld.u64 %rd7, [%rd6];")
