"""From a function's text to what runs: each instruction becomes a closure over its operands, in basic blocks.

An operation is called with the state of a launch and a mask of its threads, None for all that have not ended. It
computes for all threads and keeps results where the mask holds: registers are arrays that nobody changes in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from ptx_executor.errors import Unsupported
from ptx_executor.syntax import (
    WIDTHS,
    Address,
    Function,
    Immediate,
    Instruction,
    Module,
    Not,
    Operand,
    Pair,
    Place,
    Register,
    Symbol,
    Variable,
    Vector,
)  # fmt: skip
from ptx_executor.types import Array, Type, immediate_bits, type_of, unsigned

Reader = Callable[[Any], Array]
Writer = Callable[[Any, Array, "Array | None"], None]
Operation = Callable[[Any, "Array | None"], None]
Decoder = Callable[["Compiler", Instruction], Operation]

WARP, WARPGROUP = 32, 128
DECODERS: dict[str, Decoder] = {}
# Of which a launch knows the values.
SPECIAL = tuple(f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz")
SPECIAL += ("%laneid", "%warpid", "%lanemask_eq", "%lanemask_lt", "%lanemask_le", "%lanemask_gt", "%lanemask_ge")


def decoder(*opcodes: str) -> Callable[[Decoder], Decoder]:
    """Register what compiles an instruction."""

    def register(function: Decoder) -> Decoder:
        DECODERS.update(dict.fromkeys(opcodes, function))
        return function

    return register


class Modifiers:
    """Reads off an instruction's modifiers one by one; what nobody read is an error."""

    def __init__(self, instruction: Instruction) -> None:
        self._left = list(instruction.modifiers)
        self._place = instruction.place

    def flag(self, name: str) -> bool:
        return self.one_of(name) is not None

    def one_of(self, *names: str) -> str | None:
        for name in names:
            if name in self._left:
                self._left.remove(name)
                return name
        return None

    def type(self) -> Type:
        """Return the first type that is left."""
        for name in self._left:
            if name in WIDTHS:
                self._left.remove(name)
                return type_of(name)
        raise Unsupported(f"no type: {self._place}")

    def types(self) -> list[Type]:
        found = [name for name in self._left if name in WIDTHS]
        self._left = [name for name in self._left if name not in WIDTHS]
        return [type_of(name) for name in found]

    def skip(self, names: Iterable[str]) -> None:
        """Pass over those that change no result."""
        known = set(names)
        self._left = [name for name in self._left if name not in known]

    def done(self) -> None:
        if self._left:
            raise Unsupported(f"modifier .{'.'.join(self._left)}: {self._place}")


class Branch(NamedTuple):
    target: int
    guard: Reader | None


class Exit(NamedTuple):
    guard: Reader | None


class Barrier(NamedTuple):
    place: Place
    identifier: Reader


class Block(NamedTuple):
    """Operations that run one after the other, and what follows; None falls through to the next block.

    Before the first operation a thread waits for others of as many as `width` says: those lanes of its warp that
    `members` reads, or, if that is None, all.
    """

    operations: list[tuple[Operation, Place]]
    end: Branch | Exit | Barrier | None
    place: Place | None
    members: Reader | None = None
    width: int = 1


class Program(NamedTuple):
    """A function, compiled."""

    name: str
    blocks: list[Block]
    register_types: list[Type]
    special: dict[str, int]
    constants: list[tuple[int, Type]]
    parameters: dict[str, tuple[int, int]]  # offset, size
    parameter_bytes: int
    local_bytes: int
    shared_bytes: int
    external_shared: bool
    block_size: tuple[int, ...] | None
    instructions: int


