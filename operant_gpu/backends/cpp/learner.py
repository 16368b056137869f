"""The library of the learner's kernels on a CPU: C++ that this machine's compiler makes, once for all networks."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from operant_gpu.backends.cpp.calls import POINTER, WORD, Network, header
from operant_gpu.backends.cpp.compiler import compiler, failure, load_or_make, native_flags, run_compiler
from operant_gpu.errors import BackendError
from operant_gpu.mlp import MLP
from operant_gpu.spaces import ActionLayout

_MAIN = Path(__file__).resolve().parents[2] / "kernels" / "cpp" / "learner.cpp"
# What it includes: its own headers, the random streams of environments, and draws from them.
_SHARED = [_MAIN.parents[1] / "cuda" / name for name in ("environment.cuh", "sampling.cuh")]
_SOURCES = (*sorted(_MAIN.parent.iterdir()), *_SHARED)
# Numbers that are not finite must stay so, or faults would not be seen: -ffast-math is out of the question.
FLAGS: tuple[str, ...] = ("-std=c++20", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
FLAGS += ("-fPIC", "-shared", "-fvisibility=hidden", "-pthread")


def network_of(mlp: MLP, actions: ActionLayout) -> Any:
    """Return what kernels need to know of a network; its memory is that of the tensors."""
    layout = mlp.layout
    made = Network(
        inputs=layout.inputs,
        depth=len(layout.hidden_sizes),
        widths=layout.hidden_sizes,
        outputs=layout.outputs,
        is_tanh=layout.activation == "tanh",
        is_shared=layout.shared_trunk or not layout.hidden_sizes,
        is_gaussian=layout.is_gaussian,
        components=len(actions.low),
        parameters=address(mlp.parameters),
        shift=address(mlp.shift),
        scale=address(mlp.scale),
        clip=mlp.clip,
        is_one_hot=layout.obs_start is not None,
        obs_start=layout.obs_start or 0,
    )
    made.first_choices, made.lows = _bounds(actions).ctypes.data, _bounds(actions)[1:].ctypes.data
    return made


def address(tensor: Tensor | None) -> int | None:
    """Return where a tensor's memory begins; None if there is none."""
    return None if tensor is None else tensor.data_ptr()


@functools.cache
def _bounds(actions: ActionLayout) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return where each component's choices begin, and the numbers of their first ones. Kept, for their address."""
    return np.array([actions.first_choices, actions.low], np.int64)


@functools.cache
def library() -> ctypes.CDLL:
    """Return the kernels, compiled now or by an earlier process.

    Raises:
        BackendError: If there is no C++ compiler that makes them.
    """
    command = [*compiler(), *FLAGS, *native_flags()]
    sources, calls = "".join(path.read_text(encoding="utf-8") for path in _SOURCES), header()
    try:
        loaded = load_or_make("the learner", f"{command}{calls}{sources}", lambda path: _compile(command, calls, path))
    except OSError as error:
        raise BackendError(f"what the C++ compiler {command[0]} makes cannot be written or loaded: {error}") from error
    loaded.climb.argtypes = [POINTER]
    loaded.roll_out.argtypes = [POINTER, POINTER, WORD, WORD]
    loaded.climb.restype = loaded.roll_out.restype = ctypes.c_bool
    loaded.begin_climb.argtypes, loaded.begin_climb.restype = [POINTER], POINTER
    for function, *kinds in (
        (loaded.end_climb,),
        (loaded.advantage_moments, POINTER),
        (loaded.compute_gradient, WORD),
        (loaded.adam_step, WORD),
    ):
        function.argtypes, function.restype = [POINTER, *kinds], None
    loaded.estimate_advantages.argtypes = [*[POINTER] * 6, WORD, WORD, POINTER]
    loaded.estimate_advantages.restype = None
    return loaded


def _compile(command: list[str], calls: str, path: Path) -> None:
    before = path.with_name("calls.hpp")
    before.write_text(calls, encoding="utf-8")
    command = [*command, "-include", str(before), str(_MAIN), "-o", str(path)]
    done = run_compiler(command)
    if done.returncode or not path.exists():
        raise failure(command, done)
