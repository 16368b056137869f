"""Instructions of one thread alone: arithmetic, comparisons, moves and conversions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ptx_executor import arithmetic
from ptx_executor.compiler import Compiler, Modifiers, Operation, both_of, decoder
from ptx_executor.errors import Unsupported
from ptx_executor.memory import SPACE_OF_WINDOW, WINDOW_BITS
from ptx_executor.syntax import Immediate, Instruction, Vector
from ptx_executor.types import Array, Type, type_of, unsigned

Function = Callable[..., Array]
U32 = type_of("u32")
PRED = type_of("pred")


def _applied(compiler: Compiler, one: Instruction, function: Function, result: Type, *sources: Type) -> Operation:
    """Return the operation that writes a function of the operands."""
    destination, *operands = one.operands
    if len(operands) != len(sources):
        raise Unsupported(f"{len(operands)} operands")
    write = compiler.writer(destination, result)
    reads = [compiler.reader(operand, kind) for operand, kind in zip(operands, sources, strict=True)]
    if len(reads) == 1:
        (first,) = reads
        return lambda state, mask: write(state, function(first(state)), mask)
    if len(reads) == 2:
        first, second = reads
        return lambda state, mask: write(state, function(first(state), second(state)), mask)
    return lambda state, mask: write(state, function(*(read(state) for read in reads)), mask)


def _approximate(compiler: Compiler, one: Instruction, name: str, flushes: bool, arity: int) -> Operation:
    """Return the operation of an instruction whose results PTX only bounds."""
    kind = type_of("f32")
    destination, *operands = one.operands
    if len(operands) != arity:
        raise Unsupported(f"{len(operands)} operands")
    write, reads = compiler.writer(destination, kind), [compiler.reader(operand, kind) for operand in operands]

    def operation(state: Any, mask: Array | None) -> None:
        values = [read(state) for read in reads]
        if flushes:
            values = [arithmetic.flushed(value) for value in values]
        result = state.approximations(name, *values)
        write(state, arithmetic.canonical(arithmetic.flushed(result) if flushes else result), mask)

    return operation


def _float_function(function: Function, modifiers: Modifiers, kind: Type, may_saturate: bool = False) -> Function:
    """Return a float function with what `.ftz` and `.sat` do around it, and the NaN of GPUs."""
    flushes = kind.width < 64 and modifiers.flag("ftz")
    saturates = kind.width < 64 and may_saturate and modifiers.flag("sat")
    canonical, flushed, saturated = arithmetic.canonical, arithmetic.flushed, arithmetic.saturated
    if not flushes and not saturates:
        return lambda *values: canonical(function(*values))

    def whole(*values: Array) -> Array:
        result = function(*(map(flushed, values) if flushes else values))
        result = flushed(result) if flushes else result
        return saturated(result) if saturates else canonical(result)

    return whole


_PAIRS = {"u16x2": "u16", "s16x2": "s16", "f32x2": "f32"}


def _one_or_pair(modifiers: Modifiers) -> tuple[Type, Callable[[Function], Function], Type]:
    """Return the type of numbers, what makes a function of them one of registers, and the type of these.

    A register has one number, or two of half its width.
    """
    name = modifiers.one_of(*_PAIRS)
    if name is None:
        kind = modifiers.type()
        return kind, lambda function: function, kind
    kind = type_of(_PAIRS[name])
    whole = unsigned(2 * kind.width)

    def of_pairs(function: Function) -> Function:
        return lambda *values: function(*(value.view(kind.dtype) for value in values)).view(whole.dtype)

    return kind, of_pairs, whole


_SIMPLE: dict[str, Function] = {"add": np.add, "sub": np.subtract}


@decoder("add", "sub")
def _sum(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind, of_registers, held = _one_or_pair(modifiers)
    function = _SIMPLE[one.opcode]
    if kind.is_float:
        modifiers.skip(["rn"])
        function = _float_function(function, modifiers, kind, may_saturate=True)
    elif modifiers.flag("cc"):
        modifiers.done()
        return _with_carry(compiler, one, kind, takes=False, gives=True)
    modifiers.done()
    return _applied(compiler, one, of_registers(function), held, held, held)


@decoder("addc", "subc")
def _sum_with_carry(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind, gives = modifiers.type(), modifiers.flag("cc")
    modifiers.done()
    return _with_carry(compiler, one, kind, takes=True, gives=gives)


def _with_carry(compiler: Compiler, one: Instruction, kind: Type, takes: bool, gives: bool) -> Operation:
    bits = unsigned(kind.width)
    write = compiler.writer(one.operands[0], bits)
    a, b = (compiler.reader(operand, bits) for operand in one.operands[1:])
    subtracts = one.opcode.startswith("sub")

    def operation(state: Any, mask: Array | None) -> None:
        x, y = a(state), b(state)
        carry = state.carry.astype(x.dtype) if takes else np.zeros_like(x)
        if subtracts:
            part = x - y
            total = part - carry
            out = (x < y) | (part < carry)
        else:
            part = x + y
            total = part + carry
            out = (part < x) | (total < part)
        write(state, total, mask)
        if gives:
            state.set_carry(out, mask)

    return operation


@decoder("mul")
def _product(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind, of_registers, held = _one_or_pair(modifiers)
    if kind.is_float:
        modifiers.skip(["rn"])
        function = _float_function(np.multiply, modifiers, kind, may_saturate=True)
        modifiers.done()
        return _applied(compiler, one, of_registers(function), held, held, held)
    part = modifiers.one_of("lo", "hi", "wide")
    modifiers.done()
    function, result = _integer_product(part, kind)
    return _applied(compiler, one, function, result, kind, kind)


def _integer_product(part: str | None, kind: Type) -> tuple[Function, Type]:
    if part == "lo":
        return np.multiply, kind
    if part == "hi":
        return arithmetic.product_high, kind
    if part == "wide":
        return lambda a, b: arithmetic.wide(a) * arithmetic.wide(b), type_of(f"{kind.kind}{kind.width * 2}")
    raise Unsupported("a product without .lo, .hi or .wide")


@decoder("mad", "madc")
def _product_and_sum(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind = modifiers.type()
    if kind.is_float:
        modifiers.skip(["rn"])
        function = _float_function(arithmetic.fma, modifiers, kind, may_saturate=True)
        modifiers.done()
        return _applied(compiler, one, function, kind, kind, kind, kind)
    product, result = _integer_product(modifiers.one_of("lo", "hi", "wide"), kind)
    takes, gives = one.opcode == "madc", modifiers.flag("cc")
    modifiers.done()
    if (takes or gives) and result is not kind:
        raise Unsupported("a carry of a wide product")
    if not takes and not gives:
        return _applied(compiler, one, lambda a, b, c: product(a, b) + c, result, kind, kind, result)
    bits = unsigned(kind.width)
    write = compiler.writer(one.operands[0], bits)
    a, b = (compiler.reader(operand, kind) for operand in one.operands[1:3])
    c = compiler.reader(one.operands[3], bits)

    def operation(state: Any, mask: Array | None) -> None:
        x, y = product(a(state), b(state)).view(bits.dtype), c(state)
        part = x + y
        total = part + state.carry.astype(x.dtype) if takes else part
        write(state, total, mask)
        if gives:
            state.set_carry((part < x) | (total < part), mask)

    return operation


@decoder("fma")
def _fused(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind, of_registers, held = _one_or_pair(modifiers)
    rounding = modifiers.one_of("rn", "rz", "rm", "rp")
    if rounding is None or (rounding != "rn" and kind.width != 32):
        raise Unsupported(f"rounding .{rounding}")
    plain = arithmetic.fma if rounding == "rn" else functools.partial(arithmetic.fma_directed, mode=rounding[1])
    function = of_registers(_float_function(plain, modifiers, kind, may_saturate=True))
    modifiers.done()
    return _applied(compiler, one, function, held, held, held, held)


@decoder("div", "rem")
def _division(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind = modifiers.type()
    if not kind.is_float:
        modifiers.done()
        function = arithmetic.quotient if one.opcode == "div" else arithmetic.remainder
        return _applied(compiler, one, function, kind, kind, kind)
    if kind.width == 32 and (name := modifiers.one_of("full", "approx")):
        flushes = modifiers.flag("ftz")
        modifiers.done()
        return _approximate(compiler, one, f"div.{name}", flushes, 2)
    if not modifiers.flag("rn"):
        raise Unsupported("rounding other than .rn")
    function = _float_function(np.divide, modifiers, kind)
    modifiers.done()
    return _applied(compiler, one, function, kind, kind, kind)


@decoder("ex2", "lg2", "sin", "cos", "tanh", "rsqrt", "sqrt", "rcp")
def _function(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind = modifiers.type()
    if modifiers.flag("approx") and kind.width == 32:
        flushes = modifiers.flag("ftz")
        modifiers.done()
        return _approximate(compiler, one, one.opcode, flushes, 1)
    exact = {"sqrt": np.sqrt, "rcp": np.reciprocal}
    if one.opcode not in exact or not modifiers.flag("rn"):
        raise Unsupported("rounding other than .rn")
    function = _float_function(exact[one.opcode], modifiers, kind)
    modifiers.done()
    return _applied(compiler, one, function, kind, kind)


@decoder("min", "max")
def _extreme(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind, of_registers, held = _one_or_pair(modifiers)
    is_min = one.opcode == "min"
    if not kind.is_float:
        modifiers.done()
        return _applied(compiler, one, of_registers(np.minimum if is_min else np.maximum), held, held, held)
    plain = arithmetic.minimum if is_min else arithmetic.maximum
    function = plain
    if modifiers.flag("NaN"):
        function = lambda a, b: np.where((a != a) | (b != b), kind.dtype.type(np.nan), plain(a, b))  # noqa: E731
    if modifiers.flag("xorsign"):
        if not modifiers.flag("abs"):
            raise Unsupported(".xorsign without .abs")
        function = _with_product_of_signs(function)
    of_two = function
    # Of two, and with sm_100 of three.
    function = _float_function(lambda *values: functools.reduce(of_two, values), modifiers, kind)
    modifiers.done()
    return _applied(compiler, one, of_registers(function), held, *[held] * (len(one.operands) - 1))


def _with_product_of_signs(function: Function) -> Function:
    """Return a function of absolute values whose results have the sign of the operands' product."""

    def signed(a: Array, b: Array) -> Array:
        size = function(abs(a), abs(b))
        return np.where(np.signbit(a) != np.signbit(b), -size, size)

    return signed


