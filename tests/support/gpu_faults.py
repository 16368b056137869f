"""Faults of code for GPUs that `mutants.py` plants: what is replaced in the text of a kernel or of a launch, by what.

Patterns find places as the sources have them. A place that several patterns find has several faults.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# What may stand between the brackets of a call, on one line.
_INNER = r"(?:[^()\n]|\((?:[^()\n]|\([^()\n]*\))*\))*"
_MASK = rf", mask=(?:[^(),\[\]]|\[[^\]]*\]|\({_INNER}\))+(?:, other=[^(),]+)?(?=\))"
_STRIDE = r"\w+_stride|action_row|action_column|strides\[0\]|NET\.OUTPUTS|NET\.SIZES\[\w\]|NUM_MEASURED|INPUTS|size"

Faults = dict[str, dict[str, tuple[str, ...]]]

TRITON: Faults = {
    "mask left out": {_MASK: ("",)},
    "stride": {
        r"\b(row_stride|action_row), (column_stride|action_column)\b": (r"\2, \1",),
        rf" \* (?:(?:{_STRIDE})(?!\w)|tl\.cast\((?:\w+_stride|\w*strides\[\d\]|num_envs), tl\.int64\))": ("",),
        r"\b(\w*strides)\[0\]": (r"\1[-1]",),
        r"\bn \* NET\.SIZES\[i\] \+ k\b": ("k * NET.SIZES[i + 1] + n",),
        r"\bn \* INPUTS \+ k\b": ("k * WIDTH + n",),
        r"static_range\(len\(components\)\)": ("static_range(1, len(components))",),
        r"\b3 \* ": ("",),
    },
    "barrier dropped": {
        r"\bsettle\(row\)(?!:)": ("pass",),
        r"tl\.debug_barrier\(\)": ("pass",),
        r"row\.shape\[0\] < num_warps\(\)": ("row.shape[0] > num_warps()",),
    },
    "32 bits": {r"\.to\(tl\.int64\)": ("",), r"tl\.cast\((?!seed)([^(),]+), tl\.int64\)": (r"\1",)},
    "wrong lane": {
        r"tl\.arange\(0, BLOCK\)": ("(tl.arange(0, BLOCK) + 1)",),
        r"tl\.program_id\(0\)": ("(tl.program_id(0) + 1)",),
        r"tl\.program_id\(1\)": ("tl.program_id(0)",),
        r"tl\.program_id\(0\)\.to\(tl\.int64\) \* BLOCK": ("tl.program_id(0).to(tl.int64) * (BLOCK // 2)",),
        r"\b(columns\.\w+|outputs\.\w+|ptr|\w+_ptr) \+ row\b": (r"\1 + row + 1",),
        r"\b(chunk|program) == 0": (r"\1 == 1",),
    },
    "product": {
        r"tl\.trans\((\w+(?:\[[^\]]*\])?)\)": (r"\1",),
        r"tl\.dot\((\w+), weight": (r"tl.dot(\1, tl.trans(weight)",),
        r"\b(i|tile) \* (SLICE|BLOCK|ROWS)\b": (r"(\1 + 1) * \2",),
        r"\b(number|column) == i\b": (r"\1 == i + 1",),
        r"(d_weights|d_biases|layers)\[(?:DEPTH - 1 - i|i \+ 1|i|DEPTH)\]": (r"\1[0]",),
        r"tiles, tl\.num_programs\(0\)": ("tiles, 2 * tl.num_programs(0)",),
    },
    "axis": {
        rf"(tl\.(?:sum|max|cumsum)\({_INNER}, (?:axis=)?)0\)": (r"\g<1>1)",),
        rf"(tl\.(?:sum|max|cumsum)\({_INNER}, (?:axis=)?)1\)": (r"\g<1>0)",),
    },
    "Philox": {
        r"\b(0x(?!7F|FF)[0-9A-F]{7})[0-9A-F]\b": (r"\g<1>2",),
        r"\b[0-3] << 28": ("5 << 28",),
        r"\b1 << 27": ("1 << 26",),
        r"\b(_ROUNDS = )10": (r"\g<1>9",),
        r"\b(ROUNDS = tl\.constexpr)\(12\)": (r"\1(11)",),
        r"\bi % 4 == 1": ("i % 4 == 3",),
        r"\bi // 4": ("i // 8",),
    },
    "neutral element": {
        r"other=0(?:\.0)?\b": ("other=1",),
        r"tl\.zeros\((.*?), tl\.float32\)": (r"tl.full(\1, 1.0, tl.float32)",),
        r'float\("-inf"\)': ("0.0",),
        r"widened\(array\), 0": ("widened(array), 1",),
        r"rng\.env_id \* 0(\.0)?": (r"(rng.env_id * 0\1 + 1)",),
        rf"(tl\.sum\(tl\.where\({_INNER}), 0\.0\)": (r"\1, 1.0)",),
    },
    "grid": {
        r"triton\.cdiv\(([^()]+), block\)": (r"(triton.cdiv(\1, block) - 1)", r"(triton.cdiv(\1, block) + 1)"),
        r"grid = \(len\(self\._chunks\),": ("grid = (len(self._chunks) - 1,", "grid = (len(self._chunks) + 1,"),
        r"grid = self\._programs, self\._roles": ("grid = self._programs - 1, self._roles",),
        r"\(len\(self\._measured\), PIECES\)": ("(len(self._measured) - 1, PIECES)",),
        r"tl\.cdiv\((\w+), (\w+)\)": (r"(\1 // \2)", r"(tl.cdiv(\1, \2) + 1)"),
        r"-\(-self\.batch\.num_envs // self\._threads\)": (
            "self.batch.num_envs // self._threads",
            "-(-self.batch.num_envs // self._threads) + 1",
        ),
    },
}
CUDA: Faults = {
    "mask left out": {r"\((?:row < batch\.num_envs|block\.active\[k\]|call\.(?!actions?\b)\w+)\) ": ("(true) ",)},
    "stride": {
        r"\b((?:call\.)?\w+)_(row|row_stride), ((?:call\.)?\w+)_(column|column_stride)\b": (r"\3_\4, \1_\2",),
        r"\bstep \* call\.\w+_step": ("step",),
        r"\b(\w+) \* row_stride": (r"\1 * column_stride",),
        r"\b(\w+) \* column_stride": (r"\1 * row_stride",),
        r" \* (?:(?:draw|view|last|call)\.\w+(?:row|column)\w*|ACTION_SIZE)\b": ("",),
    },
    "32 bits": {
        r"\(int64_t\)(?=blockIdx)": ("",),
        r"\bint64_t(?= (?:row|at|first|step|row_stride|column_stride)\b)": ("int32_t",),
    },
    "wrong lane": {
        r"\+ threadIdx\.x": ("+ threadIdx.x + 1",),
        r"\* blockDim\.x": ("* (blockDim.x / 2)",),
        r"\brow \+ k\]": ("row + k + 1]",),
        r"\b(\w+)\[row\]": (r"\1[row + 1]",),
    },
    "Philox": {
        r"\b(0x[0-9A-F]{7})[0-9A-F]u": (r"\g<1>2u",),
        r"\b[0-3]u << 28": ("5u << 28",),
        r"\b1u << 27": ("1u << 26",),
        r"\bround < 10": ("round < 9",),
        r"\bkey1 \+=": ("key1 -=",),
    },
    "neutral element": {
        r"\b(total|sum|log_prob) = 0\.0f": (r"\1 = 1.0f",),
        r"\bhighest = LOWEST": ("highest = 0.0f",),
        r"\b(count|found) = 0;": (r"\1 = 1;",),
        r"(first\[[^\]]*\]) = 0;": (r"\1 = 1;",),
    },
}
KINDS = tuple(TRITON)
FILES = (
    "kernels/triton/*.py",
    "kernels/cuda/*.cuh",
    "backends/triton/*.py",
    "backends/cuda/backend.py",
    "random.py",
    "philox.py",
    "sampling.py",
    "arrays.py",
)
# What of a file for GPUs the compilers of CPUs see alone.
_OF_CPUS = re.compile(r"\n#(?:ifndef __CUDACC__|else)\n(?:#ifdef\b.*?#endif|.)*?\n#endif", re.DOTALL)


def faults(path: str, text: str) -> Iterator[tuple[str, int, int, str]]:
    """Yield kind, beginning, end and replacement of each fault of a file."""
    is_python = path.endswith(".py")
    of_cpus = [] if is_python else [found.span() for found in _OF_CPUS.finditer(text)]
    for kind, patterns in (TRITON if is_python else CUDA).items():
        for pattern, replacements in patterns.items():
            for found in re.finditer(pattern, text):
                if not any(start <= found.start() < end for start, end in of_cpus):
                    for after in replacements:
                        yield kind, *found.span(), found.expand(after)
