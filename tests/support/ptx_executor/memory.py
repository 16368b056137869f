"""Memory: the host's, by its own addresses, and that of blocks and threads. Each access is checked before it is made.

Shadows remember, byte by byte, who wrote and read since the launch began, for the detection of races. A barrier orders
the threads of its block; nothing orders threads of two blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ptx_executor.errors import MemoryFault
from ptx_executor.types import Array

_FIRST = 1 << 16  # No host maps what lies below.
# Generic addresses name their space by the bits above the host's own, none of them for global memory.
WINDOW_BITS = np.uint64(48)
SPACE_OF_WINDOW = {1: "local", 2: "shared"}
_MANY = -1
_NOBODY = 0
# The agent of an access that threads of several warps make together.
SEVERAL = _MANY - 1


class _Everything:
    """All of the process's memory as one array, which touches nothing until it is indexed."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        count = ((1 << 47) - _FIRST) // dtype.itemsize
        self.__array_interface__ = {
            "data": (_FIRST, False), "shape": (count,), "typestr": dtype.str, "version": 3,
        }  # fmt: skip


class Access(NamedTuple):
    """Who accesses: numbers of warps or of threads, of their blocks, and of the barriers that these have passed."""

    agents: Array
    blocks: Array
    epochs: Array


class Shadow:
    """Who touched each byte of a piece of memory."""

    def __init__(self, size: int) -> None:
        self.writer = np.zeros(size, np.int32)
        self.writer_block = np.zeros(size, np.int32)
        self.writer_epoch = np.zeros(size, np.int32)
        self.reader = np.zeros(size, np.int32)
        self.reader_block = np.zeros(size, np.int32)
        self.reader_epoch = np.zeros(size, np.int32)

    def read(self, at: Array, access: Access) -> Array:
        """Note a read of bytes (n, size); return which of n conflict with a write."""
        own, block, epoch = (x[:, None] for x in self._columns(access))
        conflict = self._unordered(self.writer[at], self.writer_block[at], self.writer_epoch[at], own, block, epoch)
        same_time = (self.reader[at] != _NOBODY) & ((self.reader_block[at] != block) | (self.reader_epoch[at] == epoch))
        others = same_time & (self.reader[at] != own)
        other_block = same_time & (self.reader_block[at] != block)
        self.reader[at] = np.where(others, _MANY, own)
        self.reader_block[at] = np.where(other_block, _MANY, block)
        self.reader_epoch[at] = epoch
        # Of several in one instruction the last is noted: say that there are more.
        noted = self.reader[at]
        if ((noted != own) & (noted != _MANY)).any():
            several = (noted != own) & (noted != _MANY)
            self.reader[at[several]] = _MANY
            noted_block = self.reader_block[at]
            self.reader_block[at[(noted_block != block) & (noted_block != _MANY)]] = _MANY
        return conflict.any(1)

    def write(self, at: Array, access: Access) -> Array:
        """Note a write of bytes (n, size); return which of n conflict with another access."""
        own, block, epoch = (x[:, None] for x in self._columns(access))
        conflict = self._unordered(self.writer[at], self.writer_block[at], self.writer_epoch[at], own, block, epoch)
        conflict |= self._unordered(self.reader[at], self.reader_block[at], self.reader_epoch[at], own, block, epoch)
        self.writer[at], self.writer_block[at], self.writer_epoch[at] = own, block, epoch
        return conflict.any(1)

    @staticmethod
    def _columns(access: Access) -> tuple[Array, Array, Array]:
        return access.agents + np.int32(1), access.blocks, access.epochs

    @staticmethod
    def _unordered(who: Array, their_block: Array, their_epoch: Array, own: Array, block: Array, epoch: Array) -> Array:
        return (who != _NOBODY) & (who != own) & ((their_block != block) | (their_epoch >= epoch))


def _stored(view: Array, index: Array, values: Array, conflicts: Array | None) -> Array | None:
    """Store, and return which stores race, if any does: a value that stands there already disturbs nobody."""
    if conflicts is None:
        view[index] = values
        return None
    is_new = view[index] != values
    view[index] = values
    worst = (conflicts & is_new) | (view[index] != values)
    return worst if worst.any() else None


class Buffer(NamedTuple):
    name: str
    start: int
    end: int
    is_writable: bool