@decoder("abs", "neg")
def _sign(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind = modifiers.type()
    function: Function = np.abs if one.opcode == "abs" else np.negative
    if kind.is_float and modifiers.flag("ftz"):
        plain = function
        function = lambda x: plain(arithmetic.flushed(x))  # noqa: E731
    modifiers.done()
    return _applied(compiler, one, function, kind, kind)


@decoder("copysign")
def _copied_sign(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind = modifiers.type()
    modifiers.done()
    return _applied(compiler, one, lambda a, b: np.copysign(b, a), kind, kind, kind)


_LOGIC: dict[str, Function] = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


@decoder("and", "or", "xor")
def _logic(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind = modifiers.type()
    modifiers.done()
    return _applied(compiler, one, _LOGIC[one.opcode], kind, kind, kind)


@decoder("not", "cnot")
def _negation(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind = modifiers.type()
    modifiers.done()
    function: Function = np.invert if one.opcode == "not" else lambda x: (x == 0).astype(x.dtype)
    return _applied(compiler, one, function, kind, kind)


@decoder("shl", "shr")
def _shift(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind = modifiers.type()
    modifiers.done()
    function = arithmetic.shift_left if one.opcode == "shl" else arithmetic.shift_right
    amount = one.operands[2]
    if isinstance(amount, Immediate) and 0 <= amount.value < kind.width:
        # By a known amount, as most are.
        by = kind.dtype.type(amount.value)
        plain: Function = (lambda x: x << by) if one.opcode == "shl" else (lambda x: x >> by)
        return _applied(compiler, one._replace(operands=one.operands[:2]), plain, kind, kind)
    return _applied(compiler, one, function, kind, kind, U32)


@decoder("shf")
def _funnel_shift(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    goes_left, goes_right = modifiers.flag("l"), modifiers.flag("r")
    clamps, wraps = modifiers.flag("clamp"), modifiers.flag("wrap")
    kind = modifiers.type()
    modifiers.done()
    if goes_left == goes_right or clamps == wraps or kind.width != 32:
        raise Unsupported("a funnel shift of this kind")
    shift = arithmetic.funnel_left if goes_left else arithmetic.funnel_right
    return _applied(compiler, one, lambda a, b, c: shift(a, b, c, clamps), kind, kind, kind, U32)


@decoder("bfe")
def _extraction(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind = modifiers.type()
    modifiers.done()
    return _applied(compiler, one, arithmetic.extract, kind, kind, U32, U32)


@decoder("bfi")
def _insertion(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind = modifiers.type()
    modifiers.done()
    return _applied(compiler, one, arithmetic.insert, kind, kind, kind, U32, U32)


@decoder("prmt")
def _permutation(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind = modifiers.type()
    modifiers.done()
    return _applied(compiler, one, arithmetic.permute_bytes, kind, kind, kind, kind)


@decoder("lop3")
def _logic_of_three(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind = modifiers.type()
    modifiers.done()
    *operands, table = one.operands
    if not isinstance(table, Immediate):
        raise Unsupported("lop3 without a table")
    number = table.value
    short = one._replace(operands=tuple(operands))
    return _applied(compiler, short, lambda a, b, c: arithmetic.logic3(a, b, c, number), kind, kind, kind, kind)


_COUNTS = {"popc": arithmetic.population, "clz": arithmetic.leading_zeros}


@decoder("popc", "clz")
def _count(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind = modifiers.type()
    modifiers.done()
    return _applied(compiler, one, _COUNTS[one.opcode], U32, kind)


@decoder("bfind")
def _highest_bit(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    as_shift = modifiers.flag("shiftamt")
    kind = modifiers.type()
    modifiers.done()
    last, nowhere = np.uint32(kind.width - 1), np.uint32(0xFFFFFFFF)

    def shift(x: Array) -> Array:
        place = arithmetic.highest_bit(x)
        return np.where(place == nowhere, nowhere, last - place)

    return _applied(compiler, one, shift if as_shift else arithmetic.highest_bit, U32, kind)


@decoder("brev")
def _reversal(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind = modifiers.type()
    modifiers.done()
    return _applied(compiler, one, arithmetic.reverse_bits, kind, kind)


_COMPARISONS: dict[str, Function] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
# Also true if one of both is not a number.
_UNORDERED: dict[str, Function] = {
    "equ": lambda a, b: ~((a < b) | (a > b)),
    "neu": np.not_equal,
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: (a == a) & (b == b),
    "nan": lambda a, b: (a != a) | (b != b),
}


def _comparison(modifiers: Modifiers, kind: Type) -> Function:
    # Float inequality is ordered: false for what is not a number, unlike NumPy's.
    ordered = {**_COMPARISONS, "ne": lambda a, b: (a < b) | (a > b)} if kind.is_float else _COMPARISONS
    known = {**ordered, **_UNORDERED} if kind.is_float else ordered
    name = modifiers.one_of(*known)
    if name is None:
        raise Unsupported("an unknown comparison")
    function = known[name]
    if kind.is_float and modifiers.flag("ftz"):
        plain = function
        return lambda a, b: plain(arithmetic.flushed(a), arithmetic.flushed(b))
    return function


@decoder("setp")
def _set_predicate(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind = modifiers.type()
    compare = _comparison(modifiers, kind)
    combine = modifiers.one_of("and", "or", "xor")
    modifiers.done()
    first, second = both_of(one.operands[0])
    write = compiler.writer(first, PRED)
    a, b = (compiler.reader(operand, kind) for operand in one.operands[1:3])
    if len(one.operands) != (3 if combine is None else 4):
        raise Unsupported("operands of a comparison")
    if combine is None and second is None:
        return lambda state, mask: write(state, compare(a(state), b(state)), mask)
    other = None if combine is None else compiler.reader(one.operands[3], PRED)
    write_second = None if second is None else compiler.writer(second, PRED)
    joined = _LOGIC[combine or "and"]

    def operation(state: Any, mask: Array | None) -> None:
        result = compare(a(state), b(state))
        opposite = ~result
        if other is not None:
            c = other(state)
            result, opposite = joined(result, c), joined(opposite, c)
        write(state, result, mask)
        if write_second is not None:
            write_second(state, opposite, mask)

    return operation


@decoder("set")
def _set(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    result, kind = modifiers.types()
    compare = _comparison(modifiers, kind)
    modifiers.done()
    one_bits = result.dtype.type(1.0) if result.is_float else np.array(-1).astype(result.dtype)
    zero = result.dtype.type(0)
    return _applied(compiler, one, lambda a, b: np.where(compare(a, b), one_bits, zero), result, kind, kind)


@decoder("selp")
def _selection(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind = unsigned(modifiers.type().width)
    modifiers.done()
    return _applied(compiler, one, lambda a, b, p: np.where(p, a, b), kind, kind, kind, PRED)


_PROPERTIES: dict[str, Callable[[Array], Array]] = {
    "finite": np.isfinite, "infinite": np.isinf, "notanumber": np.isnan, "number": lambda x: ~np.isnan(x),
    # Zeros are normal numbers here.
    "normal": lambda x: np.isfinite(x) & ((abs(x) >= np.finfo(x.dtype).tiny) | (x == 0)),
    "subnormal": lambda x: (abs(x) < np.finfo(x.dtype).tiny) & (x != 0),
}  # fmt: skip


@decoder("testp")
def _has_property(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    name = modifiers.one_of(*_PROPERTIES)
    kind = modifiers.type()
    modifiers.done()
    if name is None or not kind.is_float:
        raise Unsupported("a test of this kind")
    return _applied(compiler, one, _PROPERTIES[name], PRED, kind)


@decoder("slct")
def _selection_by_sign(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind, by = modifiers.types()
    modifiers.done()
    kind = unsigned(kind.width)
    return _applied(compiler, one, lambda a, b, c: np.where(c >= 0, a, b), kind, kind, kind, by)


@decoder("mov")
def _move(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    kind = unsigned(modifiers.type().width)
    modifiers.done()
    destination, source = one.operands
    if isinstance(source, Vector):
        return _packed(compiler, destination, source, kind)
    if isinstance(destination, Vector):
        return _unpacked(compiler, destination, source, kind)
    write, read = compiler.writer(destination, kind), compiler.reader(source, kind)
    return lambda state, mask: write(state, read(state), mask)


def _packed(compiler: Compiler, destination: Any, source: Vector, kind: Type) -> Operation:
    part = unsigned(kind.width // len(source.parts))
    reads, write = [compiler.reader(one, part) for one in source.parts], compiler.writer(destination, kind)

    def operation(state: Any, mask: Array | None) -> None:
        write(state, np.stack([read(state) for read in reads], 1).view(kind.dtype)[:, 0], mask)

    return operation


def _unpacked(compiler: Compiler, destination: Vector, source: Any, kind: Type) -> Operation:
    part = unsigned(kind.width // len(destination.parts))
    writes, read = [compiler.writer(one, part) for one in destination.parts], compiler.reader(source, kind)

    def operation(state: Any, mask: Array | None) -> None:
        pieces = np.ascontiguousarray(read(state)).view(part.dtype).reshape(-1, len(writes))
        for i, write in enumerate(writes):
            write(state, pieces[:, i].copy(), mask)

    return operation


@decoder("cvta")
def _converted_address(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    is_back = modifiers.flag("to")
    space = modifiers.one_of("global", "const", "shared", "local", "param")
    kind = modifiers.type()
    modifiers.done()
    if space in ("global", "const"):
        return _applied(compiler, one, lambda x: x, kind, kind)
    if space not in SPACE_OF_WINDOW.values() or kind.width != 64:
        raise Unsupported(f"generic addresses of {space} memory")
    (window,) = (number for number, name in SPACE_OF_WINDOW.items() if name == space)
    start = np.uint64(window) << WINDOW_BITS
    return _applied(compiler, one, (lambda x: x - start) if is_back else (lambda x: x + start), kind, kind)


@decoder("cvt")
def _conversion(compiler: Compiler, one: Instruction) -> Operation:
    modifiers = Modifiers(one)
    if modifiers.flag("tf32"):
        if not modifiers.flag("rna") or modifiers.type().name != "f32":
            raise Unsupported("a conversion to tf32 of this kind")
        modifiers.done()
        return _applied(compiler, one, arithmetic.to_tf32, type_of("b32"), type_of("f32"))
    to, source = modifiers.types()
    rounding = modifiers.one_of("rn", "rni", "rz", "rzi", "rm", "rmi", "rp", "rpi")
    flushes, saturates = modifiers.flag("ftz"), modifiers.flag("sat")
    modifiers.done()
    function = _conversion_function(to, source, rounding)

    def whole(x: Array) -> Array:
        if flushes and source.is_float and source.width == 32:
            x = arithmetic.flushed(x)
        result = function(x)
        if to.is_float:
            if flushes and to.width == 32:
                result = arithmetic.flushed(result)
            return arithmetic.saturated(result) if saturates else arithmetic.canonical(result)
        return result

    if saturates and not to.is_float and not source.is_float:
        low, high = np.iinfo(to.dtype).min, np.iinfo(to.dtype).max

        def clamped(x: Array) -> Array:
            info = np.iinfo(x.dtype)
            return np.clip(x, max(low, info.min), min(high, info.max)).astype(to.dtype)

        return _applied(compiler, one, clamped, to, source)
    return _applied(compiler, one, whole, to, source)


def _conversion_function(to: Type, source: Type, rounding: str | None) -> Function:
    if source.is_float and not to.is_float:
        if rounding not in ("rni", "rzi", "rmi", "rpi"):
            raise Unsupported(f"rounding .{rounding} to an integer")
        return lambda x: arithmetic.float_to_integer(x, rounding[1], to)
    if to.is_float and not source.is_float:
        if rounding != "rn":
            raise Unsupported(f"rounding .{rounding} from an integer")
        return lambda x: x.astype(to.dtype)
    if to.is_float:
        if to.width == source.width and rounding in ("rni", "rzi", "rmi", "rpi"):
            return lambda x: arithmetic.to_integral(x, rounding[1])
        if to.width > source.width and rounding is None:
            return lambda x: x.astype(to.dtype)
        if to.width < source.width and rounding == "rn":
            return lambda x: x.astype(to.dtype)
        if to.width == source.width and rounding is None:
            return lambda x: x
        raise Unsupported(f"rounding .{rounding} between floats")
    if rounding is not None:
        raise Unsupported(f"rounding .{rounding} between integers")
    return lambda x: x.astype(to.dtype)
