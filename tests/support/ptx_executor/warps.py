"""Instructions that the threads of a warp execute together. All that they name must be there: nobody waits."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptx_executor.compiler import WARP, Compiler, Modifiers, Operation, both_of, decoder, parts_of
from ptx_executor.errors import Unsupported
from ptx_executor.syntax import Instruction
from ptx_executor.types import Array, type_of

B16, B32, PRED = type_of("b16"), type_of("b32"), type_of("pred")
_LANES = np.arange(WARP, dtype=np.int64)


@decoder("shfl")
def _shuffle(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    if not modifiers.flag("sync"):
        raise Unsupported("a shuffle without .sync")
    mode = modifiers.one_of("up", "down", "bfly", "idx")
    if mode is None or not modifiers.flag("b32"):
        raise Unsupported("a shuffle of this kind")
    modifiers.done()
    result, valid = both_of(one.operands[0])
    write = compiler.writer(result, B32)
    write_valid = None if valid is None else compiler.writer(valid, PRED)
    source, lanes, clamp, members = (compiler.reader(operand, B32) for operand in one.operands[1:])
    place = one.place

    def operation(state: Any, mask: Array | None) -> None:
        present = state.check_members(mask, members(state), place)
        values = state.by_warp(source(state))
        b, c = (state.by_warp(read(state)).astype(np.int64) for read in (lanes, clamp))
        from_lane, is_valid = source_lanes(mode, b & 31, c & 31, c >> 8 & 31)
        state.check_sources(present, from_lane, place)
        write(state, state.by_thread(np.take_along_axis(values, from_lane, 1)), mask)
        if write_valid is not None:
            write_valid(state, state.by_thread(is_valid), mask)

    return operation


def source_lanes(mode: str, b: Array, c: Array, segments: Array) -> tuple[Array, Array]:
    """Return where each lane of a shuffle reads, and whether that is within its segment: else it reads itself."""
    highest, lowest = (_LANES & segments) | (c & ~segments), _LANES & segments
    if mode == "up":
        source = _LANES - b
        valid = source >= highest
    elif mode == "down":
        source = _LANES + b
        valid = source <= highest
    elif mode == "bfly":
        source = _LANES ^ b
        valid = source <= highest
    else:
        source = lowest | (b & ~segments)
        valid = source <= highest
    return np.where(valid, source, _LANES), valid


@decoder("vote")
def _vote(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    if not modifiers.flag("sync"):
        raise Unsupported("a vote without .sync")
    mode = modifiers.one_of("all", "any", "uni", "ballot")
    kind = modifiers.type()
    modifiers.done()
    if mode is None or kind != (B32 if mode == "ballot" else PRED):
        raise Unsupported("a vote of this kind")
    write = compiler.writer(one.operands[0], kind)
    asked, members = compiler.reader(one.operands[1], PRED), compiler.reader(one.operands[2], B32)
    place = one.place

    def operation(state: Any, mask: Array | None) -> None:
        # Those named are those present; what others hold in the register of members says nothing.
        named = state.check_members(mask, members(state), place)
        yes = state.by_warp(asked(state)) & named
        if mode == "ballot":
            answer = (yes.astype(np.uint32) << _LANES.astype(np.uint32)).sum(1, dtype=np.uint32)
        elif mode == "any":
            answer = yes.any(1)
        elif mode == "all":
            answer = (yes | ~named).all(1)
        else:
            answer = (yes | ~named).all(1) | ~yes.any(1)
        write(state, state.by_thread(np.repeat(answer[:, None], WARP, 1)), mask)

    return operation


_REDUCTIONS: dict[str, Any] = {
    "add": (np.add, 0), "and": (np.bitwise_and, -1), "or": (np.bitwise_or, 0), "xor": (np.bitwise_xor, 0),
}  # fmt: skip


@decoder("redux")
def _reduction(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    if not modifiers.flag("sync"):
        raise Unsupported("a reduction without .sync")
    name = modifiers.one_of("add", "min", "max", "and", "or", "xor")
    kind = modifiers.type()
    modifiers.done()
    if name is None or kind.width != 32 or kind.is_float:
        raise Unsupported("a reduction of this kind")
    info = np.iinfo(kind.dtype)
    function, neutral = {"min": (np.minimum, info.max), "max": (np.maximum, info.min), **_REDUCTIONS}[name]
    neutral = np.array(neutral).astype(kind.dtype)
    write, read = compiler.writer(one.operands[0], kind), compiler.reader(one.operands[1], kind)
    members, place = compiler.reader(one.operands[2], B32), one.place

    def operation(state: Any, mask: Array | None) -> None:
        present = state.check_members(mask, members(state), place)
        values = np.where(present, state.by_warp(read(state)), neutral)
        answer = function.reduce(values, 1, dtype=kind.dtype)
        write(state, state.by_thread(np.repeat(answer[:, None], WARP, 1)), mask)

    return operation


@decoder("bar")
def _synchronize_warp(compiler: Compiler, one: Instruction) -> Operation:
    if one.modifiers != ("warp", "sync") or one.guard is not None:
        raise Unsupported("a barrier of this kind")
    # Its block begins when the lanes that it names are there: nothing is left to do.
    return lambda state, mask: None


@decoder("activemask")
def _active(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind = modifiers.type()
    modifiers.done()
    write = compiler.writer(one.operands[0], kind)

    def operation(state: Any, mask: Array | None) -> None:
        here = state.by_warp(state.present(mask))
        word = (here.astype(np.uint32) << _LANES.astype(np.uint32)).sum(1, dtype=np.uint32)
        write(state, state.by_thread(np.repeat(word[:, None], WARP, 1)), mask)

    return operation


@decoder("ldmatrix", "stmatrix")
def _matrices(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    known = [modifiers.flag(name) for name in ("sync", "aligned", "m8n8")]
    count = int((modifiers.one_of("x1", "x2", "x4") or "x1")[1:])
    transposes = modifiers.flag("trans")
    known += [modifiers.flag("shared") or modifiers.flag("shared::cta"), modifiers.flag("b16")]
    modifiers.done()
    loads = one.opcode == "ldmatrix"
    registers, rows = one.operands if loads else reversed(one.operands)
    parts, address, place = parts_of(registers), compiler.address(rows), one.place
    if not all(known) or len(parts) != count:
        raise Unsupported("matrices of this kind")
    writes = [compiler.writer(part, B32) for part in parts] if loads else []
    reads = [] if loads else [compiler.reader(part, B32) for part in parts]
    # Each lane has two neighbours of a row, or of a column.
    neighbours = [(_LANES // 4, 2 * (_LANES % 4) + j) for j in range(2)]
    if transposes:
        neighbours = [(column, row) for row, column in neighbours]

    def check_rows(state: Any, active: Array | None) -> None:
        # Only lanes that give a row have to give an aligned address.
        given = state.by_thread(state.by_warp(address(state))[:, _LANES % (8 * count)])
        state.check_vector("shared", given if active is None else given[active], 16, active, place)

    def addresses(state: Any, matrix: int, half: int, active: Array | None) -> Array:
        # Lanes 8 i to 8 i + 7 give the addresses of the rows of matrix i.
        row, column = neighbours[half]
        at = state.by_thread(state.by_warp(address(state))[:, 8 * matrix + row] + (2 * column).astype(np.uint64))
        return at if active is None else at[active]

    def load(state: Any, mask: Array | None) -> None:
        state.check_whole_warps(mask, place)
        active, _, access = state.accessing(mask, address(state))
        check_rows(state, active)
        for i, write in enumerate(writes):
            low, high = (
                state.load("shared", addresses(state, i, j, active), B16, active, access, place).astype(np.uint32)
                for j in range(2)
            )
            write(state, low | high << np.uint32(16), mask)

    def store(state: Any, mask: Array | None) -> None:
        state.check_whole_warps(mask, place)
        active, _, access = state.accessing(mask, address(state))
        check_rows(state, active)
        for i, read in enumerate(reads):
            given = read(state) if active is None else read(state)[active]
            for j in range(2):
                half = (given >> np.uint32(16 * j)).astype(np.uint16)
                state.store("shared", addresses(state, i, j, active), half, active, access, place)

    return load if loads else store


@decoder("mma")
def _multiply_matrices(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    wanted = ("sync", "aligned", "m16n8k8", "row", "col", "f32", "tf32", "tf32", "f32")
    if one.modifiers != wanted:
        raise Unsupported(f"a product .{'.'.join(one.modifiers)}")
    del modifiers
    d, a, b, c = (parts_of(operand) for operand in one.operands)
    if (len(d), len(a), len(b), len(c)) != (4, 4, 2, 4):
        raise Unsupported("fragments of a product")
    float32 = type_of("f32")
    writes = [compiler.writer(part, float32) for part in d]
    left, right = ([compiler.reader(part, B32) for part in parts] for parts in (a, b))
    start, place = [compiler.reader(part, float32) for part in c], one.place

    def operation(state: Any, mask: Array | None) -> None:
        state.check_whole_warps(mask, place)

        # Registers by warp, group of four lanes, and lane of the group.
        def fragment(read: Any) -> Array:
            return read(state).reshape(-1, 8, 4)

        def tf32(read: Any) -> Array:
            # What tensor cores read of a register; what is below is lost.
            return (fragment(read) & np.uint32(0xFFFFE000)).view(np.float32)

        warps = state.num_threads // WARP
        x, y = np.empty((warps, 16, 8)), np.empty((warps, 8, 8))
        z = np.empty((warps, 16, 8))
        x[:, :8, :4], x[:, 8:, :4], x[:, :8, 4:], x[:, 8:, 4:] = (tf32(read) for read in left)
        y[:, :4, :], y[:, 4:, :] = (tf32(read).transpose(0, 2, 1) for read in right)
        z[:, :8, 0::2], z[:, :8, 1::2], z[:, 8:, 0::2], z[:, 8:, 1::2] = (fragment(read) for read in start)
        # Products are exact, their sum nearly: tensor cores round it somewhere in between, nobody says where.
        total = (x @ y + z).astype(np.float32)
        results = total[:, :8, 0::2], total[:, :8, 1::2], total[:, 8:, 0::2], total[:, 8:, 1::2]
        for write, result in zip(writes, results, strict=True):
            write(state, np.ascontiguousarray(result).reshape(-1), mask)

    return operation