class Compiler:
    """Compiles one function."""

    def __init__(self, module: Module, function: Function, symbols: dict[str, int]) -> None:
        """Args: symbols: Addresses of the module's global and constant variables."""
        self._module, self._function = module, function
        self._indices = {name: i for i, name in enumerate(function.registers)}
        self._types = [unsigned(WIDTHS[kind]) for kind in function.registers.values()]
        self._special: dict[str, int] = {}
        self._constants: list[tuple[int, Type]] = []
        self._constant_at: dict[tuple[int, str], int] = {}
        self.parameters, self._parameter_bytes = _placed(function.parameters)
        shared = [variable for variable in module.variables.values() if variable.space == "shared"]
        static = [variable for variable in shared if variable.size]
        static += [variable for variable in function.variables if variable.space == "shared"]
        places, self._shared_bytes = _placed(static)
        self._external_shared = any(not variable.size for variable in shared)
        if self._external_shared:
            # Dynamic shared memory follows what is static.
            self._shared_bytes = -(-self._shared_bytes // 16) * 16
        self._symbols = {name: ("shared", offset) for name, (offset, _) in places.items()}
        self._symbols |= {variable.name: ("shared", self._shared_bytes) for variable in shared if not variable.size}
        # Those of a thread: its own, and what it gives functions that it calls.
        own = [one for one in function.variables if one.space in ("local", "param")]
        places, self._local_bytes = _placed(own)
        self.arguments = {one.name: places[one.name] for one in own if one.space == "param"}
        self._symbols |= {name: ("local", offset) for name, (offset, _) in places.items()}
        self._symbols |= {name: ("param", offset) for name, (offset, _) in self.parameters.items()}
        self._symbols |= {name: ("global", address) for name, address in symbols.items()}

    def program(self) -> Program:
        """Return the function, compiled."""
        body, labels = self._function.body, self._function.labels
        # Most labels are those of debug information: where nobody goes no block begins.
        targets = {one.operands[0].name for one in body if one.opcode == "bra" and isinstance(one.operands[0], Symbol)}
        starts = {0, *(index for label, index in labels.items() if label in targets)}
        starts |= {
            i + 1 for i, one in enumerate(body) if one.opcode in ("bra", "ret", "exit", "bar", "barrier", "trap")
        }
        # Where threads wait for others of their warp or warpgroup, a block begins.
        starts |= {i for i, one in enumerate(body) if _width(one) > 1}
        order = sorted(start for start in starts if start < len(body))
        number = {start: i for i, start in enumerate(order)}
        # A label at the end of a function has nothing to run.
        number[len(body)] = len(order)
        blocks = []
        for start, end in zip(order, [*order[1:], len(body)], strict=True):
            operations: list[tuple[Operation, Place]] = []
            last: Branch | Exit | Barrier | None = None
            for one in body[start:end]:
                last = self._control(one, labels, number)
                if last is None:
                    operations.append((self._operation(one), one.place))
            first = body[start]
            members = self._members(first) if _width(first) == WARP else None
            blocks.append(Block(operations, last, first.place, members, _width(first)))
        blocks.append(Block([], Exit(None), None))
        function = self._function
        return Program(
            function.name, blocks, self._types, self._special, self._constants, self.parameters, self._parameter_bytes,
            self._local_bytes, self._shared_bytes, self._external_shared, function.block_size, len(body),
        )  # fmt: skip

    def _members(self, one: Instruction) -> Reader:
        """Return what gives the lanes that an instruction of a warp names; those of matrices and barriers name all."""
        names_lanes = one.opcode in ("shfl", "vote", "redux") or "warp" in one.modifiers
        named = one.operands[-1] if names_lanes else Immediate(0xFFFFFFFF)
        return self.reader(named, type_of("b32"))

    def _control(self, one: Instruction, labels: dict[str, int], number: dict[int, int]) -> Any:
        guard = None if one.guard is None else self.guard(one.guard)
        modifiers = Modifiers(one)
        if one.opcode == "bra":
            modifiers.skip(["uni"])
            modifiers.done()
            (target,) = one.operands
            if not isinstance(target, Symbol) or target.name not in labels:
                raise Unsupported(f"a branch to what is no label: {one.place}")
            return Branch(number[labels[target.name]], guard)
        if one.opcode in ("ret", "exit"):
            modifiers.skip(["uni"])
            modifiers.done()
            return Exit(guard)
        if one.opcode in ("bar", "barrier") and "warp" not in one.modifiers:
            modifiers.skip(["cta"])
            if not modifiers.flag("sync") or guard is not None or len(one.operands) != 1:
                raise Unsupported(f"a barrier of this kind: {one.place}")
            modifiers.skip(["aligned"])
            modifiers.done()
            return Barrier(one.place, self.reader(one.operands[0], type_of("u32")))
        return None

    def _operation(self, one: Instruction) -> Operation:
        if one.opcode not in DECODERS:
            raise Unsupported(f"instruction {one.opcode!r}: {one.place}")
        try:
            operation = DECODERS[one.opcode](self, one)
        except (Unsupported, ValueError) as error:
            raise Unsupported(f"{error}: {one.place}") from error
        if one.guard is None:
            return operation
        guard = self.guard(one.guard)

        def guarded(state: Any, mask: Array | None) -> None:
            chosen = guard(state)
            if mask is not None:
                chosen = chosen & mask
            elif state.alive is not None:
                chosen = chosen & state.alive
            if chosen.any():
                operation(state, chosen)

        return guarded

    def guard(self, operand: Register | Not) -> Reader:
        return self.reader(operand, type_of("pred"))

    def reader(self, operand: Operand, kind: Type) -> Reader:
        """Return what gives an operand as an array of a type, one number a thread."""
        if isinstance(operand, Not):
            inner = self.reader(operand.register, kind)
            return lambda state: ~inner(state)
        if isinstance(operand, Immediate):
            i = self.constant(immediate_bits(*operand, kind), kind)
            return lambda state: state.constants[i]
        if isinstance(operand, Symbol):
            if operand.name in self.arguments:
                raise Unsupported("the address of what a function is given")
            i = self.constant(self.symbol(operand.name)[1], kind)
            return lambda state: state.constants[i]
        if not isinstance(operand, Register):
            raise Unsupported(f"operand {operand} as .{kind.name}")
        i = self._index(operand.name)
        held = self._types[i]
        if held.width == kind.width:
            if held.dtype == kind.dtype:
                return lambda state: state.registers[i]
            dtype = kind.dtype
            return lambda state: state.registers[i].view(dtype)
        if held.width < kind.width or "p" in (held.kind, kind.kind):
            raise Unsupported(f"register {operand.name} of {held.width} bits as .{kind.name}")
        bits, dtype = kind.bits, kind.dtype
        return lambda state: state.registers[i].astype(bits).view(dtype)

    def writer(self, operand: Operand, kind: Type) -> Writer:
        """Return what takes a result of a type into a register, which may be wider."""
        if isinstance(operand, Register) and operand.name == "_":
            return lambda state, value, mask: None
        if not isinstance(operand, Register) or operand.name not in self._indices:
            raise Unsupported(f"{operand} as a result")
        i = self._indices[operand.name]
        held = self._types[i]
        where = np.where
        if held.width == kind.width:
            bits = held.bits

            def write(state: Any, value: Array, mask: Array | None) -> None:
                value = value.view(bits)
                state.registers[i] = value if mask is None else where(mask, value, state.registers[i])

            return write
        if held.width < kind.width or "p" in (held.kind, kind.kind) or kind.is_float:
            raise Unsupported(f"a result .{kind.name} in register {operand.name} of {held.width} bits")
        wider = type_of(f"{'s' if kind.is_signed else 'u'}{held.width}")

        def write_extended(state: Any, value: Array, mask: Array | None) -> None:
            value = value.astype(wider.dtype).view(wider.bits)
            state.registers[i] = value if mask is None else where(mask, value, state.registers[i])

        return write_extended

    def constant(self, value: int, kind: Type) -> int:
        """Return where a launch has a number, as an array."""
        key = value, kind.name
        if key not in self._constant_at:
            self._constant_at[key] = len(self._constants)
            self._constants.append((value, kind))
        return self._constant_at[key]

    def symbol(self, name: str) -> tuple[str, int]:
        """Return space and address of a variable."""
        if name not in self._symbols:
            raise Unsupported(f"symbol {name!r}")
        return self._symbols[name]

    def address(self, operand: Operand, kind: str = "u64") -> Reader:
        """Return what gives the addresses of a memory operand, as uint64."""
        if not isinstance(operand, Address):
            raise Unsupported(f"{operand} as an address")
        offset = operand.offset
        if operand.base is None:
            i = self.constant(offset & (2**64 - 1), type_of("u64"))
            return lambda state: state.constants[i]
        if isinstance(operand.base, Symbol):
            i = self.constant((self.symbol(operand.base.name)[1] + offset) & (2**64 - 1), type_of("u64"))
            return lambda state: state.constants[i]
        held = self._types[self._index(operand.base.name)]
        base = self.reader(operand.base, type_of(f"u{held.width}"))
        if held.width == 64:
            step = np.uint64(offset & (2**64 - 1))
            return base if not offset else lambda state: base(state) + step
        small = np.uint32(offset & (2**32 - 1))
        return lambda state: (base(state) + small).astype(np.uint64)

    def _index(self, name: str) -> int:
        if name in self._indices:
            return self._indices[name]
        if name not in SPECIAL:
            raise Unsupported(f"register {name}")
        self._indices[name] = self._special[name] = len(self._types)
        self._types.append(type_of("u32"))
        return self._indices[name]


_OF_WARPS = ("shfl", "vote", "redux", "mma", "ldmatrix", "stmatrix", "bar", "barrier")


def _width(one: Instruction) -> int:
    """Return among how many threads an instruction has some wait for others."""
    if one.guard is not None or "sync" not in one.modifiers:
        return 1
    return WARPGROUP if one.opcode == "wgmma" else WARP if one.opcode in _OF_WARPS else 1


def _placed(variables: Iterable[Variable]) -> tuple[dict[str, tuple[int, int]], int]:
    """Return offset and size of each variable, and how many bytes all of them take."""
    places, end = {}, 0
    for variable in variables:
        start = -(-end // variable.align) * variable.align
        places[variable.name] = (start, variable.size)
        end = start + variable.size
    return places, end


def parts_of(operand: Operand) -> tuple[Operand, ...]:
    """Return the registers of a vector, or the one there is."""
    return operand.parts if isinstance(operand, Vector) else (operand,)


def both_of(operand: Operand) -> tuple[Operand, Operand | None]:
    """Return the two results of a pair, or one and None."""
    return (operand.first, operand.second) if isinstance(operand, Pair) else (operand, None)
