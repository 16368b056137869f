"""Memory: the host's, by its own addresses, and that of blocks and threads. Each access is checked before it is made.

Shadows remember, byte by byte, who wrote and read since the launch began, for the detection of races. A barrier orders
the threads of its block; nothing orders threads of two blocks, but atomics do not race with each other.
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


class _Touches:
    """Who touched each byte last, in which block and after how many barriers; of several, that they are many."""

    def __init__(self, size: int) -> None:
        self._who, self._block, self._epoch = (np.zeros(size, np.int32) for _ in range(3))

    def unordered(self, at: Array, own: Array, block: Array, epoch: Array) -> Array:
        """Return which bytes others have touched without a barrier since."""
        who = self._who[at]
        return (who != _NOBODY) & (who != own) & ((self._block[at] != block) | (self._epoch[at] >= epoch))

    def replace(self, at: Array, own: Array, block: Array, epoch: Array) -> None:
        self._who[at], self._block[at], self._epoch[at] = own, block, epoch

    def add(self, at: Array, own: Array, block: Array, epoch: Array) -> None:
        who, their_block = self._who[at], self._block[at]
        same_time = (who != _NOBODY) & ((their_block != block) | (self._epoch[at] == epoch))
        others = same_time & (who != own)
        other_block = same_time & (their_block != block)
        new_who, new_block = np.where(others, _MANY, own), np.where(other_block, _MANY, block)
        self.replace(at, new_who, new_block, epoch)
        # Of several in one instruction the last is noted: say that there are more.
        for noted, new in ((self._who, new_who), (self._block, new_block)):
            differs = noted[at] != new
            if differs.any():
                noted[at[differs]] = _MANY


class Shadow:
    """Who touched each byte of a piece of memory. Atomics are ordered with each other, and with nothing else."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._writes, self._reads = _Touches(size), _Touches(size)
        # None while there were none, as in most kernels.
        self._atomics: _Touches | None = None

    def read(self, at: Array, access: Access) -> Array:
        """Note a read of bytes (n, size); return which of n conflict with a write."""
        who = self._columns(access)
        conflict = self._writes.unordered(at, *who)
        if self._atomics is not None:
            conflict |= self._atomics.unordered(at, *who)
        self._reads.add(at, *who)
        return conflict.any(1)

    def write(self, at: Array, access: Access) -> Array:
        """Note a write of bytes (n, size); return which of n conflict with another access."""
        who = self._columns(access)
        conflict = self._writes.unordered(at, *who) | self._reads.unordered(at, *who)
        if self._atomics is not None:
            conflict |= self._atomics.unordered(at, *who)
        self._writes.replace(at, *who)
        return conflict.any(1)

    def atomic(self, at: Array, access: Access) -> Array:
        """Note an atomic change of bytes (n, size); return which of n conflict with a plain access."""
        who = self._columns(access)
        conflict = self._writes.unordered(at, *who) | self._reads.unordered(at, *who)
        self._atomics = self._atomics or _Touches(self.size)
        self._atomics.add(at, *who)
        return conflict.any(1)

    @staticmethod
    def _columns(access: Access) -> tuple[Array, Array, Array]:
        return (access.agents + np.int32(1))[:, None], access.blocks[:, None], access.epochs[:, None]


_Touch = Callable[[Shadow, Array, Access], Array]


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
        self._checked(at, dtype.itemsize, access, report, Shadow.read)
        return self._view(dtype)[self._index(at, dtype)]

    def store(self, at: Array, values: Array, access: Access, report: Callable[..., None]) -> None:
        checked = self._checked(at, values.dtype.itemsize, access, report, Shadow.write)
        worst = _stored(self._view(values.dtype), self._index(at, values.dtype), values, checked)
        if worst is not None:
            report("race", at, worst, None)

    def atomic(
        self, at: Array, dtype: np.dtype[Any], access: Access, report: Callable[..., None]
    ) -> tuple[Array, Array]:
        """Return memory and where in it each thread changes what it finds."""
        self._checked(at, dtype.itemsize, access, report, Shadow.atomic)
        return self._view(dtype), self._index(at, dtype)

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
        outside = (which < 0) | (at > self._ends[which] - np.uint64(size))
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

    def _checked(self, at: Array, size: int, access: Access, report: Callable[..., None], touch: _Touch) -> Any:
        """Return which writes conflict with what was done before; None if nobody asks."""
        which = self._bounds(at, size, report, touch is not Shadow.read)
        if not self._detects_races:
            return None
        conflicts = np.zeros(len(at), bool)
        for i in np.unique(which):
            buffer = self._sorted[i]
            if not buffer.is_writable:
                continue
            shadow = self._shadows.get(buffer.start)
            if shadow is None or shadow.size != buffer.end - buffer.start:
                shadow = self._shadows[buffer.start] = Shadow(buffer.end - buffer.start)
            here = which == i if len(self._sorted) > 1 else slice(None)
            offset = (at[here] - np.uint64(buffer.start)).astype(np.int64)[:, None] + np.arange(size)
            part = Access(*(x[here] for x in access))
            conflicts[here] = touch(shadow, offset, part)
        if touch is not Shadow.write and conflicts.any():
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

    def __init__(self, owners: int, size: int, detects_races: bool) -> None:
        self.size = size
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
        view, index = self._checked(owner, at, dtype, access, report, Shadow.read)
        return view[index]

    def atomic(
        self, owner: Array, at: Array, dtype: np.dtype[Any], access: Access, report: Callable[..., None]
    ) -> tuple[Array, Array]:
        """Return memory and where in it each thread changes what it finds."""
        view, index = self._checked(owner, at, dtype, access, report, Shadow.atomic)
        if self._shadow is not None:
            self._note_unfenced(self._bytes_of(index * dtype.itemsize, dtype.itemsize), access)
        return view, index

    def _checked(
        self, owner: Array, at: Array, dtype: np.dtype[Any], access: Access, report: Callable[..., None], touch: _Touch
    ) -> tuple[Array, Array]:
        flat = self._flat(owner, at, dtype.itemsize, report)
        if self._shadow is not None:
            conflicts = touch(self._shadow, self._bytes_of(flat, dtype.itemsize), access)
            if conflicts.any():
                report("race", at, conflicts, None)
        return self._bytes.view(dtype), flat // dtype.itemsize

    def store(self, owner: Array, at: Array, values: Array, access: Access, report: Callable[..., None]) -> None:
        flat = self._flat(owner, at, values.dtype.itemsize, report)
        view, index = self._bytes.view(values.dtype), flat // values.dtype.itemsize
        if self._shadow is None:
            view[index] = values
            return
        every = self._bytes_of(flat, values.dtype.itemsize)
        self._note_unfenced(every, access)
        conflicts = self._shadow.write(every, access)
        worst = _stored(view, index, values, conflicts)
        if worst is not None:
            report("race", at, worst, None)

    def _note_unfenced(self, at: Array, access: Access) -> None:
        self._unfenced[at], self._unfenced_epoch[at] = access.agents[:, None] + 1, access.epochs[:, None]

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
        return not self._unfenced[self._bytes_of(flat, size)].any()

    @staticmethod
    def _bytes_of(flat: Array, size: int) -> Array:
        return flat[:, None] + np.arange(size)

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
