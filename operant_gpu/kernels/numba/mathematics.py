"""Scalar operations of compiled programs on a CPU, each inlined where it is used.

They are written so that a loop over them becomes vector instructions: no branches, no calls, no exceptions. numba
makes 64 bits of two int32: whoever calls casts the result to the dtype that it should have.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba import float32, int32, types, uint32, uint64
from numba.extending import intrinsic

# NumPy's rules for division by zero, which raise nothing.
inline = numba.njit(forceinline=True, error_model="numpy")


def pointer_to(element: Any) -> Any:
    """Return the operation that makes an address a pointer to elements of this numba type."""

    @intrinsic
    def pointer(context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.intp), generate

    return pointer


def _operation(name: str) -> Any:
    """Return an operation that LLVM has for scalars and vectors alike."""

    @intrinsic
    def operation(context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.call(builder.module.declare_intrinsic(name, [arguments[0].type]), arguments)

        return x(x), generate

    return operation


floor, ceil, sqrt = _operation("llvm.floor"), _operation("llvm.ceil"), _operation("llvm.sqrt")
exp, exp2, log, log2 = (_operation(f"llvm.{name}") for name in ("exp", "exp2", "log", "log2"))


@intrinsic
def fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return `a * b + c` of float32 numbers, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return float32(float32, float32, float32), generate


@intrinsic
def call(context: Any, function: Any, narrow: Any, wide: Any, n: Any, tables: Any) -> Any:
    """Call a compiled program by its address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = arguments[0].type
        kind = ir.FunctionType(ir.VoidType(), [word] * 4)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), generate


@intrinsic
def set_bits(context: Any, address: Any) -> Any:
    """Return a word with a bit for each of 32 int32 from an address on: whether it is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.IntType(32), 32)
        numbers = builder.load(builder.inttoptr(arguments[0], vector.as_pointer()), align=4)
        return builder.bitcast(builder.icmp_signed("!=", numbers, ir.Constant(vector, None)), ir.IntType(32))

    return types.uint32(types.intp), generate


@intrinsic
def lowest_bit(context: Any, word: Any) -> Any:
    """Return the number of the lowest bit that is set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint32(types.uint32), generate


@intrinsic
def reinterpret(context: Any, x: Any, dtype: Any) -> Any:
    """Return the same bits as another dtype of the same size."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return dtype.dtype(x, dtype), generate


# Sine and cosine of float32 numbers. The nearest multiple of pi/2 is taken off in three parts, so that the products are
# exact where it matters; within pi/4 of zero, polynomials (fitted for the least largest relative error) give either
# function. At most 2 ulp of error for angles up to 1 million; beyond 6 million, where float32 angles are half a radian
# apart, some number in [-1, 1].
_QUARTERS_PER_RADIAN = float32(0.6366197466850281)
_HALF_PI = (float32(1.5707963705062866), float32(-4.371138828673793e-08), float32(-1.7151245100058819e-15))
_MOST = float32(1.0)
# Added to a float32, leaves the nearest integer in its low bits.
_ROUNDING = float32(1.5 * 2.0**23)


@inline
def _reduced(angle: Any) -> Any:
    """Return the angle less its nearest multiple of pi/2, and that multiple in the low bits of an integer."""
    rounded = fma(angle, _QUARTERS_PER_RADIAN, _ROUNDING)
    turns = -(rounded - _ROUNDING)
    rest = fma(turns, _HALF_PI[2], fma(turns, _HALF_PI[1], fma(turns, _HALF_PI[0], angle)))
    # Comparisons that leave NaN as it is.
    rest = _MOST if rest > _MOST else rest
    rest = -_MOST if rest < -_MOST else rest
    return rest, reinterpret(rounded, int32)


@inline
def _sine_near_zero(x: Any) -> Any:
    square = x * x
    tail = fma(float32(-0.00019517233886290342), square, float32(0.008332177996635437))
    return fma(fma(tail, square, float32(-0.16666655242443085)) * square, x, x)


@inline
def _cosine_near_zero(x: Any) -> Any:
    square = x * x
    tail = fma(float32(2.4433082217001356e-05), square, float32(-0.0013887315290048718))
    tail = fma(tail, square, float32(0.04166664555668831))
    return fma(tail, square * square, fma(float32(-0.5), square, float32(1.0)))


@inline
def sin32(angle: Any) -> Any:
    """Return the sine of a float32."""
    x, quarter = _reduced(angle)
    value = _cosine_near_zero(x) if quarter & int32(1) else _sine_near_zero(x)
    return -value if quarter & int32(2) else value


@inline
def cos32(angle: Any) -> Any:
    """Return the cosine of a float32."""
    x, quarter = _reduced(angle)
    value = _sine_near_zero(x) if quarter & int32(1) else _cosine_near_zero(x)
    return -value if (quarter + int32(1)) & int32(2) else value


@inline
def minimum(a: Any, b: Any) -> Any:
    """Return the lesser, or the one that is not NaN."""
    return a if (a <= b) | (b != b) else b


@inline
def maximum(a: Any, b: Any) -> Any:
    """Return the greater, or the one that is not NaN."""
    return a if (a >= b) | (b != b) else b


@inline
def floor_divide(a: Any, b: Any) -> Any:
    """Return the quotient of integers rounded down, or 0 for a division by zero."""
    return a // b if b != 0 else a * 0


@inline
def remainder(a: Any, b: Any) -> Any:
    """Return what C's `%` leaves of integers, with the sign of the dividend, or 0 for a division by zero."""
    if b == 0:
        return a * 0
    rest = a % b
    return rest - b if (rest != 0) & ((rest < 0) != (a < 0)) else rest


@intrinsic
def float_remainder(context: Any, a: Any, b: Any) -> Any:
    """Return what C's `fmod` leaves of floats, with the sign of the dividend."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.frem(*arguments)

    return a(a, b), generate


@inline
def shift_left(a: Any, bits: Any, width: Any) -> Any:
    """Return `a << bits`, 0 where all bits are shifted out."""
    return a << bits if (bits >= 0) & (bits < width) else a * 0


@inline
def shift_right(a: Any, bits: Any, width: Any) -> Any:
    """Return `a >> bits`, the sign alone where all bits are shifted out."""
    return a >> bits if (bits >= 0) & (bits < width) else a >> (width - 1)


# Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
_MULTIPLIER_0, _MULTIPLIER_1 = uint64(0xD2511F53), uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = uint32(0x9E3779B9), uint32(0xBB67AE85)


@inline
def philox(seed: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> Any:
    """Return the four words of a counter of four 32-bit words, under a 64-bit key."""
    key = uint64(seed)
    k0, k1 = uint32(key), uint32(key >> uint64(32))
    c0, c1, c2, c3 = uint32(c0), uint32(c1), uint32(c2), uint32(c3)
    for _ in range(10):
        product_0, product_1 = uint64(c0) * _MULTIPLIER_0, uint64(c2) * _MULTIPLIER_1
        c0, c2 = uint32(uint32(product_1 >> uint64(32)) ^ c1 ^ k0), uint32(uint32(product_0 >> uint64(32)) ^ c3 ^ k1)
        c1, c3 = uint32(product_1), uint32(product_0)
        k0, k1 = uint32(k0 + _WEYL_0), uint32(k1 + _WEYL_1)
    return c0, c1, c2, c3
