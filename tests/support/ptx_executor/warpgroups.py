"""Products of matrices that four warps begin together and wait for later: `wgmma` of sm_90.

Until a product is waited for, the registers of its result hold poison. Its operands are read when it begins and once
more when it is waited for: what changed in between is a fault, as are shared operands that threads wrote without a
`fence.proxy.async` after it, and registers of results that something else wrote.

A `wgmma.fence` is asked for after each wait. Which registers were touched since the last one is not followed: compilers
copy accumulators right before the first product, and `ptxas` takes such copies away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ptx_executor.compiler import WARPGROUP, Compiler, Modifiers, Operation, Reader, Writer, decoder, parts_of
from ptx_executor.errors import ExecutionFault, Unsupported
from ptx_executor.groups import Groups
from ptx_executor.syntax import Immediate, Instruction, Operand, Place, Register
from ptx_executor.types import Array, type_of

ROWS, DEPTH = 64, 8
B32, F32, PRED = type_of("b32"), type_of("f32"), type_of("pred")
# Of the numbers of some warpgroups: the bits of an operand of each, (groups, rows, DEPTH), now.
Read = Callable[[Array], Array]
# Of a state: what reads an operand, where it lies.
Matrix = Callable[[Any], Read]


class _Result(NamedTuple):
    """What registers will hold.

    `group` counts the groups that a warpgroup had committed before its last product here; -1 if there is none.
    """

    matrix: Array  # (warpgroups, ROWS, columns)
    group: Array  # (warpgroups,)
    reads: list[Reader]
    writes: list[Writer]
    place: Place


class _Operand(NamedTuple):
    """What a product has read, and how to read it again."""

    warpgroups: Array
    group: Array
    bits: Array
    read: Read
    place: Place


class Products(Groups):
    """The products that the warpgroups of a state have begun and not waited for."""

    def __init__(self, num_threads: int, poison: int) -> None:
        count = num_threads // WARPGROUP
        super().__init__(count)
        self._is_fenced = np.zeros(count, bool)
        self._results: dict[tuple[str, ...], _Result] = {}
        self._operands: list[_Operand] = []
        self._poison = np.full(num_threads, poison & 0xFFFFFFFF, np.uint32)

    def fence(self, warpgroups: Array) -> None:
        self._is_fenced[warpgroups] = True

    def check_fence(self, warpgroups: Array, place: Place) -> None:
        if not self._is_fenced[warpgroups].all():
            raise ExecutionFault(f"no wgmma.fence since the last wait: {place}")

    def keep(self, warpgroups: Array, read: Read, place: Place) -> Array:
        """Return an operand, and see to it that it stays as it is."""
        bits = read(warpgroups)
        self._operands.append(_Operand(warpgroups, self.committed[warpgroups], bits, read, place))
        return bits

    def accumulators(self, state: Any, names: tuple[str, ...], reads: list[Reader], warpgroups: Array) -> Array:
        """Return what registers hold, or will, if a product before this one writes them."""
        held = _matrix(np.stack([_rows(read(state), warpgroups) for read in reads]))
        if names not in self._results:
            return held
        result = self._results[names]
        is_begun = result.group[warpgroups] >= 0
        return np.where(is_begun[:, None, None], result.matrix[warpgroups], held)

    def begin(self, state: Any, names: tuple[str, ...], warpgroups: Array, matrix: Array, empty: _Result) -> None:
        """Take a result that registers get when it is waited for."""
        result = self._results.setdefault(names, empty)
        result.matrix[warpgroups] = matrix
        result.group[warpgroups] = self.committed[warpgroups]
        threads = self._threads(warpgroups)
        for write in result.writes:
            write(state, self._poison, threads)

    def wait(self, state: Any, warpgroups: Array, most: int) -> None:
        """Finish all groups but the last `most` that were committed."""
        self._is_fenced[warpgroups] = False
        ends = self.ends(warpgroups, most)
        self._operands = [left for one in self._operands if (left := self._checked(one, ends)) is not None]
        for names, result in list(self._results.items()):
            done = np.flatnonzero((result.group >= 0) & (result.group < ends))
            if len(done):
                self._deliver(state, result, done)
                result.group[done] = -1
            if (result.group < 0).all():
                del self._results[names]

    def _checked(self, one: _Operand, ends: Array) -> _Operand | None:
        """Return what is left to check of an operand."""
        is_done = one.group < ends[one.warpgroups]
        if not is_done.any():
            return one
        if (one.read(one.warpgroups[is_done]) != one.bits[is_done]).any():
            raise ExecutionFault(f"an operand changed before the product was waited for: {one.place}")
        rest = ~is_done
        if not rest.any():
            return None
        return _Operand(one.warpgroups[rest], one.group[rest], one.bits[rest], one.read, one.place)

    def _deliver(self, state: Any, result: _Result, done: Array) -> None:
        threads = self._threads(done)
        values = np.zeros((len(result.writes), len(threads)), np.float32)
        values[:, threads] = _fragments(result.matrix[done])
        for read, write, value in zip(result.reads, result.writes, values, strict=True):
            if (read(state).view(np.uint32) != self._poison)[threads].any():
                raise ExecutionFault(f"a register of a result was written before it was waited for: {result.place}")
            write(state, value, threads)

    def _threads(self, warpgroups: Array) -> Array:
        chosen = np.zeros(len(self.committed), bool)
        chosen[warpgroups] = True
        return np.repeat(chosen, WARPGROUP)


def _rows(values: Array, warpgroups: Array) -> Array:
    """Return the values of the threads of some warpgroups, one row each."""
    return values.reshape(-1, WARPGROUP)[warpgroups]


def _matrix(registers: Array) -> Array:
    """Return (groups, ROWS, columns) of accumulators (registers, groups, WARPGROUP)."""
    count, groups = registers.shape[:2]
    # Eight columns, upper or lower eight rows, neighbours; group, warp, row, and lane of four.
    parts = registers.reshape(count // 4, 2, 2, groups, 4, 8, 4)
    return parts.transpose(3, 4, 1, 5, 0, 6, 2).reshape(groups, ROWS, 2 * count)


def _fragments(matrix: Array) -> Array:
    """Return (registers, threads) of what `_matrix` returns."""
    groups, _, columns = matrix.shape
    parts = matrix.reshape(groups, 4, 2, 8, columns // 8, 4, 2)
    return parts.transpose(4, 2, 6, 0, 1, 3, 5).reshape(columns // 2, groups * WARPGROUP)


def _executing(state: Any, mask: Array | None, place: Place) -> Array:
    """Return the numbers of the warpgroups that execute, all of whose threads must."""
    present = state.present(mask).reshape(-1, WARPGROUP)
    whole = present.all(1)
    partial = present.any(1) & ~whole
    if partial.any():
        first = int(np.flatnonzero(partial)[0]) * WARPGROUP
        raise ExecutionFault(f"only some of the warpgroup of {state.name_of(first)} execute: {place}")
    return np.flatnonzero(whole)


def _common(state: Any, values: Array, warpgroups: Array, place: Place) -> Array:
    """Return what all threads of each warpgroup have."""
    rows = _rows(values, warpgroups)
    differs = (rows != rows[:, :1]).any(1)
    if differs.any():
        first = int(warpgroups[differs][0]) * WARPGROUP
        raise ExecutionFault(f"the warpgroup of {state.name_of(first)} does not agree on an operand: {place}")
    return rows[:, 0]


# By the mode of the swizzle: bytes of a row, and the bits of an address that those three places above change.
_SPANS, _SWIZZLED = np.array([16, 128, 64, 32], np.uint64), np.array([0, 0x70, 0x30, 0x10], np.uint64)
_FIELDS = 0x3FFF | 0x3FFF << 16 | 0x3FFF << 32 | 3 << 62


def described(descriptors: Array, rows: int) -> Array:
    """Return the shared addresses (descriptors, rows, DEPTH) of a matrix whose rows lie along the sum's dimension.

    Eight rows are together: without a swizzle as blocks of 16 bytes a row, whose distance along a row is the leading
    byte offset, else as whole rows of the swizzle's span. The stride byte offset leads from eight rows to the next.
    The last bits of an address are swizzled with its own higher bits (PTX ISA, wgmma's matrix descriptor).

    Raises:
        ValueError: For descriptors with an offset of their base, and those that do not begin in the first row of a
            pattern, or end beyond it.
    """
    if (descriptors & ~np.uint64(_FIELDS)).any():
        raise ValueError("a descriptor with a base offset, or with bits that are no field's")
    mode = (descriptors >> np.uint64(62)).astype(np.int64)
    span, swizzled = _SPANS[mode], _SWIZZLED[mode]
    start, leading, stride = ((descriptors >> np.uint64(i) & np.uint64(0x3FFF)) << np.uint64(4) for i in (0, 16, 32))
    if ((mode > 0) & (start % (8 * span) + np.uint64(4 * DEPTH) > span)).any():
        raise ValueError("a descriptor that does not begin in the first row of its swizzle, or ends beyond it")
    step = np.where(mode > 0, np.uint64(16), leading)
    row, byte = np.arange(rows, dtype=np.uint64), np.arange(0, 4 * DEPTH, 4, dtype=np.uint64)
    down = row // 8 * stride[:, None] + row % 8 * span[:, None]
    along = byte % 16 + byte // 16 * step[:, None]
    at = start[:, None, None] + down[:, :, None] + along[:, None, :]
    return at ^ (at >> np.uint64(3) & swizzled[:, None, None])


def _in_shared_memory(descriptor: Reader, rows: int, place: Place) -> Matrix:
    def located(state: Any) -> Read:
        given = descriptor(state)

        def read(warpgroups: Array) -> Array:
            at = described(_common(state, given, warpgroups, place), rows)
            flat, threads = at.reshape(-1), np.repeat(warpgroups * WARPGROUP, at[0].size)
            access = state.access_together(threads)
            bits = state.load_active("shared", flat, B32, threads, access, place)
            if not state.shared.are_fenced(state.block_of[threads], flat, B32.size):
                raise ExecutionFault(f"no fence.proxy.async since threads wrote an operand: {place}")
            return bits.reshape(at.shape)

        return read

    return located


def _in_registers(reads: list[Reader]) -> Matrix:
    def located(state: Any) -> Read:
        def read(warpgroups: Array) -> Array:
            registers = np.stack([_rows(one(state), warpgroups) for one in reads])
            # Halves of the columns, and of a warp's rows; group, warp, row, column.
            parts = registers.reshape(2, 2, len(warpgroups), 4, 8, 4)
            return parts.transpose(2, 3, 1, 4, 0, 5).reshape(len(warpgroups), ROWS, DEPTH)

        return read

    return located


def _tf32(bits: Array) -> Array:
    """Return what tensor cores read of 32 bits; what is below is lost."""
    return (bits & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)


@decoder("wgmma")
def _of_warpgroups(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    name = modifiers.one_of("mma_async", "fence", "commit_group", "wait_group")
    if name is None or not modifiers.flag("sync") or not modifiers.flag("aligned"):
        raise Unsupported("an instruction of warpgroups of this kind")
    if name == "mma_async":
        return _multiplication(compiler, one, modifiers)
    modifiers.done()
    place = one.place
    if name == "wait_group":
        most = _number(one.operands[0])
        return lambda state, mask: state.products.wait(state, _executing(state, mask, place), most)
    if name == "commit_group":
        return lambda state, mask: state.products.commit(_executing(state, mask, place))
    return lambda state, mask: state.products.fence(_executing(state, mask, place))


def _number(operand: Operand, *known: int) -> int:
    if not isinstance(operand, Immediate) or (known and operand.value not in known):
        raise Unsupported(f"{operand} as a number")
    return operand.value


def _multiplication(compiler: Compiler, one: Instruction, modifiers: Modifiers) -> Operation:
    columns = {f"m{ROWS}n{count}k{DEPTH}": count for count in range(8, 257, 8)}
    shape = modifiers.one_of(*columns)
    if shape is None or one.modifiers[-3:] != ("f32", "tf32", "tf32"):
        raise Unsupported("a product of this kind")
    modifiers.skip(("f32", "tf32"))
    modifiers.done()
    count, place = columns[shape], one.place
    target, a, b, scale, *signs = one.operands
    sign = float(np.prod([_number(operand, 1, -1) for operand in signs]))
    registers = parts_of(target)
    names = tuple(part.name for part in registers if isinstance(part, Register))
    if len(names) != count // 2 or len(signs) != 2:
        raise Unsupported("operands of a product")
    reads, writes = ([make(part, F32) for part in registers] for make in (compiler.reader, compiler.writer))
    left = _left(compiler, a, place)
    right = _in_shared_memory(compiler.reader(b, type_of("b64")), count, place)
    adds = compiler.reader(scale, PRED)

    def operation(state: Any, mask: Array | None) -> None:
        products, warpgroups = state.products, _executing(state, mask, place)
        products.check_fence(warpgroups, place)
        x, y = (_tf32(products.keep(warpgroups, matrix(state), place)) for matrix in (left, right))
        # Products are exact, their sum nearly: it is rounded once. Tensor cores round somewhere, nobody says where.
        total = sign * (x @ y.transpose(0, 2, 1))
        is_sum = _common(state, adds(state), warpgroups, place)
        before = products.accumulators(state, names, reads, warpgroups)
        total = total + np.where(is_sum[:, None, None], before, np.float32(0))
        size = state.num_threads // WARPGROUP
        empty = _Result(np.zeros((size, ROWS, count), np.float32), np.full(size, -1), reads, writes, place)
        products.begin(state, names, warpgroups, total.astype(np.float32), empty)

    return operation


def _left(compiler: Compiler, operand: Operand, place: Place) -> Matrix:
    parts = parts_of(operand)
    if len(parts) == 1:
        return _in_shared_memory(compiler.reader(operand, type_of("b64")), ROWS, place)
    if len(parts) != 4:
        raise Unsupported("fragments of a product")
    return _in_registers([compiler.reader(part, B32) for part in parts])
