"""Memory: what instructions read and write, atomics, and the faults that must be found: planted ones."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ptx_executor import ExecutionFault, Executor, Module, RaceFault
from ptx_executor.memory import Access, Shadow
from ptx_lines import Array, compiled, dtype_of, launched

pytestmark = pytest.mark.quick

SHARED = ".shared .align 16 .b8 shared[508];"
LOCAL = ".local .align 16 .b8 local[60];"
WIDE = ".shared .align 16 .b8 wide[512];"
# `%d20` becomes the address of 16 bytes of each thread.
BASES = {
    "shared": "mov.u64 %d20, wide; mad.wide.u32 %d20, %t, 16, %d20;",
    "local": "mov.u64 %d20, local;",
}
# Each thread's word: `%d0` in the first buffer, `%d1` in the second, `%r1` in shared memory.
WORDS = """
mad.wide.u32 %d0, %i, 4, %a0; mad.wide.u32 %d1, %i, 4, %a1;
mov.u32 %r0, shared; mad.lo.u32 %r1, %t, 4, %r0;
"""


def run(body: str, *buffers: Array, declared: str = SHARED, **options: Any) -> None:
    launched(compiled(body, len(buffers), declared=declared), *buffers, **options)


def words(count: int = 64, start: int = 0) -> Array:
    return np.arange(start, start + count, dtype=np.uint32)


# Loads and stores.


@pytest.mark.parametrize("space", ["global", "global.nc", "shared", "local"])
@pytest.mark.parametrize("kind", ["u8", "s8", "b8", "u16", "s16", "b16", "u32", "s32", "b32", "f32"])
def test_narrow_loads_are_extended_as_their_type_says(kind: str, space: str) -> None:
    width = int(kind[1:])
    edges = np.array([0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFFFFFF], np.uint32)
    given = edges.astype(f"<u{width // 8}").repeat(4)
    out = np.zeros(32, np.uint32)
    index = f"mad.wide.u32 %d0, %i, 4, %a0; mad.wide.u32 %d1, %i, {width // 8}, %a1;"
    moved = "mov.b64 %d20, %d1;"
    if space in BASES:
        moved = f"{BASES[space]} ld.global.b{width} %r4, [%d1]; st.{space}.b{width} [%d20], %r4;"
    load = f"ld.{space}.{kind} %r5, [%d20];"
    run(f"{index} {moved} {load} st.global.b32 [%d0], %r5;", out, given, declared=WIDE + LOCAL)
    signed = given.view(f"<i{width // 8}") if kind[0] == "s" else given
    assert np.array_equal(out, signed.astype(np.int64).astype(np.uint32))


@pytest.mark.parametrize(
    ("kind", "parts"),
    [(f"b{width}", parts) for width in (8, 16, 32, 64) for parts in (1, 2, 4) if width * parts <= 128],
)
@pytest.mark.parametrize("space", ["global", "shared", "shared::cta", "local"])
def test_vectors_keep_their_order_in_every_space(kind: str, parts: int, space: str) -> None:
    size = int(kind[1:]) // 8
    given = np.frombuffer(np.random.default_rng(0).bytes(32 * size * parts), f"<u{size}").copy()
    out = np.zeros_like(given)
    letter = {1: "h", 2: "h", 4: "r", 8: "d"}[size]
    first, second = (
        "{" + ", ".join(f"%{letter}{i + start}" for i in range(parts)) + "}" if parts > 1 else f"%{letter}{start}"
        for start in (2, 8)
    )
    vector = f"v{parts}." if parts > 1 else ""
    base = BASES.get(space.removesuffix("::cta"), "mov.b64 %d20, %d0;")
    run(
        f"""mad.wide.u32 %d0, %i, {size * parts}, %a0; mad.wide.u32 %d1, %i, {size * parts}, %a1; {base}
        ld.global.{vector}{kind} {first}, [%d1];
        st.{space}.{vector}{kind} [%d20], {first};
        ld.{space}.{vector}{kind} {second}, [%d20];
        st.global.{vector}{kind} [%d0], {second};""",
        out, given, declared=WIDE + LOCAL,
    )  # fmt: skip
    assert np.array_equal(out, given)


def test_blocks_have_shared_memory_and_threads_local_memory_of_their_own() -> None:
    out = np.zeros(128, np.uint32)
    body = """mov.u32 %r0, shared; mad.lo.u32 %r1, %t, 4, %r0;
    st.shared.u32 [%r1], %i; st.local.u32 [local+4], %i; bar.sync 0;
    xor.b32 %r2, %t, 32; mad.lo.u32 %r2, %r2, 4, %r0;
    ld.shared.u32 %r3, [%r2]; ld.local.u32 %r4, [local+4]; mad.lo.u32 %r3, %r4, 1000, %r3;
    mad.wide.u32 %d0, %i, 4, %a0; st.global.u32 [%d0], %r3;"""
    run(body, out, declared=SHARED + LOCAL, grid=2, block=64)
    thread = np.arange(128)
    assert np.array_equal(out, 1000 * thread + (thread ^ 32))


@pytest.mark.parametrize(("size", "filled"), [(n, k) for n in (4, 8, 16) for k in (None, 0, 4, 8, 16) if (k or 0) <= n])
def test_asynchronous_copies_fill_with_zeros(size: int, filled: int | None) -> None:
    cache, rest = ("cg" if size == 16 else "ca"), "" if filled is None else f", {filled}"
    out, given = np.full(128, 9, np.uint32), words(128, 1)
    run(
        f"""mov.u32 %r0, wide; mad.lo.u32 %r1, %t, 16, %r0;
        mad.wide.u32 %d1, %t, 16, %a1; mad.wide.u32 %d0, %t, 16, %a0;
        mov.u32 %r9, 7; st.shared.v4.b32 [%r1], {{%r9, %r9, %r9, %r9}};
        cp.async.{cache}.shared.global [%r1], [%d1], {size}{rest};
        cp.async.commit_group; cp.async.wait_group 0;
        ld.shared.v4.b32 {{%r2, %r3, %r4, %r5}}, [%r1]; st.global.v4.b32 [%d0], {{%r2, %r3, %r4, %r5}};""",
        out, given, declared=WIDE,
    )  # fmt: skip
    expected, copied = np.full((32, 4), 7, np.uint32), given.reshape(32, 4).copy()
    copied[:, (size if filled is None else filled) // 4 :] = 0
    expected[:, : size // 4] = copied[:, : size // 4]
    assert np.array_equal(out.reshape(32, 4), expected)


def test_parameters_of_all_sizes_are_read_where_they_stand() -> None:
    kernel = Module("""
    .visible .entry k(.param .u64 out, .param .u8 a, .param .f64 b, .param .u16 c, .param .align 16 .b8 d[16],
        .param .u32 e)
    { .reg .b64 %d<6>; .reg .b32 %r<6>;
    ld.param.u64 %d0, [out]; ld.param.u8 %r0, [a]; ld.param.f64 %d1, [b]; ld.param.u16 %r1, [c];
    ld.param.v2.b32 {%r2, %r3}, [d+8]; ld.param.s32 %r4, [e]; ld.param.b32 %r5, [e];
    st.global.u32 [%d0], %r0; st.global.f64 [%d0+8], %d1; st.global.u32 [%d0+16], %r1;
    st.global.v2.b32 [%d0+32], {%r4, %r5}; st.global.v2.b32 [%d0+24], {%r2, %r3};
    ret; }""").kernel()
    out = np.zeros(10, np.uint32)
    parameters = kernel.packed([out.ctypes.data, 200, 1.5, 65535, bytes(range(16)), -7])
    Executor().launch(kernel, (1,), (32,), parameters, [(out.ctypes.data, out.nbytes, "out")])
    assert (out[0], out[2:4].view(np.float64)[0], out[4]) == (200, 1.5, 65535)
    assert out[8:].tolist() == [2**32 - 7] * 2
    assert out[6:8].tobytes() == bytes(range(8, 16))


# Atomics.

ATOMICS: dict[str, Callable[[int, int], int]] = {
    "add": operator.add, "min": min, "max": max, "and": operator.and_, "or": operator.or_, "xor": operator.xor,
    "exch": lambda old, new: new, "inc": lambda old, end: 0 if old >= end else old + 1,
    "dec": lambda old, end: end if old == 0 or old > end else old - 1,
}  # fmt: skip
ATOMIC_TYPES = {
    "add": "u32 s32 u64", "min": "u32 s32 u64 s64", "max": "u32 s32 u64 s64", "and": "b32 b64", "or": "b32 b64",
    "xor": "b32 b64", "exch": "b32 b64", "inc": "u32", "dec": "u32",
}  # fmt: skip
FORMS = [("atom", name, kind) for name, kinds in ATOMIC_TYPES.items() for kind in kinds.split()]
FORMS += [("red", name, kind) for _, name, kind in FORMS if name != "exch"]
# Of a value in global memory, or in shared memory.
BEFORE_SHARED = "mov.u64 %d10, shared; ld.global.b64 %d11, [%a0]; st.shared.b64 [%d10], %d11; bar.sync 0;"
PLACES = {
    "global": ("{op}.global.gpu.acq_rel", "%a0", ""),
    "generic": ("{op}.relaxed.gpu", "%a0", ""),
    "shared": ("{op}.shared", "%d10", BEFORE_SHARED),
    "generic of shared": ("{op}", "%d12", f"{BEFORE_SHARED} cvta.shared.u64 %d12, %d10;"),
}
AFTER_SHARED = "bar.sync 0; ld.shared.b64 %d11, [%d10]; st.global.b64 [%a0], %d11;"


def atomic(
    op: str, rest: str, kind: str, place: str, start: Array, operands: Array, count: int = 1
) -> tuple[Array, Array]:
    """Return the value in memory after each thread's atomic, and what each found."""
    opcode, address, before = PLACES[place]
    size, letter = dtype_of(kind).itemsize, {2: "h", 4: "r", 8: "d"}[dtype_of(kind).itemsize]
    found = np.zeros(32, dtype_of(kind))
    loads = "".join(f"ld.global.b{8 * size} %{letter}{2 + i}, [%d20+{i * 32 * size}];" for i in range(count))
    values = ", ".join(f"%{letter}{2 + i}" for i in range(count))
    result = f"%{letter}9, " if op == "atom" else ""
    run(
        f"""mad.wide.u32 %d1, %i, {size}, %a1; mad.wide.u32 %d20, %i, {size}, %a2; {before} {loads}
        {opcode.format(op=op)}.{rest}.{kind} {result}[{address}], {values};
        {f"st.global.b{8 * size} [%d1], %{letter}9;" if op == "atom" else ""}
        {AFTER_SHARED if "shared" in place else ""}""",
        start, found, operands,
    )  # fmt: skip
    return start, found


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("op", "name", "kind"), FORMS)
def test_integer_atomics_do_one_after_the_other_what_the_isa_says(op: str, name: str, kind: str, place: str) -> None:
    width, draw = 8 * dtype_of(kind).itemsize, np.random.default_rng(5)
    operands = np.frombuffer(draw.bytes(4 * width), dtype_of(kind)).copy()
    operands[:6] = [0, 1, np.array(-1).astype(operands.dtype), 5, 3, 3]
    start = np.zeros(16, dtype_of(kind))
    start[0] = 3
    expected, seen = 3, []
    for value in operands.tolist():
        seen.append(expected)
        total = ATOMICS[name](expected, value) % 2**width
        expected = total - 2**width if kind[0] == "s" and total >= 2 ** (width - 1) else total
    end, found = atomic(op, name, kind, place, start, operands)
    assert end[0] == expected
    assert op == "red" or found.tolist() == seen


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["b16", "b32", "b64"])
def test_compare_and_swap_stores_where_it_finds_what_was_expected(kind: str, place: str) -> None:
    thread = np.arange(32)
    # Every other thread expects what the last such thread has left.
    expected = np.where(thread % 2 == 0, thread // 2, 1000)
    operands = np.concatenate([expected, np.where(thread % 2 == 0, thread // 2 + 1, 7)]).astype(dtype_of(kind))
    end, found = atomic("atom", "cas", kind, place, np.zeros(16, dtype_of(kind)), operands, count=2)
    assert end[0] == 16
    assert found.tolist() == ((thread + 1) // 2).tolist()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["f16", "f32", "f64"])
def test_float_sums_are_rounded_each_and_global_float32_flushes(kind: str, place: str) -> None:
    dtype = dtype_of(kind)
    operands = np.random.default_rng(1).normal(size=32).astype(dtype)
    start = np.ones(16, dtype)
    total = dtype.type(1)
    for value in operands:
        total = dtype.type(total + value)
    rest = "add.noftz" if kind == "f16" else "add"
    assert atomic("red", rest, kind, place, start, operands)[0][0] == total
    normal, tiny = np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal
    flushes = kind == "f32" and "shared" not in place
    for value, expected in ((tiny, normal + tiny), (-1.5 * normal, -0.5 * normal)):
        start[0], operands[0], operands[1:] = normal, value, 0
        end = atomic("red", rest, kind, place, start, operands)[0][0]
        assert end == ((normal if value > 0 else 0) if flushes else expected)


def test_the_order_of_atomics_is_any_if_that_of_warps_is_random() -> None:
    body = "atom.global.add.u32 %r3, [%a0], 1; mad.wide.u32 %d1, %r3, 4, %a1; st.global.u32 [%d1], %i;"
    orders = set()
    for seed in range(4):
        count, out = np.zeros(1, np.uint32), np.zeros(32, np.uint32)
        run(body, count, out, schedule=seed)
        assert sorted(out) == list(range(32))
        orders.add(out.tobytes())
    assert len(orders) > 1


# Accesses that no memory is for.

FAULTS = {
    "beyond the end of a buffer": ("ld.global.u32 %r5, [%d0+4];", "outside.*thread 30"),
    "partly beyond the end": ("st.global.u64 [%a0+120], %d5;", "outside.*thread 0"),
    "before the start of a buffer": ("st.global.u32 [%d0+-4], %r5;", "outside.*thread 0"),
    "a vector partly beyond the end": ("ld.global.v4.u32 {%r5, %r6, %r7, %r8}, [%a0+112];", "outside.*thread 0"),
    "at zero": ("ld.global.u32 %r5, [0];", "outside.*thread 0"),
    "at the top of all addresses": ("st.global.u32 [-4], %r5;", "outside.*thread 0"),
    "an atomic beyond the end": ("red.global.add.u32 [%d0+4], 1;", "outside.*thread 30"),
    "beyond shared memory": ("st.shared.u32 [%r1+384], %r5;", "outside.*508 shared bytes.*thread 31"),
    "partly beyond shared memory": ("st.shared.u64 [shared+504], %d5;", "outside.*508 shared bytes.*thread 0"),
    "before shared memory": ("ld.shared.u32 %r5, [%r1+-4];", "outside.*thread 0"),
    "before shared memory, in 64 bits": ("ld.shared.u32 %r5, [%d4+-4];", "outside.*thread 0"),
    "before shared memory, by name": ("st.shared.u32 [shared+-4], %r5;", "outside.*thread 0"),
    "an atomic beyond shared memory": ("red.shared.add.u32 [%r1+384], 1;", "outside.*thread 31"),
    "beyond local memory": ("ld.local.u32 %r5, [local+60];", "outside.*60 local bytes.*thread 0"),
    "before local memory": ("st.local.u32 [local+-4], %r5;", "outside.*thread 0"),
    "misaligned": ("ld.global.u32 %r5, [%a0+2];", "aligned.*thread 0"),
    "misaligned in shared memory": ("st.shared.u16 [%r1+1], %h5;", "aligned.*thread 0"),
    "misaligned in local memory": ("st.local.u64 [local+4], %d5;", "aligned.*thread 0"),
    "a misaligned vector": ("ld.shared.v2.u32 {%r5, %r6}, [%r1];", "aligned.*thread 1"),
    "a misaligned store of a vector": ("st.shared.v2.u32 [%r1], {%r5, %r6};", "aligned.*thread 1"),
    "a misaligned atomic": ("red.shared.add.u64 [%r1], %d5;", "aligned.*thread 1"),
    "a misaligned copy": ("cp.async.cg.shared.global [%r1], [%a0], 16;", "aligned.*thread 1"),
    "a copy of part of a word": ("cp.async.ca.shared.global [%r0], [%a0], 8, 6;", "thread 0 .*part of a word"),
    "a misaligned row": ("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r5}, [%r1];", "aligned.*thread 1"),
    "a misaligned row to store": ("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r1], {%r5};", "aligned.*thread 1"),
    "an atomic on local memory": ("red.add.u32 [%d7], 1;", "an atomic of local memory"),
    "a store to constants": ("st.global.u32 [%d6], %r5;", "constant.*thread 0"),
    "an atomic on constants": ("red.global.add.u32 [%d6], 1;", "constant.*thread 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_an_access_that_memory_has_no_place_for_is_named(name: str) -> None:
    line, words_of_it = FAULTS[name]
    given = "mov.u32 %r5, 0; mov.b16 %h5, 0; mov.b64 %d5, 0; mov.u64 %d4, shared; mov.u64 %d6, fixed;"
    given += "mov.u64 %d7, local; cvta.local.u64 %d7, %d7;"
    kernel = compiled(f"{given}{WORDS}{line}", 2, ".const .align 4 .b32 fixed[4] = {1, 2, 3, 4};", SHARED + LOCAL)
    # The buffers stand apart in one array: what lies between belongs to nobody.
    whole = np.zeros(256, np.uint32)
    with pytest.raises(ExecutionFault, match=words_of_it) as caught:
        launched(kernel, whole[64:95], whole[160:192])
    assert f": {line.split()[0]} " in str(caught.value)


def test_registers_that_nothing_wrote_hold_poison() -> None:
    out = np.zeros(32, np.uint32)
    run("mad.wide.u32 %d0, %i, 4, %a0; st.global.u32 [%d0], %r5;", out)
    assert (out == 0xDEADBEEF).all()
    body = "setp.lt.u32 %p1, %t, 7; @%p1 mov.u32 %r5, 1; mad.wide.u32 %d0, %i, 4, %a0; st.global.u32 [%d0], %r5;"
    run(body, out, poison=5)
    assert out.tolist() == [1] * 7 + [5] * 25


# Races: what warps of a block, or the warps of two blocks, do at one word.

WHO = {"all": "", "warp0": "@%p2", "warp1": "@%p3", "block0": "@%p4", "block1": "@!%p4"}
DRAWN = """setp.lt.u32 %p2, %t, 32; setp.ge.u32 %p3, %t, 32; setp.eq.u32 %p4, %r31, 0; add.u32 %r5, %i, 1;
mov.u32 %r0, shared; mad.wide.u32 %d0, %i, 4, %a0;
"""
RACES = """
    all st.shared; all st.global; warp0 st.shared, warp1 ld.shared; warp1 ld.shared, warp0 st.shared
    warp0 st.global, warp1 ld.global; warp1 ld.global, warp0 st.global; all ld.global, warp0 st.global
    block0 st.global, barrier, block1 ld.global; block1 ld.global, barrier, block0 st.global
    barrier, warp0 st.shared, warp1 ld.shared; warp0 part.global, warp1 ld.global; warp0 lanes.shared
    warp0 copy.shared, warp1 ld.shared; warp0 vector.shared, warp1 last.shared
    warp0 st.global, warp1 red.global; warp0 ld.global, warp1 red.global; warp0 red.global, warp1 ld.global
    warp0 red.global, warp1 st.global; all red.global, warp1 ld.global; warp0 st.shared, warp1 red.shared
    warp0 red.shared, warp1 ld.shared; block0 red.global, barrier, block1 ld.global
    warp1 ld.global, warp0 ld.global, warp0 st.global; block1 ld.global, block0 ld.global, barrier, block0 st.global
    warp1 red.global, warp0 red.global, warp0 ld.global; block0 ld.global, all ld.global, barrier, block1 st.global
    all ld.global, barrier, block1 st.global, block1 ld.global
"""
ORDERED = """
    warp0 st.shared, barrier, warp1 ld.shared; all ld.global, barrier, warp1 st.global; warp0 st.shared, warp0 ld.shared
    all ld.global, all ld.global; warp0 part.global, warp1 other.global; warp0 st.global, warp1 st.global
    all red.global, all red.shared, all red.global; block0 red.global, block1 red.global
    all red.shared, barrier, all ld.shared; warp0 st.shared, barrier, all red.shared; warp0 red.shared, warp0 ld.shared
"""


def steps_of(table: str) -> list[str]:
    return [steps.strip() for line in table.strip().splitlines() for steps in line.split(";")]


def text_of_steps(steps: str) -> str:
    lines = [DRAWN]
    for step in steps.split(", "):
        if step == "barrier":
            lines.append("bar.sync 0;")
            continue
        who, what = step.split()
        name, space = what.split(".")
        at = {"shared": "[shared]", "global": "[%a0]"}[space]
        line = {
            "st": f"st.{space}.u32 {at}, {'%r5' if who == 'all' else 1}", "ld": f"ld.{space}.u32 %r6, {at}",
            "red": f"red.{space}.add.u32 {at}, 1", "lanes": "st.shared.u32 [shared], %t",
            "part": "st.global.u8 [%a0+3], 1", "other": "st.global.u8 [%a0+2], 1",
            "last": "ld.shared.u32 %r6, [shared+12]", "vector": "st.shared.v4.u32 [shared], {1, 1, 1, 1}",
            "copy": "cp.async.ca.shared.global [shared], [%a0], 4",
        }[name]  # fmt: skip
        lines.append(f"{WHO[who]} {line};")
    return "\n".join(lines)


def races_of(body: str, blocks: int, **options: Any) -> list[str]:
    found: list[str] = []
    run(body, words(64), grid=blocks, block=64, on_race=found.append, **options)
    return found


@pytest.mark.parametrize("schedule", [None, 1, 2, 3])
@pytest.mark.parametrize("steps", steps_of(RACES))
def test_a_race_is_found_in_any_order(steps: str, schedule: int | None) -> None:
    found = races_of(text_of_steps(steps), 2 if "block" in steps else 1, schedule=schedule)
    assert found
    assert re.search(r"thread \d+ of block [01] at address .*: PTX line \d+: .*(ld|st|red|cp)\.", found[0])


@pytest.mark.parametrize("schedule", [None, 1, 2, 3])
@pytest.mark.parametrize("steps", steps_of(ORDERED))
def test_what_is_ordered_is_no_race(steps: str, schedule: int | None) -> None:
    assert races_of(text_of_steps(steps), 2 if "block" in steps else 1, schedule=schedule) == []


def test_a_race_is_an_error_unless_somebody_asks_for_it() -> None:
    text = text_of_steps("warp0 st.shared, warp1 ld.shared")
    with pytest.raises(RaceFault, match=r"thread 32 of block 0 at address .*ld\.shared"):
        run(text, words(), block=64)
    run(text + text_of_steps("all st.global"), words(), block=64, detects_races=False)


def test_arguments_that_overlap_are_one_buffer() -> None:
    whole, body = words(96), f"{DRAWN} @%p2 st.global.u32 [%a0+64], 1; @%p3 ld.global.u32 %r6, [%a1];"
    with pytest.raises(RaceFault, match="buffer 0, buffer 1"):
        run(body, whole[:64], whole[16:], block=64)


def test_threads_of_a_warp_race_only_where_that_is_asked_for() -> None:
    body = """setp.eq.u32 %p1, %t, 0; setp.eq.u32 %p2, %t, 1;
    @%p1 st.shared.u32 [shared], 1; @%p2 ld.shared.u32 %r6, [shared];"""
    assert races_of(body, 1) == []
    assert "thread 1 of block 0" in races_of(body, 1, strict_warps=True)[0]


@pytest.mark.parametrize(("value", "matters"), [("%r9", True), ("7", False)])
def test_only_a_race_that_matters_gives_other_results_in_another_order(value: str, matters: bool) -> None:
    body = f"""{DRAWN} shr.u32 %r9, %t, 5; st.shared.u32 [shared], {value}; bar.sync 0;
    ld.shared.u32 %r6, [shared]; st.global.u32 [%d0], %r6;"""
    results = set()
    for seed in range(6):
        out = words(128)
        run(body, out, block=128, schedule=seed, on_race=lambda message: None)
        results.add(out.tobytes())
    assert (len(results) > 1) == matters


def test_shadows_remember_all_that_can_race() -> None:
    """Random accesses by warps of two blocks, up to the first race that a list of all accesses shows."""
    draw = np.random.default_rng(0)
    for _ in range(1200):
        shadow, epochs, past = Shadow(1), [0, 0], set[tuple[int, int, int, str]]()
        for _ in range(8):
            block = int(draw.integers(2))
            epochs[block] += int(draw.random() < 0.3)
            kind = str(draw.choice(["read", "atomic", "write"], p=[0.6, 0.2, 0.2]))
            agents = draw.permutation(4)[: 1 if kind == "write" else draw.integers(1, 5)]
            # Warps 0 and 1 are those of block 0.
            blocks = np.sort(agents) // 2
            who = Access(np.sort(agents).astype(np.int32), blocks.astype(np.int32), np.array(epochs, np.int32)[blocks])
            rows = [tuple(int(x) for x in row) for row in zip(*who, strict=True)]
            races = [
                any(
                    (a != agent and (b != block or e >= epoch)) and (kind != other or kind == "write")
                    for a, b, e, other in past
                )
                for agent, block, epoch in rows
            ]
            assert getattr(shadow, kind)(np.zeros((len(rows), 1), np.int64), who).tolist() == races
            if any(races):
                break
            past |= {(*row, kind) for row in rows}
