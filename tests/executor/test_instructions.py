"""Instructions of one thread on edge values, against integers and fractions of Python and the words of the PTX ISA.

Each row of the tables is one line of PTX, the types of its result and of its operands, and what the ISA says it gives.
A reference gets integers, or floats as Python's (which hold those of all types); None is what the ISA leaves open.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
from ptx_lines import (
    FLOATS,
    assembled,
    dtype_of,
    flushed,
    integral,
    launched,
    line_text,
    result_of,
    rounded,
    same_bits,
    saturated,
)

pytestmark = pytest.mark.quick


class Row(NamedTuple):
    line: str
    result: str
    sources: tuple[str, ...]
    reference: Callable[..., Any]


def row(line: str, result: str, sources: str, reference: Callable[..., Any]) -> Row:
    return Row(line, result, tuple(sources.split()), reference)


# Edge values.

NAN, INF = math.nan, math.inf


def values_of(kind: str) -> list[Any]:
    if kind == "pred":
        return [0, 1]
    if kind in FLOATS:
        precision, lowest = FLOATS[kind]
        ulp, tiny = 2.0 ** (1 - precision), 2.0**lowest
        positive = [0.0, tiny * ulp, tiny * (1 - ulp), tiny, 0.5, 1.0, 1.0 + ulp, 1.5, 2.5, 3.3, 127.5, 32767.5]
        if kind != "f16":
            positive += [float(2**31 - 128), 2.0**32, 2.0**63, 2.0**64, 1e-30]
        largest = (2.0 - ulp) * 2.0 ** (1 - lowest)
        known = [float(np.array(x, dtype_of(kind))) for x in [*positive, largest, INF]]
        return [sign * x for x in known for sign in (1, -1)] + [NAN]
    bits, low = int(kind[1:]), 0
    if kind[0] == "s":
        bits, low = bits - 1, -(2 ** (bits - 1))
    edges = [0, 1, 2, 3, 7, 31, 32, 33, 63, 64, 127, 128, 255, 256, 0x9123_4567_89AB_CDEF, 0x2C3D_7FF1, 2**bits - 1]
    edges += [2**bits - 2, 2 ** (bits - 1)] + [x for x in (low, low + 1, -1, -2, -129) if x < 0]
    return sorted({x for x in edges if low <= x < 2**bits} | {edges[14] % 2**bits, edges[15] % 2**bits})


def operands_of(sources: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Return all combinations of edge values, or many of them."""
    every = [values_of(kind) for kind in sources]
    # Products halfway between two numbers, which a third number decides however small it is.
    ties: list[tuple[Any, ...]] = []
    draw = np.random.default_rng(1)
    if len(sources) == 3 and set(sources) <= set(FLOATS):
        half = FLOATS[sources[0]][0] // 2
        ties = [(1 + 2.0**-half, 1 + 2.0 ** (half - FLOATS[sources[0]][0]), x) for x in every[2]]
        # Products of which only what rounding takes is left.
        a, b = draw.normal(size=(2, 200)).astype(dtype_of(sources[0]))
        nearest = (a.astype(np.float64) * b).astype(a.dtype)
        ties += zip(a.tolist(), b.tolist(), (-nearest).tolist(), strict=True)
    if math.prod(len(values) for values in every) <= 1500:
        return list(itertools.product(*every))
    return ties + list(
        zip(*([values[i] for i in draw.integers(len(values), size=1500)] for values in every), strict=True)
    )


def arrays_of(sources: tuple[str, ...], operands: list[tuple[Any, ...]]) -> list[Any]:
    with np.errstate(over="ignore"):
        return [
            np.array(column, np.float64).astype(dtype_of(kind)) if kind in FLOATS else np.array(column, dtype_of(kind))
            for kind, column in zip(sources, zip(*operands), strict=True)
        ]


# Integers.

WIDTHS = (16, 32, 64)


def bits_of(x: int, width: int) -> list[int]:
    return [x >> i & 1 for i in range(width)]


def of_bits(bits: list[int]) -> int:
    return sum(bit << i for i, bit in enumerate(bits))


def truncated_quotient(a: int, b: int) -> int | None:
    return None if b == 0 else int(Fraction(a, b))


def truncated_remainder(a: int, b: int) -> int | None:
    return None if b == 0 else a - b * int(Fraction(a, b))


