"""What threads do together: shuffles, votes, matrices, barriers, and control flow that parts and joins them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ptx_executor import ExecutionFault, Executor
from ptx_executor.warps import WARP
from ptx_lines import Array, compiled, launched

pytestmark = pytest.mark.quick

ALL = 0xFFFFFFFF
LANES = np.arange(WARP)
SHAPE = "m16n8k8.row.col.f32.tf32.tf32.f32"
SHARED = ".shared .align 16 .b8 shared[1024];"
STORE = "mad.wide.u32 %d0, %i, 4, %a0; st.global.u32 [%d0], %r9;"


def stored(body: str, *buffers: Array, threads: int = WARP, **options: Any) -> list[int]:
    """Return what each thread of a block has in `%r9` at the end; buffers are `%a1` and so on."""
    out = np.zeros(threads, np.uint32)
    kernel = compiled(body + "\n" + STORE, 1 + len(buffers), declared=SHARED)
    launched(kernel, out, *buffers, block=threads, **options)
    return out.tolist()


# Shuffles.


def source_of(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """Return the lane that a shuffle reads and its predicate: the pseudocode of `shfl.sync` in the ISA."""
    bits, clamp, mask = b & 31, c & 31, c >> 8 & 31
    bound = (lane & mask) | (clamp & ~mask & 31)
    if mode == "up":
        source, is_inside = lane - bits, lane - bits >= bound
    elif mode == "down":
        source, is_inside = lane + bits, lane + bits <= bound
    elif mode == "bfly":
        source, is_inside = lane ^ bits, lane ^ bits <= bound
    else:
        source = (lane & mask) | (bits & ~mask & 31)
        is_inside = source <= bound
    return (source if is_inside else lane), is_inside


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [2, 8, 16, 32])
def test_shuffles_read_the_lane_of_the_isa_within_segments(mode: str, width: int) -> None:
    segment = (32 - width) << 8
    for by in (0, 1, 3, 7, 16, 31, 33):
        for clamp in {0, 5, 31} if mode == "up" else {31, 20}:
            c = segment | clamp
            found = stored(
                f"""add.u32 %r1, %t, 100; shfl.sync.{mode}.b32 %r2|%p1, %r1, {by}, {c}, -1;
                selp.u32 %r3, 1000, 0, %p1; add.u32 %r9, %r2, %r3;"""
            )
            expected = [source_of(mode, lane, by, c) for lane in range(WARP)]
            assert found == [100 + source + 1000 * inside for source, inside in expected], (by, clamp)


def test_lanes_may_ask_for_lanes_of_their_own() -> None:
    assert stored("xor.b32 %r1, %t, 21; shfl.sync.idx.b32 %r9, %t, %r1, 31, -1;") == (LANES ^ 21).tolist()
    # Half of the lanes with a mask of their own.
    body = "setp.lt.u32 %p1, %t, 16; mov.u32 %r9, 7; @!%p1 bra END; shfl.sync.bfly.b32 %r9, %t, 1, 31, 0xFFFF; END:"
    assert stored(body) == [lane ^ 1 if lane < 16 else 7 for lane in range(WARP)]


# Votes and reductions, of all lanes and of some whose mask is in a register that others never wrote.

SOME = "setp.lt.u32 %p6, %t, 12; @%p6 mov.u32 %r1, 0xFFF; @!%p6 bra END;"


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize("asks", ["%t >= 0", "%t < 0", "%t >= 5", "%t == 3", "%t >= 20"])
def test_votes_count_those_that_the_mask_names(asks: str, is_whole: bool) -> None:
    _, compare, number = asks.split()
    names = {">=": "ge", "<": "lt", "==": "eq"}
    before = f"setp.{names[compare]}.s32 %p1, %t, {number}; mov.u32 %r9, 77; " + (
        "mov.u32 %r1, -1;" if is_whole else SOME
    )
    count = WARP if is_whole else 12
    said = [eval(f"{lane} {compare} {number}") for lane in range(count)]
    answers = {"all": all(said), "any": any(said), "uni": len(set(said)) == 1}
    for mode, answer in answers.items():
        found = stored(f"{before} vote.sync.{mode}.pred %p2, %p1, %r1; selp.u32 %r9, 1, 0, %p2; END:")
        assert found == [int(answer)] * count + [77] * (WARP - count)
        found = stored(f"{before} vote.sync.{mode}.pred %p2, !%p1, %r1; selp.u32 %r9, 1, 0, %p2; END:")
        turned = {"all": not any(said), "any": not all(said), "uni": answer}[mode]
        assert found[:count] == [int(turned)] * count
    found = stored(f"{before} vote.sync.ballot.b32 %r9, %p1, %r1; END:")
    assert found == [sum(yes << lane for lane, yes in enumerate(said))] * count + [77] * (WARP - count)


@pytest.mark.parametrize("is_whole", [True, False])
def test_reductions_are_those_of_the_lanes_that_the_mask_names(is_whole: bool) -> None:
    given = np.random.default_rng(3).integers(0, 2**32, WARP, dtype=np.uint32)
    count = WARP if is_whole else 12
    some = given[:count]
    expected = {
        "add.u32": int(some.astype(np.uint64).sum()) % 2**32, "add.s32": int(some.astype(np.uint64).sum()) % 2**32,
        "min.u32": some.min(), "max.u32": some.max(), "and.b32": np.bitwise_and.reduce(some),
        "min.s32": some.view(np.int32).min().view(np.uint32), "max.s32": some.view(np.int32).max().view(np.uint32),
        "or.b32": np.bitwise_or.reduce(some), "xor.b32": np.bitwise_xor.reduce(some),
    }  # fmt: skip
    for name, value in expected.items():
        before = "mov.u32 %r9, 77; mad.wide.u32 %d1, %t, 4, %a1; ld.global.u32 %r2, [%d1];"
        before += "mov.u32 %r1, -1;" if is_whole else SOME
        found = stored(f"{before} redux.sync.{name} %r9, %r2, %r1; END:", given)
        assert found == [value] * count + [77] * (WARP - count), name


def test_activemask_names_those_that_go_together() -> None:
    body = "setp.lt.u32 %p1, %t, 9; mov.u32 %r9, 0; @%p1 bra END; activemask.b32 %r9; END:"
    assert stored(body) == [0] * 9 + [ALL & ~0x1FF] * 23
    assert stored("activemask.b32 %r9;") == [ALL] * WARP


# Matrices.


def test_a_product_of_matrices_has_its_numbers_where_the_isa_places_them() -> None:
    draw = np.random.default_rng(0)
    # Of few bits: products and sums are exact in float32, and in tf32.
    a, b, c = (draw.integers(-64, 64, shape).astype(np.float32) for shape in ((16, 8), (8, 8), (16, 8)))
    group, member = LANES // 4, LANES % 4
    rows, columns = (group, group + 8, group, group + 8), (member, member, member + 4, member + 4)
    left = np.stack([a[row, column] for row, column in zip(rows, columns, strict=True)], 1)
    right = np.stack([b[member, group], b[member + 4, group]], 1)
    places = [(group + 8 * (i // 2), 2 * member + i % 2) for i in range(4)]
    start = np.stack([c[place] for place in places], 1)
    # What lies below the eleven bits of tf32 is not read.
    noise = draw.integers(0, 2**13, left.shape, dtype=np.uint32)
    given = np.ascontiguousarray(np.concatenate([(left.view(np.uint32) | noise).view(np.float32), right, start], 1))
    out = np.zeros((WARP, 4), np.float32)
    loads = "".join(f"ld.global.f32 %f{i}, [%d1+{4 * i}];" for i in range(10))
    stores = "".join(f"st.global.f32 [%d0+{4 * i}], %f{10 + i};" for i in range(4))
    launched(
        f"""mad.wide.u32 %d1, %t, 40, %a1; mad.wide.u32 %d0, %t, 16, %a0; {loads}
        mma.sync.aligned.{SHAPE}
            {{%f10, %f11, %f12, %f13}}, {{%f0, %f1, %f2, %f3}}, {{%f4, %f5}}, {{%f6, %f7, %f8, %f9}};
        {stores}""",
        out, given,
    )  # fmt: skip
    expected = c.copy()
    for i in range(16):
        for j in range(8):
            expected[i, j] += sum(float(a[i, k]) * float(b[k, j]) for k in range(8))
    assert np.array_equal(out, np.stack([expected[place] for place in places], 1))


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposes", [False, True])
def test_matrices_are_loaded_to_the_lanes_of_the_isa(count: int, transposes: bool) -> None:
    # Matrix i has 8 rows of 8 halves, 16 bytes each; lane 8 i + j names row j of it, here in any order.
    halves = np.arange(count * 64, dtype=np.uint16).reshape(count, 8, 8)
    order = np.random.default_rng(2).permutation(8 * count)
    rows = np.zeros(WARP, np.uint32)
    rows[order] = 16 * np.arange(8 * count)
    # Lanes whose address nobody asks for.
    rows[8 * count :] = 0xFFFFFFF1
    memory = np.zeros(512, np.uint16)
    memory[: halves.size] = halves.reshape(-1)
    out = np.zeros((WARP, count), np.uint32)
    parts = ", ".join(f"%r{10 + i}" for i in range(count))
    stores = "".join(f"st.global.b32 [%d0+{4 * i}], %r{10 + i};" for i in range(count))
    body = f"""mov.u32 %r0, shared; mad.lo.u32 %r1, %t, 16, %r0; mad.wide.u32 %d1, %t, 16, %a1;
    ld.global.v4.b32 {{%r2, %r3, %r4, %r5}}, [%d1]; st.shared.v4.b32 [%r1], {{%r2, %r3, %r4, %r5}}; bar.sync 0;
    mad.wide.u32 %d2, %t, 4, %a2; ld.global.u32 %r6, [%d2]; add.u32 %r6, %r6, %r0;
    ldmatrix.sync.aligned.m8n8.x{count}{".trans" if transposes else ""}.shared.b16 {{{parts}}}, [%r6];
    mad.wide.u32 %d0, %t, {4 * count}, %a0; {stores}"""
    launched(compiled(body, 3, declared=SHARED), out, memory, rows)
    named = halves.reshape(-1, 8)[(rows[: 8 * count] // 16)].reshape(count, 8, 8)
    for i, lane in np.ndindex(count, WARP):
        row, column = lane // 4, 2 * (lane % 4)
        pair = named[i, column : column + 2, row] if transposes else named[i, row, column : column + 2]
        assert out[lane, i] == int(pair[0]) | int(pair[1]) << 16


# Control flow.


def test_threads_that_part_meet_again() -> None:
    body = """setp.lt.u32 %p1, %t, 10; @%p1 bra LESS; mov.u32 %r1, 2; bra JOIN;
    LESS: mov.u32 %r1, 1; JOIN: shfl.sync.bfly.b32 %r2, %r1, 31, 31, -1; mad.lo.u32 %r9, %r2, 10, %r1;"""
    assert stored(body) == [10 * (1 if 31 - i < 10 else 2) + (1 if i < 10 else 2) for i in range(WARP)]


def test_each_thread_leaves_a_loop_in_its_own_round() -> None:
    body = """mov.u32 %r1, 0; mov.u32 %r9, 0;
    LOOP: setp.ge.u32 %p1, %r1, %t; @%p1 bra DONE; add.u32 %r1, %r1, 1; and.b32 %r2, %r1, 1; setp.eq.u32 %p2, %r2, 0;
    @%p2 bra LOOP; add.u32 %r9, %r9, %r1; bra.uni LOOP;
    DONE: bar.warp.sync -1; shfl.sync.idx.b32 %r3, %r1, 31, 31, -1; add.u32 %r9, %r9, %r3;"""
    assert stored(body) == [31 + sum(x for x in range(1, lane + 1) if x % 2) for lane in range(WARP)]


@pytest.mark.parametrize("mark", ["", "!"])
def test_an_instruction_runs_where_its_predicate_says(mark: str) -> None:
    body = f"""setp.lt.u32 %p1, %t, 5; mov.u32 %r9, 1; @{mark}%p1 mov.u32 %r9, 2; @{mark}%p1 st.shared.u32 [shared], 4;
    mov.u32 %r1, 100; @{mark}%p1 add.cc.u32 %r2, %r1, -1; addc.u32 %r3, 0, 0; add.u32 %r9, %r9, %r3;"""
    assert stored(body) == [3 if (lane < 5) != bool(mark) else 1 for lane in range(WARP)]


def test_threads_that_have_ended_do_nothing_and_are_not_waited_for() -> None:
    body = """setp.ge.u32 %p1, %t, 40; setp.lt.u32 %p2, %t, 64; mov.u32 %r0, shared; mad.lo.u32 %r1, %t, 4, %r0;
    st.shared.u32 [%r1], %t; @%p1 exit; bar.sync 0; @%p2 st.shared.u32 [%r1], 99; bar.sync 0;
    ld.shared.u32 %r9, [%r1+96];"""
    assert stored(body, threads=64) == [99] * 16 + list(range(40, 64)) + [0] * 24


def test_special_registers_say_where_a_thread_stands() -> None:
    names = [f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"]
    names += ["%laneid", "%warpid", *(f"%lanemask_{name}" for name in ("eq", "lt", "le", "gt", "ge"))]
    block, grid = (4, 8, 2), (3, 2, 2)
    lines = "".join(f"mov.u32 %r5, {name}; st.global.u32 [%d0+{4 * i}], %r5;" for i, name in enumerate(names))
    # The number of the block, then that of the thread in it.
    body = """mov.u32 %r1, %ctaid.z; mad.lo.u32 %r1, %r1, 2, 0; mov.u32 %r2, %ctaid.y; add.u32 %r1, %r1, %r2;
    mov.u32 %r2, %ctaid.x; mad.lo.u32 %r1, %r1, 3, %r2;
    mov.u32 %r2, %tid.z; mad.lo.u32 %r2, %r2, 8, 0; mov.u32 %r3, %tid.y; add.u32 %r2, %r2, %r3;
    mov.u32 %r3, %tid.x; mad.lo.u32 %r2, %r2, 4, %r3; mad.lo.u32 %r1, %r1, 64, %r2;"""
    out = np.zeros((12 * 64, len(names)), np.uint32)
    kernel = compiled(f"{body} mad.wide.u32 %d0, %r1, {4 * len(names)}, %a0; {lines}", 1)
    Executor(threads_at_once=128).launch(
        kernel, grid, block, kernel.packed([out.ctypes.data]), [(out.ctypes.data, out.nbytes, "out")]
    )
    number = 0
    for where in np.ndindex(*grid[::-1]):
        for thread, inside in enumerate(np.ndindex(*block[::-1])):
            lane = thread % 32
            masks = [1 << lane, 2**lane - 1, 2 ** (lane + 1) - 1, ALL ^ (2 ** (lane + 1) - 1), ALL ^ (2**lane - 1)]
            expected = [*inside[::-1], *block, *where[::-1], *grid, lane, thread // 32, *masks]
            assert out[number].tolist() == expected
            number += 1


# What must not be.

# In what follows `%p1` has the first three lanes of the first warp, and `%p2` the first warp.
FRAGMENTS = "{%f0, %f1, %f2, %f3}, {%f0, %f1, %f2, %f3}, {%f4, %f5}, {%f0, %f1, %f2, %f3}"
WRONG = {
    "a barrier that part of a warp reaches": ("@%p1 bra END; bar.sync 0; bra END; END: bar.sync 1;", r"bar\.sync"),
    "a barrier that one warp reaches": ("@%p2 bra END; bar.sync 0; END: bar.sync 1;", r"bar\.sync"),
    "two barriers": ("shr.u32 %r1, %t, 5; bar.sync %r1;", r"bar\.sync"),
    "a shuffle of a lane that has ended": ("@%p1 exit; shfl.sync.bfly.b32 %r9, %t, 1, 31, -1;", "shfl"),
    "a shuffle of a lane that the mask leaves out": (
        "@!%p1 bra END; shfl.sync.bfly.b32 %r9, %t, 1, 31, 7; END:",
        "shfl",
    ),
    "a mask that leaves out who executes": ("vote.sync.any.pred %p3, %p1, 7;", "vote"),
    "masks that differ": ("add.u32 %r1, %t, -1; redux.sync.add.u32 %r9, %t, %r1;", "redux"),
    "a product of part of a warp": (f"@%p1 exit; mma.sync.aligned.{SHAPE} {FRAGMENTS};", "mma"),
    "matrices for part of a warp": ("@%p1 exit; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r9}, [shared];", "ldmatrix"),
    "lanes that wait for each other": ("@%p1 bra B; bar.warp.sync -1; bra END; B: bar.warp.sync -1; END:", "bar"),
}


@pytest.mark.parametrize("schedule", [None, 1])
@pytest.mark.parametrize("name", WRONG)
def test_threads_that_should_be_together_and_are_not_are_named(name: str, schedule: int | None) -> None:
    body, instruction = WRONG[name]
    with pytest.raises(ExecutionFault, match=rf"thread \d+ of block 0 .*PTX line \d+: {instruction}"):
        stored(
            f"setp.lt.u32 %p1, %t, 3; setp.lt.u32 %p2, %t, 32; mov.u32 %r9, 0; {body}", threads=64, schedule=schedule
        )
