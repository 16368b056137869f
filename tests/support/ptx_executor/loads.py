"""Instructions that read and write memory, thread by thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ptx_executor.arithmetic import flushed
from ptx_executor.compiler import Compiler, Modifiers, Operation, decoder, parts_of
from ptx_executor.errors import ExecutionFault, Unsupported
from ptx_executor.syntax import Address, Immediate, Instruction, Operand, Symbol
from ptx_executor.types import Array, Type, type_of, unsigned

# What tells caches, and threads of other devices, how to treat an access; results are the same.
_HINTS = ("ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "weak", "relaxed", "gpu", "cta", "sys")
_HINTS += tuple(
    f"L1::{name}" for name in ("evict_normal", "evict_unchanged", "evict_first", "evict_last", "no_allocate")
)
_HINTS += tuple(f"L2::{name}" for name in ("64B", "128B", "256B", "evict_last", "evict_first"))
_SPACES = ("global", "shared", "local", "param", "const", "shared::cta")


def _space(modifiers: Modifiers) -> str:
    space = modifiers.one_of(*_SPACES)
    return {None: "generic", "const": "global", "shared::cta": "shared"}.get(space, space)


def _count(modifiers: Modifiers) -> int:
    name = modifiers.one_of("v2", "v4")
    return int(name[1:]) if name else 1


@decoder("ld")
def _load(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    modifiers.flag("volatile")
    space, count, kind = _space(modifiers), _count(modifiers), modifiers.type()
    modifiers.skip(_HINTS)
    modifiers.done()
    destination, source = one.operands
    parts = parts_of(destination)
    if len(parts) != count:
        raise Unsupported("parts of a vector")
    writes = [compiler.writer(part, kind) for part in parts]
    if space == "param" and isinstance(source, Address) and isinstance(source.base, Symbol):
        if source.base.name in compiler.parameters:
            return _load_parameter(compiler, source, writes, kind)
        space = _of_argument(compiler, source, kind.size * count)
    address, place, size = compiler.address(source), one.place, np.uint64(kind.size)

    def operation(state: Any, mask: Array | None) -> None:
        active, at, access = state.accessing(mask, address(state))
        if count > 1:
            state.check_vector(space, at, kind.size * count, active, place)
        for i, write in enumerate(writes):
            values = state.load(space, at + np.uint64(i) * size if i else at, kind, active, access, place)
            write(state, values, mask)

    return operation


def _of_argument(compiler: Compiler, address: Any, size: int) -> str:
    """Return where functions find what they are given, by an address there."""
    name = address.base.name if isinstance(address, Address) and isinstance(address.base, Symbol) else None
    if name not in compiler.arguments:
        raise Unsupported(f"parameter {name!r}")
    if not 0 <= address.offset <= compiler.arguments[name][1] - size:
        raise Unsupported("an access beyond the end of a parameter")
    return "local"


def _load_parameter(compiler: Compiler, source: Any, writes: list[Any], kind: Type) -> Operation:
    first = source.offset
    start, size = compiler.parameters[source.base.name]
    if not 0 <= first <= size - kind.size * len(writes):
        raise Unsupported("a load beyond the end of a parameter")

    def operation(state: Any, mask: Array | None) -> None:
        for i, write in enumerate(writes):
            at = start + first + i * kind.size
            value = np.frombuffer(state.parameters, kind.dtype, 1, at)
            write(state, np.repeat(value, state.num_threads), mask)

    return operation


@decoder("st")
def _store(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    modifiers.flag("volatile")
    space, count, kind = _space(modifiers), _count(modifiers), modifiers.type()
    modifiers.skip(_HINTS)
    modifiers.done()
    target, source = one.operands
    parts = parts_of(source)
    if len(parts) != count:
        raise Unsupported("parts of a vector")
    if space == "param":
        space = _of_argument(compiler, target, kind.size * count)
    reads = [compiler.reader(part, unsigned(kind.width)) for part in parts]
    address, place, size = compiler.address(target), one.place, np.uint64(kind.size)

    def operation(state: Any, mask: Array | None) -> None:
        active, at, access = state.accessing(mask, address(state))
        if count > 1:
            state.check_vector(space, at, kind.size * count, active, place)
        for i, read in enumerate(reads):
            values = read(state)
            values = values if active is None else values[active]
            state.store(space, at + np.uint64(i) * size if i else at, values, active, access, place)

    return operation


def _increment(old: Array, value: Array) -> Array:
    return np.where(old >= value, 0, old + 1).astype(old.dtype)


def _decrement(old: Array, value: Array) -> Array:
    return np.where((old == 0) | (old > value), value, old - 1).astype(old.dtype)


_ATOMICS: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "exch": lambda old, value: value, "inc": _increment, "dec": _decrement,
}  # fmt: skip
_ATOMIC_TYPES = {
    "add": "u32 s32 u64 f16 f32 f64", "min": "u32 s32 u64 s64", "max": "u32 s32 u64 s64", "and": "b32 b64",
    "or": "b32 b64", "xor": "b32 b64", "exch": "b32 b64", "inc": "u32", "dec": "u32", "cas": "b16 b32 b64",
}  # fmt: skip


@decoder("atom", "red")
def _atomic(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    space = _space(modifiers)
    modifiers.skip(("relaxed", "acquire", "release", "acq_rel", "cta", "gpu", "sys"))
    name, kind = modifiers.one_of(*_ATOMIC_TYPES), modifiers.type()
    if kind.name == "f16" and not modifiers.flag("noftz"):
        raise Unsupported("an atomic of halves without .noftz")
    modifiers.done()
    if space not in ("global", "shared", "generic") or name is None or kind.name not in _ATOMIC_TYPES[name].split():
        raise Unsupported("an atomic of this kind")
    if one.opcode == "red" and name in ("exch", "cas"):
        raise Unsupported("a reduction of this kind")
    operands = list(one.operands)
    write = compiler.writer(operands.pop(0), kind) if one.opcode == "atom" else None
    compared = compiler.reader(operands.pop(1), kind) if name == "cas" else None
    target, given = operands
    address, value, place = compiler.address(target), compiler.reader(given, kind), one.place
    change, flushes = _ATOMICS.get(name), (name, kind.name) == ("add", "f32")

    def changed(where: str, old: Array, by: Array) -> Array:
        # Sums of float32 in global memory know no subnormal numbers; those in shared memory do.
        return flushed(flushed(old) + flushed(by)) if flushes and where == "global" else change(old, by)

    def operation(state: Any, mask: Array | None) -> None:
        active, at, access = state.accessing(mask, address(state))
        chosen = slice(None) if active is None else active
        expected = None if compared is None else compared(state)[chosen]
        found = state.atomic(space, at, kind, value(state)[chosen], expected, changed, active, access, place)
        if write is not None:
            write(state, state.spread(found, active), mask)

    return operation


@decoder("membar", "fence")
def _fence(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    if modifiers.flag("proxy"):
        return _fence_of_proxies(modifiers)
    # Accesses are made in the order of the text: there is nothing to wait for.
    modifiers.skip(("cta", "gl", "sys", "gpu", "sc", "acq_rel"))
    modifiers.done()
    return lambda state, mask: None


def _fence_of_proxies(modifiers: Modifiers) -> Operation:
    if not modifiers.flag("async"):
        raise Unsupported("a fence of this kind")
    modifiers.skip(("shared::cta",))
    modifiers.done()

    def operation(state: Any, mask: Array | None) -> None:
        _, blocks, access = state.accessing(mask, state.block_of)
        state.shared.fence(blocks, access)

    return operation


@decoder("cp")
def _asynchronous_copy(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    if not modifiers.flag("async"):
        raise Unsupported("a copy of this kind")
    if name := modifiers.one_of("commit_group", "wait_group", "wait_all"):
        modifiers.done()
        return _group_of_copies(name, *one.operands)
    modifiers.skip(_HINTS)
    if not modifiers.flag("shared") or not modifiers.flag("global") or ".shared.global" not in one.place.text:
        raise Unsupported("a copy of this kind")
    modifiers.done()
    target, source, size, *rest = one.operands
    if not isinstance(size, Immediate) or size.value not in (4, 8, 16) or len(rest) > 1:
        raise Unsupported("a copy of this kind")
    count = size.value // 4
    to, start, word, place = compiler.address(target), compiler.address(source), type_of("b32"), one.place
    filled = compiler.reader(rest[0], type_of("u32")) if rest else None

    def operation(state: Any, mask: Array | None) -> None:
        active, at, access = state.accessing(mask, start(state))
        everywhere = to(state)
        there = everywhere if active is None else everywhere[active]
        state.check_vector("global", at, count * 4, active, place)
        state.check_vector("shared", there, count * 4, active, place)
        given = None if filled is None else (filled(state) if active is None else filled(state)[active])
        odd = None if given is None else (given % 4 != 0) | (given > count * 4)
        if odd is not None and odd.any():
            first = int(np.flatnonzero(odd)[0])
            thread = state.name_of(first if active is None else int(active[first]))
            raise ExecutionFault(f"{thread} copies part of a word, or more than there is room for: {place}")
        words = np.empty((len(at), count), np.uint32)
        for i in range(count):
            step = np.uint64(4 * i)
            if given is None:
                values = state.load_active("global", at + step, word, active, access, place)
            else:
                values = np.zeros(len(at), np.uint32)
                inside = given >= 4 * (i + 1)
                if inside.any():
                    chosen = (np.arange(state.num_threads) if active is None else active)[inside]
                    part = type(access)(*(x[inside] for x in access))
                    values[inside] = state.load_active("global", at[inside] + step, word, chosen, part, place)
            words[:, i] = values
        threads = np.arange(state.num_threads) if active is None else active
        state.copies.begin(state, threads, there, words, place)

    return operation


def _group_of_copies(name: str, *operands: Operand) -> Operation:
    if name == "commit_group":
        return lambda state, mask: state.copies.commit(state.present(mask))
    most = operands[0] if operands else Immediate(0)
    if not isinstance(most, Immediate):
        raise Unsupported(f"{most} as a number of groups")

    def operation(state: Any, mask: Array | None) -> None:
        who = state.present(mask)
        if name == "wait_all":
            state.copies.commit(who)
        state.copies.wait(state, who, most.value)

    return operation