def extracted(width: int, is_signed: bool) -> Callable[[int, int, int], int]:
    def reference(a: int, position: int, length: int) -> int:
        bits, position, length = bits_of(a, width), position & 255, length & 255
        sign = bits[min(position + length - 1, width - 1)] if is_signed and length else 0
        return of_bits([bits[position + i] if i < length and position + i < width else sign for i in range(width)])

    return reference


def inserted(width: int) -> Callable[[int, int, int, int], int]:
    def reference(a: int, b: int, position: int, length: int) -> int:
        bits, field, position, length = bits_of(b, width), bits_of(a, width), position & 255, length & 255
        for i in range(min(length, max(0, width - position))):
            bits[position + i] = field[i]
        return of_bits(bits)

    return reference


def highest_bit(width: int, is_shift: bool) -> Callable[[int], int]:
    def reference(a: int) -> int:
        place = (~a if a < 0 else a).bit_length() - 1
        return width - 1 - place if is_shift and place >= 0 else place

    return reference


def permuted(a: int, b: int, selector: int) -> int:
    found = 0
    for i in range(4):
        nibble = selector >> 4 * i & 15
        byte = (b << 32 | a) >> 8 * (nibble & 7) & 255
        found |= ((255 if byte & 128 else 0) if nibble & 8 else byte) << 8 * i
    return found


def funnel(goes_left: bool, clamps: bool) -> Callable[[int, int, int], int]:
    def reference(a: int, b: int, c: int) -> int:
        n, both = (min(c, 32) if clamps else c % 32), b << 32 | a
        return both << n >> 32 if goes_left else both >> n

    return reference


def of_table(table: int) -> Callable[[int, int, int], int]:
    def reference(a: int, b: int, c: int) -> int:
        columns = zip(*(bits_of(x, 32) for x in (a, b, c)), strict=True)
        return of_bits([table >> (4 * x + 2 * y + z) & 1 for x, y, z in columns])

    return reference


