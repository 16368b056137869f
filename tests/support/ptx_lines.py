"""Lines of PTX as kernels that run on the executor: operands come from arrays, and results go to others."""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from ptx_executor.kernels import Executor, Kernel, Module
from triton import knobs

Array = np.ndarray[Any, Any]
# Precision and lowest exponent of a normal number.
FLOATS = {"f16": (11, -14), "f32": (24, -126), "f64": (53, -1022)}
_DTYPES = {"f16": "<f2", "f32": "<f4", "f64": "<f8", "pred": "<u1"}


def dtype_of(kind: str) -> np.dtype[Any]:
    return np.dtype(_DTYPES.get(kind) or f"<{'i' if kind[0] == 's' else 'u'}{int(kind[1:]) // 8}")


def text_of(
    body: str, pointers: int = 3, outside: str = "", declared: str = "", more: str = "", name: str = "kernel"
) -> str:
    """Return a kernel: `%a0` and so on are its arguments, `%i` is the number of its thread in the grid.

    `more` declares parameters behind its arguments, `outside` what stands before it.
    """
    parameters = ", ".join([*(f".param .u64 {name}_p{i}" for i in range(pointers)), *([more] if more else [])])
    loads = "\n".join(f"ld.param.u64 %a{i}, [{name}_p{i}];" for i in range(pointers))
    return f"""
{outside}
.visible .entry {name}({parameters})
{{
.reg .pred %p<8>; .reg .b16 %h<16>; .reg .b32 %r<32>; .reg .b64 %d<32>; .reg .b64 %a<8>;
.reg .b32 %f<16>; .reg .b32 %i; .reg .b32 %t; .reg .b64 %at<16>;
{declared}
{loads}
mov.u32 %t, %tid.x;
mov.u32 %r31, %ctaid.x;
mov.u32 %r30, %ntid.x;
mad.lo.u32 %i, %r31, %r30, %t;
{body}
ret;
}}
"""


def compiled(body: str, pointers: int = 3, outside: str = "", declared: str = "", more: str = "") -> Kernel:
    return Module(text_of(body, pointers, outside, declared, more)).kernel()


def launched(
    kernel: Kernel | str, *buffers: Array, more: Sequence[bytes] = (), grid: int = 1, block: int = 32, **options: Any
) -> None:
    """Run a kernel, or the body of one, on arrays, and on values of more parameters."""
    if isinstance(kernel, str):
        kernel = compiled(kernel, len(buffers))
    named = [(array.ctypes.data, array.nbytes, f"buffer {i}") for i, array in enumerate(buffers)]
    parameters = kernel.packed([*(one[0] for one in named), *more])
    Executor(**options).launch(kernel, (grid,), (block,), parameters, named)


def assembled(kernels: Iterable[str]) -> list[str]:
    """Return the lines that NVIDIA's assembler does not take, and why."""
    text = "\n".join([".version 8.7\n.target sm_90a\n.address_size 64", *kernels])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "text.ptx")
        file.write_text(text)
        command = [knobs.nvidia.ptxas.path, "-arch=sm_90a", "-O0", file, "-o", file.with_suffix(".cubin")]
        done = subprocess.run(command, capture_output=True, text=True)
    lines = text.splitlines()
    found = [f"{lines[int(number) - 1]}: {why}" for number, why in re.findall(r"line (\d+); (.*)", done.stderr)]
    return found or ([done.stderr] if done.returncode else [])


def line_text(line: str, result: str, sources: Sequence[str], name: str = "kernel") -> str:
    """Return the kernel of an instruction whose operands are `d`, `a`, `b`, `c` and `e` where they stand alone."""
    body = []
    for i, kind in enumerate(sources):
        size = dtype_of(kind).itemsize
        body.append(f"mad.wide.u32 %at{i}, %i, {size}, %a{i + 1};")
        body.append(f"ld.global.u{8 * size} {_register(kind, i)}, [%at{i}];")
        if kind == "pred":
            body.append(f"setp.ne.u16 %p{i}, %h{i}, 0;")
    names = {"d": "%p7" if result == "pred" else _register(result, 9), "q": "%p6"}
    names |= {
        letter: f"%p{i}" if kind == "pred" else _register(kind, i)
        for i, (letter, kind) in enumerate(zip("abce", sources))
    }
    opcode, _, operands = line.partition(" ")
    for letter, register in names.items():
        operands = re.sub(rf"(?<![%\w]){letter}(?!\w)", register, operands)
    body.append(f"{opcode} {operands};")
    if result == "pred":
        body.append("selp.u16 %h9, 1, 0, %p7;")
    size = dtype_of(result).itemsize
    body += [f"mad.wide.u32 %at9, %i, {size}, %a0;", f"st.global.u{8 * size} [%at9], {_register(result, 9)};"]
    return text_of("\n".join(body), 1 + len(sources), name=name)


def _register(kind: str, i: int) -> str:
    return f"%{ {1: 'h', 2: 'h', 4: 'r', 8: 'd'}[dtype_of(kind).itemsize] }{i}"


def result_of(line: str, result: str, sources: Sequence[str], operands: Sequence[Array], **options: Any) -> Array:
    """Return what an instruction gives on arrays, one thread a row."""
    count = len(operands[0])
    padded = [np.resize(x, -(-count // 32) * 32) for x in operands]
    out = np.zeros(len(padded[0]), dtype_of(result))
    launched(Module(line_text(line, result, sources)).kernel(), out, *padded, grid=len(out) // 32, **options)
    return out[:count]


def rounded(x: Fraction, kind: str, zero: float = 0.0, mode: str = "n") -> float:
    """Return a number of a float type, rounded as `integral` does; `zero` for zero, which has two signs."""
    if x == 0:
        return zero
    precision, lowest = FLOATS[kind]
    unit = Fraction(2) ** (max(_exponent(abs(x)), lowest) - precision + 1)
    found, highest, sign = abs(integral(x / unit, mode) * unit), 1 - lowest, 1 if x > 0 else -1
    if found < Fraction(2) ** (highest + 1):
        return sign * float(found)
    is_infinite = mode == "n" or mode == ("p" if x > 0 else "m")
    return sign * (math.inf if is_infinite else (2 - 2.0 ** (1 - precision)) * 2.0**highest)


def integral(x: Fraction, mode: str) -> int:
    """Return an integer: the nearest, even on a tie; or the next to zero, down or up."""
    return {"n": round, "z": math.trunc, "m": math.floor, "p": math.ceil}[mode](x)


def _exponent(x: Fraction) -> int:
    guess = x.numerator.bit_length() - x.denominator.bit_length()
    return guess if Fraction(2) ** guess <= x else guess - 1


def flushed(x: float, kind: str) -> float:
    """Return zero of the same sign in place of a subnormal number."""
    return math.copysign(0.0, x) if abs(x) < 2.0 ** FLOATS[kind][1] else x


def saturated(x: float) -> float:
    return 0.0 if math.isnan(x) or x <= 0 else min(x, 1.0)


def same_bits(found: Array, expected: Sequence[Any], kind: str) -> Array:
    """Return where results are those expected: the same bits, or any NaN for NaN."""
    if kind in FLOATS:
        with np.errstate(over="ignore"):
            wanted = np.array(expected, np.float64).astype(found.dtype)
        bits = f"<u{found.dtype.itemsize}"
        return (found.view(bits) == wanted.view(bits)) | (np.isnan(found) & np.isnan(wanted))
    bits = np.dtype(f"<u{found.dtype.itemsize}")
    return found.view(bits) == np.array([int(x) % 2 ** (8 * bits.itemsize) for x in expected], bits)