class GlobalMemory:
    """Pieces of the host's memory that kernels may touch."""

    def __init__(self, detects_races: bool = True) -> None:
        self._buffers: dict[int, Buffer] = {}
        self._shadows: dict[int, Shadow] = {}
        self._views: dict[np.dtype[Any], Array] = {}
        self._detects_races = detects_races
        self._starts = np.zeros(0, np.uint64)
        self._ends = np.zeros(0, np.uint64)
        self._sorted: list[Buffer] = []

    def register(self, start: int, size: int, name: str, is_writable: bool = True) -> None:
        """Allow accesses to some bytes; what overlaps another buffer is joined with it."""
        end = start + size
        for other in list(self._buffers.values()):
            if size and start < other.end and other.start < end:
                del self._buffers[other.start]
                start, end = min(start, other.start), max(end, other.end)
                name = other.name if other.name == name else f"{other.name}, {name}"
                is_writable |= other.is_writable
        if end > start:
            self._buffers[start] = Buffer(name, start, end, is_writable)
        self._sorted = sorted(self._buffers.values(), key=lambda buffer: buffer.start)
        self._starts = np.array([buffer.start for buffer in self._sorted], np.uint64)
        self._ends = np.array([buffer.end for buffer in self._sorted], np.uint64)

    def begin_launch(self) -> None:
        """Forget who touched what: launches follow each other."""
        self._shadows.clear()

    def load(self, at: Array, dtype: np.dtype[Any], access: Access, report: Callable[..., None]) -> Array:
        self._checked(at, dtype.itemsize, access, report, is_write=False)
        return self._view(dtype)[self._index(at, dtype)]

    def store(self, at: Array, values: Array, access: Access, report: Callable[..., None]) -> None:
        checked = self._checked(at, values.dtype.itemsize, access, report, is_write=True)
        worst = _stored(self._view(values.dtype), self._index(at, values.dtype), values, checked)
        if worst is not None:
            report("race", at, worst, None)

    def read_value(self, at: Array, dtype: np.dtype[Any]) -> Array:
        """Return what atomics find; they are checked by `check_atomic`."""
        return self._view(dtype)[self._index(at, dtype)]

    def write_value(self, at: Array, values: Array) -> None:
        self._view(values.dtype)[self._index(at, values.dtype)] = values

    def check_atomic(self, at: Array, size: int, report: Callable[..., None]) -> None:
        self._bounds(at, size, report, is_write=True)

    def _view(self, dtype: np.dtype[Any]) -> Array:
        if dtype not in self._views:
            self._views[dtype] = np.asarray(_Everything(dtype))
        return self._views[dtype]

    @staticmethod
    def _index(at: Array, dtype: np.dtype[Any]) -> Array:
        return ((at - np.uint64(_FIRST)) // np.uint64(dtype.itemsize)).astype(np.int64)

    def _bounds(self, at: Array, size: int, report: Callable[..., None], is_write: bool) -> Array:
        if not len(self._sorted):
            report("outside", at, np.ones(len(at), bool), None)
        which = np.searchsorted(self._starts, at, side="right").astype(np.int64) - 1
        outside = (which < 0) | (at >= self._ends[which]) | (at + np.uint64(size) > self._ends[which])
        if outside.any():
            report("outside", at, outside, None)
        misaligned = at % np.uint64(size) != 0
        if misaligned.any():
            report("misaligned", at, misaligned, None)
        if is_write:
            for i in np.unique(which):
                if not self._sorted[i].is_writable:
                    report("constant", at, which == i, None)
        return which

    def _checked(self, at: Array, size: int, access: Access, report: Callable[..., None], is_write: bool) -> Any:
        """Return which writes conflict with what was done before, and which with each other; None if nobody asks."""
        which = self._bounds(at, size, report, is_write)
        if not self._detects_races:
            return None
        conflicts = np.zeros(len(at), bool)
        for i in np.unique(which):
            buffer = self._sorted[i]
            if not buffer.is_writable:
                continue
            shadow = self._shadows.get(buffer.start)
            if shadow is None or len(shadow.writer) != buffer.end - buffer.start:
                shadow = self._shadows[buffer.start] = Shadow(buffer.end - buffer.start)
            here = which == i if len(self._sorted) > 1 else slice(None)
            offset = (at[here] - np.uint64(buffer.start)).astype(np.int64)[:, None] + np.arange(size)
            part = Access(*(x[here] for x in access))
            conflicts[here] = shadow.write(offset, part) if is_write else shadow.read(offset, part)
        if not is_write and conflicts.any():
            report("race", at, conflicts, None)
        return conflicts

    def describe(self, address: int) -> str:
        """Return which buffer is nearest to an address."""
        if not self._sorted:
            return "no memory is registered"
        nearest = min(self._sorted, key=lambda b: max(b.start - address, address - b.end + 1, 0))
        offset, size = address - nearest.start, nearest.end - nearest.start
        return f"{offset:+d} bytes from the start of {nearest.name}, which has {size}"


class BankedMemory:
    """Memory that each owner has of its own: the shared memory of blocks, the local memory of threads."""

    def __init__(self, owners: int, size: int, detects_races: bool, what: str) -> None:
        self.size, self.what = size, what
        self._stride = -(-size // 16) * 16
        # Neither zero nor a number: what nobody wrote should not look like something.
        self._bytes = np.full(owners * self._stride, 0xA5, np.uint8)
        self._shadow = Shadow(len(self._bytes)) if detects_races else None
        # Who wrote what tensor cores may not read yet, and after how many barriers.
        self._unfenced, self._unfenced_epoch = np.zeros((2, len(self._bytes) if detects_races else 0), np.int32)

    def fill(self, data: bytes) -> None:
        """Set what the first owner has."""
        self._bytes[: len(data)] = np.frombuffer(data, np.uint8)

    def load(self, owner: Array, at: Array, dtype: np.dtype[Any], access: Access, report: Callable[..., None]) -> Array:
        flat = self._flat(owner, at, dtype.itemsize, report)
        if self._shadow is not None:
            conflicts = self._shadow.read(flat[:, None] + np.arange(dtype.itemsize), access)
            if conflicts.any():
                report("race", at, conflicts, None)
        return self._bytes.view(dtype)[flat // dtype.itemsize]

    def store(self, owner: Array, at: Array, values: Array, access: Access, report: Callable[..., None]) -> None:
        flat = self._flat(owner, at, values.dtype.itemsize, report)
        view, index = self._bytes.view(values.dtype), flat // values.dtype.itemsize
        if self._shadow is None:
            view[index] = values
            return
        every = flat[:, None] + np.arange(values.dtype.itemsize)
        self._unfenced[every], self._unfenced_epoch[every] = access.agents[:, None] + 1, access.epochs[:, None]
        conflicts = self._shadow.write(every, access)
        worst = _stored(view, index, values, conflicts)
        if worst is not None:
            report("race", at, worst, None)

    def fence(self, owner: Array, access: Access) -> None:
        """Let tensor cores read what some threads wrote, and all that was written before their last barrier."""
        at = np.flatnonzero(self._unfenced)
        if not len(at):
            return
        epochs = np.full(len(self._bytes) // self._stride, -1, np.int32)
        epochs[owner] = access.epochs
        is_own = np.isin(self._unfenced[at], access.agents + 1)
        is_older = self._unfenced_epoch[at] < epochs[at // self._stride]
        self._unfenced[at[is_own | is_older]] = _NOBODY

    def are_fenced(self, owner: Array, at: Array, size: int) -> bool:
        """Return whether tensor cores may read what threads wrote."""
        if self._shadow is None:
            return True
        flat = owner.astype(np.int64) * self._stride + at.astype(np.int64)
        return not self._unfenced[flat[:, None] + np.arange(size)].any()

    def _flat(self, owner: Array, at: Array, size: int, report: Callable[..., None]) -> Array:
        # Also where a sum begins anew from zero.
        outside = (at >= self.size) | (at + np.uint64(size) > self.size)
        if outside.any():
            report("outside", at, outside, None)
        misaligned = at % np.uint64(size) != 0
        if misaligned.any():
            report("misaligned", at, misaligned, None)
        return owner.astype(np.int64) * self._stride + at.astype(np.int64)


def fault(kind: str, place: Any, thread: str, detail: str) -> MemoryFault:
    words = {
        "outside": "outside all memory it may touch",
        "misaligned": "not aligned to its size",
        "constant": "a write to constant memory",
    }
    return MemoryFault(f"{words[kind]}: {detail}, by {thread}, {place}")