def integer_rows() -> Iterator[Row]:
    for kind in [f"{sign}{width}" for width in WIDTHS for sign in "us"]:
        width, both = int(kind[1:]), f"{kind} {kind}"
        yield row(f"add.{kind} d, a, b", kind, both, operator.add)
        yield row(f"sub.{kind} d, a, b", kind, both, operator.sub)
        yield row(f"div.{kind} d, a, b", kind, both, truncated_quotient)
        yield row(f"rem.{kind} d, a, b", kind, both, truncated_remainder)
        yield row(f"min.{kind} d, a, b", kind, both, min)
        yield row(f"max.{kind} d, a, b", kind, both, max)
        yield row(f"mul.lo.{kind} d, a, b", kind, both, operator.mul)
        yield row(f"mul.hi.{kind} d, a, b", kind, both, lambda a, b, n=width: a * b >> n)
        yield row(f"mad.lo.{kind} d, a, b, c", kind, f"{both} {kind}", lambda a, b, c: a * b + c)
        yield row(f"mad.hi.{kind} d, a, b, c", kind, f"{both} {kind}", lambda a, b, c, n=width: (a * b >> n) + c)
        if width < 64:
            wide = f"{kind[0]}{2 * width}"
            yield row(f"mul.wide.{kind} d, a, b", wide, both, operator.mul)
            yield row(f"mad.wide.{kind} d, a, b, c", wide, f"{both} {wide}", lambda a, b, c: a * b + c)
        if kind[0] == "s":
            yield row(f"abs.{kind} d, a", kind, kind, abs)
            yield row(f"neg.{kind} d, a", kind, kind, operator.neg)
        yield row(f"shr.{kind} d, a, b", kind, f"{kind} u32", lambda a, n: a >> n)
        yield row(f"shr.{kind} d, a, 3", kind, kind, lambda a: a >> 3)
        yield row(f"shr.{kind} d, a, {width}", kind, kind, lambda a, n=width: a >> n)
    for width in WIDTHS:
        kind = f"b{width}"
        yield row(f"shl.{kind} d, a, b", kind, f"{kind} u32", lambda a, n: a << min(n, 64))
        yield row(f"shl.{kind} d, a, 3", kind, kind, lambda a: a << 3)
        yield row(f"shl.{kind} d, a, {width}", kind, kind, lambda a: 0)
        yield row(f"shr.{kind} d, a, b", kind, f"{kind} u32", lambda a, n: a >> n)
        yield row(f"cnot.{kind} d, a", kind, kind, lambda a: a == 0)
    for kind in ("pred", "b16", "b32", "b64"):
        for name, function in {"and": operator.and_, "or": operator.or_, "xor": operator.xor}.items():
            yield row(f"{name}.{kind} d, a, b", kind, f"{kind} {kind}", function)
        invert = (lambda a: not a) if kind == "pred" else operator.invert
        yield row(f"not.{kind} d, a", kind, kind, invert)
        yield row(f"mov.{kind} d, a", kind, kind, lambda a: a)
    for width in (32, 64):
        kind = f"b{width}"
        yield row(f"popc.{kind} d, a", "u32", kind, lambda a: a.bit_count())
        yield row(f"clz.{kind} d, a", "u32", kind, lambda a, n=width: n - a.bit_length())
        yield row(f"brev.{kind} d, a", kind, kind, lambda a, n=width: of_bits(bits_of(a, n)[::-1]))
        yield row(f"bfi.{kind} d, a, b, c, e", kind, f"{kind} {kind} u32 u32", inserted(width))
        for sign in "us":
            kind = f"{sign}{width}"
            yield row(f"bfe.{kind} d, a, b, c", f"u{width}", f"u{width} u32 u32", extracted(width, sign == "s"))
            yield row(f"bfind.{kind} d, a", "u32", kind, highest_bit(width, False))
            yield row(f"bfind.shiftamt.{kind} d, a", "u32", kind, highest_bit(width, True))
    for way, mode in itertools.product("lr", ("clamp", "wrap")):
        line = f"shf.{way}.{mode}.b32 d, a, b, c"
        yield row(line, "b32", "b32 b32 u32", funnel(way == "l", mode == "clamp"))
    yield row("prmt.b32 d, a, b, c", "b32", "b32 b32 b32", permuted)
    yield row("prmt.b32 d, a, b, 0x7610", "b32", "b32 b32", lambda a, b: permuted(a, b, 0x7610))
    for table in (0x00, 0x01, 0x1E, 0x80, 0x96, 0xCA, 0xFF):
        yield row(f"lop3.b32 d, a, b, c, {table}", "b32", "b32 b32 b32", of_table(table))
    yield row("mov.b32 d, {a, b}", "b32", "b16 b16", lambda a, b: b << 16 | a)
    yield row("mov.b64 d, {a, b}", "b64", "b32 b32", lambda a, b: b << 32 | a)
    yield row("mov.b64 d, {a, b, c, e}", "b64", "b16 b16 b16 b16", lambda *x: of_parts(x, 16))
    yield row("mov.b64 {_, d}, a", "b32", "b64", lambda a: a >> 32)
    yield row("mov.b32 {d, _}, a", "b16", "b32", lambda a: a)
    for kind in ("u16", "s32", "u64"):
        yield row(f"mov.{kind} d, a", kind, kind, lambda a: a)
    for kind in ("b16", "b32", "b64", "u32", "s64", "f32", "f64"):
        yield row(f"selp.{kind} d, a, b, c", kind, f"{kind} {kind} pred", lambda a, b, p: a if p else b)
    yield row("selp.f32 d, a, 0fBF800000, b", "f32", "f32 pred", lambda a, p: a if p else -1.0)
    yield row("slct.u32.s32 d, a, b, c", "u32", "u32 u32 s32", lambda a, b, c: a if c >= 0 else b)
    yield row("slct.f64.f32 d, a, b, c", "f64", "f64 f64 f32", lambda a, b, c: a if c >= 0 else b)


def of_parts(parts: tuple[int, ...], width: int) -> int:
    return sum(part << width * i for i, part in enumerate(parts))


# Floats.


def exact_sum(a: float, b: float) -> tuple[Fraction, float]:
    return Fraction(a) + Fraction(b), a + b


def exact_difference(a: float, b: float) -> tuple[Fraction, float]:
    return Fraction(a) - Fraction(b), a - b


def exact_product(a: float, b: float) -> tuple[Fraction, float]:
    return Fraction(a) * Fraction(b), 0.0 * sign_of_product(a, b)


def sign_of_product(a: float, b: float) -> float:
    return math.copysign(1.0, a) * math.copysign(1.0, b)


def exact_fma(a: float, b: float, c: float) -> tuple[Fraction, float]:
    product, sign = exact_product(a, b)
    return product + Fraction(c), 0.0 if product else sign + c


def exact_fma_downwards(a: float, b: float, c: float) -> tuple[Fraction, float]:
    # A sum of zeros is -0 unless both are +0, and so is what cancels.
    product, sign = exact_product(a, b)
    return product + Fraction(c), -0.0 if product else -(-sign - c)


def exact_quotient(a: float, b: float) -> tuple[Fraction, float]:
    return Fraction(a) / Fraction(b), 0.0 * sign_of_product(a, b)


def special_fma(a: float, b: float, c: float) -> float:
    if any(map(math.isnan, (a, b, c))) or (math.isinf(a) and b == 0) or (math.isinf(b) and a == 0):
        return NAN
    if math.isinf(a) or math.isinf(b):
        return math.copysign(INF, a) * math.copysign(1.0, b) + c
    return c


def special_quotient(a: float, b: float) -> float:
    if math.isnan(a) or math.isnan(b) or (a == 0 and b == 0) or (math.isinf(a) and math.isinf(b)):
        return NAN
    size = 0.0 if math.isinf(b) else INF
    return size * sign_of_product(a, b)


def of_float(
    exact: Any, special: Any, kind: str, ftz: bool = False, sat: bool = False, mode: str = "n"
) -> Callable[..., float]:
    """Return what is exact, rounded once; `special` where an operand is infinite or no number, or a divisor zero."""

    def reference(*operands: float) -> float:
        operands = tuple(flushed(x, kind) for x in operands) if ftz else operands
        is_special = not all(map(math.isfinite, operands)) or (exact is exact_quotient and operands[1] == 0)
        if is_special:
            found = special(*operands)
        else:
            fraction, zero = exact(*operands)
            found = rounded(fraction, kind, zero, mode)
        found = flushed(found, kind) if ftz else found
        return saturated(found) if sat else found

    return reference


def root(x: float, kind: str) -> float:
    """Return a square root, rounded to the nearest: no root of such a number is a tie."""
    if not x > 0 or math.isinf(x):
        return x if x == 0 or x > 0 else NAN
    scale = Fraction(2) ** 1300
    return rounded(Fraction(math.isqrt(int(Fraction(x) * scale)), 2**650), kind)


def least(a: float, b: float, keeps_nan: bool, sign: int) -> float:
    """Return the smaller of both, the larger for a sign of -1; -0 is less than +0."""
    if math.isnan(a) or math.isnan(b):
        return NAN if keeps_nan else (b if math.isnan(a) else a)
    return min(a, b, key=lambda x: (sign * x, sign * math.copysign(1, x)))


FLOAT_LINES = {
    "add": (exact_sum, operator.add, "a b"),
    "sub": (exact_difference, operator.sub, "a b"),
    "mul": (exact_product, operator.mul, "a b"),
    "add.rn": (exact_sum, operator.add, "a b"),
    "sub.rn": (exact_difference, operator.sub, "a b"),
    "mul.rn": (exact_product, operator.mul, "a b"),
    "fma.rn": (exact_fma, special_fma, "a b c"),
    "mad.rn": (exact_fma, special_fma, "a b c"),
    "div.rn": (exact_quotient, special_quotient, "a b"),
}


def float_rows() -> Iterator[Row]:
    for kind in FLOATS:
        for name, (exact, special, letters) in FLOAT_LINES.items():
            if kind == "f16" and name[:3] in ("div", "mad"):
                continue
            operands, sources = ", ".join(letters.split()), " ".join([kind] * len(letters.split()))
            for ftz, sat in itertools.product(("", ".ftz"), ("", ".sat")):
                if (kind == "f64" and ftz + sat) or (name == "div.rn" and sat):
                    continue
                reference = of_float(exact, special, kind, bool(ftz), bool(sat))
                yield row(f"{name}{ftz}{sat}.{kind} d, {operands}", kind, sources, reference)
        for ftz in ("", ".ftz")[: 1 if kind == "f64" else 2]:
            flush = (lambda x, k=kind: flushed(x, k)) if ftz else (lambda x: x)
            yield row(f"abs{ftz}.{kind} d, a", kind, kind, lambda x, f=flush: abs(f(x)))
            yield row(f"neg{ftz}.{kind} d, a", kind, kind, lambda x, f=flush: -f(x))
            for name, sign in (("min", 1), ("max", -1)):
                for nan in ("", ".NaN")[: 1 if kind == "f64" else 2]:
                    yield row(
                        f"{name}{ftz}{nan}.{kind} d, a, b", kind, f"{kind} {kind}",
                        lambda a, b, f=flush, n=bool(nan), s=sign: least(f(a), f(b), n, s),
                    )  # fmt: skip
            if kind != "f16":
                inverse = of_float(exact_quotient, special_quotient, kind, bool(ftz))
                yield row(f"rcp.rn{ftz}.{kind} d, a", kind, kind, lambda x, inverse=inverse: inverse(1.0, x))
                yield row(f"sqrt.rn{ftz}.{kind} d, a", kind, kind, lambda x, f=flush, k=kind: root(f(x), k))
        if kind != "f16":
            yield row(f"copysign.{kind} d, a, b", kind, f"{kind} {kind}", lambda a, b: math.copysign(b, a))
    for mode, ftz, sat in itertools.product("zmp", ("", ".ftz"), ("", ".sat")):
        exact = exact_fma_downwards if mode == "m" else exact_fma
        reference = of_float(exact, special_fma, "f32", bool(ftz), bool(sat), mode)
        yield row(f"fma.r{mode}{ftz}{sat}.f32 d, a, b, c", "f32", "f32 f32 f32", reference)
    for name, sign in (("min", 1), ("max", -1)):
        yield row(
            f"{name}.xorsign.abs.f32 d, a, b", "f32", "f32 f32",
            lambda a, b, s=sign: math.copysign(least(abs(a), abs(b), False, s), sign_of_product(a, b)),
        )  # fmt: skip
    yield row("add.f32 d, a, 0f3F800001", "f32", "f32", lambda a: float(np.float32(a) + np.float32(1 + 2.0**-23)))


TESTS: dict[str, Callable[[float, float], bool]] = {
    "finite": lambda x, tiny: math.isfinite(x),
    "infinite": lambda x, tiny: math.isinf(x),
    "number": lambda x, tiny: not math.isnan(x),
    "notanumber": lambda x, tiny: math.isnan(x),
    # Zeros count as normal.
    "normal": lambda x, tiny: x == 0 or tiny <= abs(x) < INF,
    "subnormal": lambda x, tiny: 0 < abs(x) < tiny,
}

# Comparisons, and how they end when an operand is no number.
ORDERED = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}


def comparison_rows() -> Iterator[Row]:
    for name, compare in ORDERED.items():
        for kind in [f"{sign}{width}" for width in WIDTHS for sign in "bus"]:
            if kind[0] != "b" or name in ("eq", "ne"):
                yield row(f"setp.{name}.{kind} d, a, b", "pred", f"{kind} {kind}", compare)
        for kind in FLOATS:
            yield row(f"setp.{name}.{kind} d, a, b", "pred", f"{kind} {kind}", ordered(compare, False))
            yield row(f"setp.{name}u.{kind} d, a, b", "pred", f"{kind} {kind}", ordered(compare, True))
        yield row(f"setp.{name}.ftz.f32 d, a, b", "pred", "f32 f32", ordered(compare, False, ftz=True))
        strict, loose = ordered(compare, False), ordered(compare, True)
        yield row(f"set.{name}.u32.s32 d, a, b", "u32", "s32 s32", lambda a, b, c=compare: -int(c(a, b)))
        yield row(f"set.{name}.s32.f64 d, a, b", "s32", "f64 f64", lambda a, b, c=strict: -int(c(a, b)))
        yield row(f"set.{name}u.f32.f32 d, a, b", "f32", "f32 f32", lambda a, b, c=loose: float(c(a, b)))
    for name, plain in UNSIGNED_NAMES.items():
        yield row(f"setp.{name}.u32 d, a, b", "pred", "u32 u32", ORDERED[plain])
    for kind in FLOATS:
        yield row(f"setp.num.{kind} d, a, b", "pred", f"{kind} {kind}", ordered(lambda a, b: True, False))
        yield row(f"setp.nan.{kind} d, a, b", "pred", f"{kind} {kind}", ordered(lambda a, b: False, True))
        if kind != "f16":
            for name, has in TESTS.items():
                tiny = 2.0 ** FLOATS[kind][1]
                yield row(f"testp.{name}.{kind} d, a", "pred", kind, lambda x, has=has, tiny=tiny: has(x, tiny))
    for name, join in {"and": operator.and_, "or": operator.or_, "xor": operator.xor}.items():
        for mark, turn in {"": bool, "!": operator.not_}.items():
            for result in ("d|q", "q|d"):
                yield row(
                    f"setp.lt.{name}.f32 {result}, a, b, {mark}c", "pred", "f32 f32 pred",
                    lambda a, b, c, j=join, t=turn, q=result == "q|d": j((a < b) != q, t(c)),
                )  # fmt: skip


def ordered(compare: Any, of_nan: bool, ftz: bool = False) -> Callable[[float, float], bool]:
    def reference(a: float, b: float) -> bool:
        if math.isnan(a) or math.isnan(b):
            return of_nan
        return bool(compare(flushed(a, "f32"), flushed(b, "f32")) if ftz else compare(a, b))

    return reference


# Conversions.

INTEGERS = [f"{sign}{width}" for width in (8, 16, 32, 64) for sign in "us"]


def range_of(kind: str) -> tuple[int, int]:
    width = int(kind[1:])
    return (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if kind[0] == "s" else (0, 2**width - 1)


def to_integer(x: float, source: str, to: str, mode: str, ftz: bool) -> int:
    low, high = range_of(to)
    if math.isnan(x):
        return 0 if source != "f64" and to[1:] != "64" else 1 << (int(to[1:]) - 1)
    if math.isinf(x):
        return high if x > 0 else low
    return max(low, min(high, integral(Fraction(flushed(x, source) if ftz else x), mode)))


def to_float(x: float, source: str, to: str, ftz: bool, sat: bool) -> float:
    if ftz and source == "f32":
        x = flushed(x, source)
    if math.isfinite(x):
        x = rounded(Fraction(x), to, zero=x)
    if ftz and to == "f32":
        x = flushed(x, to)
    return saturated(x) if sat else x


def to_whole(x: float, mode: str) -> float:
    return x if not math.isfinite(x) else math.copysign(float(integral(Fraction(x), mode)), x)


def nearest_tf32(x: float) -> float:
    """Return a number of 11 bits of precision: the nearest, away from zero on a tie."""
    if not math.isfinite(x) or x == 0:
        return x
    unit = 2.0 ** (max(math.frexp(x)[1] - 1, -126) - 10)
    found = math.copysign(math.floor(abs(x) / unit + 0.5) * unit, x)
    return found if abs(found) < 2.0**128 else math.copysign(INF, x)


def conversion_rows() -> Iterator[Row]:
    for source, to in itertools.product(INTEGERS, INTEGERS):
        yield row(f"cvt.{to}.{source} d, a", to, source, lambda x: x)
        low, high = range_of(to)
        if low <= range_of(source)[0] and range_of(source)[1] <= high:
            continue
        yield row(f"cvt.sat.{to}.{source} d, a", to, source, lambda x, low=low, high=high: max(low, min(high, x)))
    for source, to in itertools.product(FLOATS, INTEGERS):
        for mode, ftz in itertools.product("nzmp", ("", ".ftz")[: 2 if source == "f32" else 1]):
            reference = lambda x, s=source, t=to, m=mode, f=bool(ftz): to_integer(x, s, t, m, f)  # noqa: E731
            yield row(f"cvt.r{mode}i{ftz}.{to}.{source} d, a", to, source, reference)
    for source, to in itertools.product(INTEGERS, FLOATS):
        yield row(f"cvt.rn.{to}.{source} d, a", to, source, lambda x, t=to: rounded(Fraction(x), t))
    for source, to in itertools.product(FLOATS, FLOATS):
        mode = ".rn" if FLOATS[to][0] < FLOATS[source][0] else ""
        for ftz, sat in itertools.product(("", ".ftz"), ("", ".sat")):
            if ftz and "f32" not in (source, to):
                continue
            reference = lambda x, s=source, t=to, f=bool(ftz), c=bool(sat): to_float(x, s, t, f, c)  # noqa: E731
            yield row(f"cvt{mode}{ftz}{sat}.{to}.{source} d, a", to, source, reference)
    for kind in FLOATS:
        for mode, ftz in itertools.product("nzmp", ("", ".ftz")[: 2 if kind == "f32" else 1]):
            reference = lambda x, k=kind, m=mode, f=bool(ftz): to_whole(flushed(x, k) if f else x, m)  # noqa: E731
            yield row(f"cvt.r{mode}i{ftz}.{kind}.{kind} d, a", kind, kind, reference)
    yield row("cvt.rna.tf32.f32 d, a", "f32", "f32", nearest_tf32)


ROWS = [*integer_rows(), *float_rows(), *comparison_rows(), *conversion_rows()]


@pytest.mark.parametrize("one", ROWS, ids=lambda one: one.line)
def test_an_instruction_gives_what_the_isa_says(one: Row) -> None:
    operands = operands_of(one.sources)
    found = result_of(one.line, one.result, one.sources, arrays_of(one.sources, operands))
    expected = [one.reference(*values) for values in operands]
    known = np.array([value is not None for value in expected])
    right = same_bits(found, [0 if value is None else value for value in expected], one.result) | ~known
    wrong = [(operands[i], found[i], expected[i]) for i in np.flatnonzero(~right)[:5]]
    assert right.all(), f"{(~right).sum()} of {len(right)}; operands, found, expected: {wrong}"


def test_tested_lines_are_ptx() -> None:
    """What NVIDIA's assembler takes: no row tests what there is not."""
    assert assembled(line_text(one.line, one.result, one.sources, f"kernel{i}") for i, one in enumerate(ROWS)) == []


# What no table has room for.


def test_carries_run_through_words() -> None:
    draw = np.random.default_rng(4)
    edges = [0, 1, 2**32 - 1, 2**32, 2**64 - 1, 2**95, 2**96 - 1]
    numbers = [*itertools.product(edges, edges), *((int.from_bytes(draw.bytes(12), "little"),) * 2 for _ in range(15))]
    given = np.array([[x >> 32 * i & (2**32 - 1) for x in pair for i in range(3)] for pair in numbers], np.uint32)
    loads = "".join(f"ld.global.u32 %r{i}, [%d1+{4 * i}];" for i in range(6))
    lines = {
        "add": "add.cc.u32 %r10, %r0, %r3; addc.cc.u32 %r11, %r1, %r4; addc.u32 %r12, %r2, %r5;",
        "sub": "sub.cc.u32 %r10, %r0, %r3; subc.cc.u32 %r11, %r1, %r4; subc.u32 %r12, %r2, %r5;",
        # The product of the lower words, and of the words above them, as long multiplication goes.
        "mad": """mul.lo.u32 %r10, %r0, %r3; mul.hi.u32 %r11, %r0, %r3;
            mad.lo.cc.u32 %r11, %r0, %r4, %r11; madc.hi.u32 %r12, %r0, %r4, 0;
            mad.lo.cc.u32 %r11, %r1, %r3, %r11; madc.hi.cc.u32 %r12, %r1, %r3, %r12; madc.lo.u32 %r13, 0, 0, 0;
            mad.lo.u32 %r12, %r0, %r5, %r12; mad.lo.u32 %r12, %r1, %r4, %r12; mad.lo.u32 %r12, %r2, %r3, %r12;""",
    }
    for name, text in lines.items():
        out = np.zeros((len(given), 3), np.uint32)
        stores = "".join(f"st.global.u32 [%d0+{4 * i}], %r{10 + i};" for i in range(3))
        body = f"mad.wide.u32 %d1, %i, 24, %a1; mad.wide.u32 %d0, %i, 12, %a0; {loads}{text}{stores}"
        launched(body, out, given, grid=2)
        function = {"add": operator.add, "sub": operator.sub, "mad": operator.mul}[name]
        expected = [function(a, b) % 2**96 for a, b in numbers]
        assert [int.from_bytes(words.tobytes(), "little") for words in out] == expected, name


@pytest.mark.parametrize(("line", "expected"), [
    ("cvt.s8.s32 %r9, 200", -56 % 2**32), ("cvt.u8.s32 %r9, -56", 200), ("cvt.s16.s32 %r9, 40000", -25536 % 2**32),
    ("cvt.rzi.s8.f32 %r9, 0fC3480000", -128 % 2**32), ("cvt.s16.s64 %d9, 40000", -25536 % 2**64),
    ("mov.u32 %r9, -1", 2**32 - 1), ("mov.u64 %d9, -1", 2**64 - 1), ("mov.f32 %r9, 0fBF800000", 0xBF800000),
    ("mov.f64 %d9, 0dBFF0000000000000", 0xBFF0000000000000), ("mov.b32 %r9, 0b101", 5), ("mov.b32 %r9, 0xFFU", 255),
    # The bits of a result that is no number.
    ("add.f32 %r9, 0f7F800001, 0f3F800000", 0x7FFFFFFF), ("mul.f32 %r9, 0fFF800000, 0f00000000", 0x7FFFFFFF),
    ("min.f32 %r9, 0fFFC00000, 0f7FC00001", 0x7FFFFFFF), ("ex2.approx.f32 %r9, 0fFFC00000", 0x7FFFFFFF),
    ("add.s16 %h9, 32767, 1", 0x8000), ("shl.b32 %r9, 1, -1", 0), ("shr.s32 %r9, -8, 40", 2**32 - 1),
])  # fmt: skip
def test_numbers_of_the_text_and_results_narrower_than_their_register(line: str, expected: int) -> None:
    size = {"h": 2, "r": 4, "d": 8}[re.search(r"%([hrd])9", line)[1]]
    out = np.zeros(32, f"<u{size}")
    launched(f"{line}; mad.wide.u32 %d0, %i, {size}, %a0; st.global.u{8 * size} [%d0], {line.split()[1][:-1]};", out)
    assert out[0] == expected


def exponential(x: float) -> float:
    return INF if x >= 1024 else 2.0**x


def logarithm(x: float) -> float:
    return math.log2(x) if x > 0 else (-INF if x == 0 else NAN)


def inverse_root(x: float) -> float:
    return math.copysign(INF, x) if x == 0 else (1 / math.sqrt(x) if x > 0 else NAN)


def quick_quotient(a: float, b: float) -> float:
    # The reciprocal of a larger divisor is flushed to zero.
    if not 2.0**126 < abs(b) < INF:
        return full_quotient(a, b)
    return 0.0 * a * b if math.isfinite(a) else NAN


def full_quotient(a: float, b: float) -> float:
    return a / b if b and math.isfinite(a + b) else special_quotient(a, b)


# Of each: what it approximates, and by how much the ISA lets it err, relative and absolute.
APPROXIMATE = {
    "ex2.approx": (exponential, 2.0**-22, 0.0), "lg2.approx": (logarithm, 0.0, 2.0**-22),
    "rcp.approx": (lambda x: full_quotient(1.0, x), 2.0**-23, 0.0),
    "sqrt.approx": (lambda x: root(x, "f64"), 2.0**-23, 0.0),
    "rsqrt.approx": (inverse_root, 2.0**-22, 0.0), "tanh.approx": (math.tanh, 2.0**-11, 0.0),
    "sin.approx": (lambda x: math.sin(x) if math.isfinite(x) else NAN, 0.0, 2.0**-20.5),
    "cos.approx": (lambda x: math.cos(x) if math.isfinite(x) else NAN, 0.0, 2.0**-20.5),
    "div.full": (full_quotient, 2.0**-22, 0.0), "div.approx": (quick_quotient, 2.0**-22, 0.0),
}  # fmt: skip


@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize(
    ("name", "ftz"), [(x, y) for x in APPROXIMATE for y in ("", ".ftz") if x + y != "tanh.approx.ftz"]
)
def test_an_approximation_errs_within_the_bounds_of_the_isa(name: str, ftz: str, seed: int | None) -> None:
    exact, relative, absolute = APPROXIMATE[name]
    sources = ("f32", "f32") if name.startswith("div") else ("f32",)
    operands = operands_of(sources)
    if len(sources) == 1:
        operands += [(float(x),) for x in np.random.default_rng(0).normal(size=300).astype(np.float32)]
    line = f"{name}{ftz}.f32 d, {', '.join('ab'[: len(sources)])}"
    found = result_of(line, "f32", sources, arrays_of(sources, operands), approximation=seed)
    errors = 0
    for values, value in zip(operands, found.tolist(), strict=True):
        expected = exact(*(flushed(x, "f32") if ftz else x for x in values))
        room = relative * abs(expected) + absolute
        nearest = to_float(expected, "f32", "f32", bool(ftz), False)
        if name.startswith("lg2") and not 0.5 < values[0] < 2.0:
            # The bound is relative outside of this interval.
            room = 2.0**-22 * abs(expected)
        # What rounds beyond the largest number is infinite.
        beyond = math.copysign(min(abs(value), 2.0**128), value)
        room = (room + (2.0**-126 if ftz else 2.0**-149)) * (1 + 2.0**-10)
        # What zeros give is exact.
        is_near = abs(beyond - expected) <= room and 0 not in values
        is_near |= value == nearest or (math.isnan(value) and math.isnan(nearest))
        assert is_near, (values, value, expected)
        errors += value != nearest and not math.isnan(value)
    assert (errors > 0) == (seed is not None)
