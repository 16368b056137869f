"""Compile every kernel for every environment without a GPU, and print what each needs.

Run as a program, with whatever Triton is on the path: `python tests/aot.py 80 90 100`. The last line is JSON.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

import torch
import triton
from contract_envs import Ledge, MaskedDials
from gymnasium.vector import AutoresetMode
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from operant_gpu.backends.base import NO_LIMIT, Batch
from operant_gpu.backends.triton import launch_shape, reset_constants, step_constants
from operant_gpu.columns import Columns, Outputs
from operant_gpu.environment import Environment
from operant_gpu.kernels.step import reset_kernel, step_kernel
from operant_gpu.memory import allocate_columns, allocate_outputs, allocate_state
from operant_gpu.registry import find, list_envs
from operant_gpu.spaces import action_layout, observation_size

POINTERS = {torch.float32: "*fp32", torch.float64: "*fp64", torch.bool: "*i1"}
POINTERS |= {torch.int8: "*i8", torch.int32: "*i32", torch.int64: "*i64"}
# Any will do: every entry of the launch table gives a thread one environment, so its code is the same.
BATCH_SIZE = 1_048_576


class Usage(NamedTuple):
    """What one compiled kernel takes of the machine."""

    triton: str
    target: str
    kernel: str
    environment: str
    mode: str
    registers: int
    stack: int
    spills: int


def signature_of(value: Any) -> Any:
    """Return the type of a kernel argument as Triton writes it."""
    if isinstance(value, tuple):
        return type(value)(*map(signature_of, value))
    if value is None:
        return "constexpr"
    return POINTERS[value.dtype] if isinstance(value, torch.Tensor) else "i32"


def compile_kernel(kernel: Any, arguments: dict[str, Any], constants: dict[str, Any], warps: int, target: int) -> Any:
    """Compile one kernel for compute capability `target` / 10."""
    signature = {name: signature_of(value) for name, value in arguments.items()}
    signature |= dict.fromkeys(constants, "constexpr")
    constant_at = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    for name, value in arguments.items():
        parts = value if isinstance(value, tuple) else ()
        place = kernel.arg_names.index(name)
        # As at a launch, what is None is a constant, wherever it stands.
        constant_at |= (
            {(place,): None} if value is None else {(place, i): None for i, v in enumerate(parts) if v is None}
        )
    source = ASTSource(kernel, signature, constant_at)
    options = {"num_warps": warps, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)


def resource_usage(compiled: Any, target: int) -> tuple[int, int, int]:
    """Return registers, bytes of stack and bytes of spills, as ptxas reports them."""
    ptxas = get_ptxas(target).path
    architecture = f"sm_{target}{'a' if target >= 90 else ''}"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(compiled.asm["ptx"])
        file.flush()
        command = [ptxas, "-v", f"--gpu-name={architecture}", "--fmad=false", file.name, "-o", "/dev/null"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = int(re.search(r"Used (\d+) registers", report)[1])
    stack, stores, loads = map(int, re.search(r"(\d+) bytes stack frame, (\d+) .*?, (\d+) ", report).groups())
    return registers, stack, stores + loads


def environments() -> list[Environment]:
    """Return every registered environment, and those with action masks."""
    return [*map(find, list_envs()), Ledge, MaskedDials]


def batch_of(environment: Environment, mode: AutoresetMode) -> Batch:
    params = environment.make_params({})
    cpu = torch.device("cpu")
    layout = action_layout(environment.spaces(params)[1])
    state, columns = allocate_state(environment, 1, cpu), allocate_columns(1, cpu, 0)
    return Batch(environment, params, state, columns, layout, environment.max_episode_steps or NO_LIMIT, mode)


def kernels_of(batch: Batch) -> list[tuple[Any, dict[str, Any], dict[str, Any]]]:
    """Return each kernel with its arguments and constants for this batch."""
    size = observation_size(batch.environment.spaces(batch.params)[0])
    mask_size = 0 if batch.environment.action_mask is None else batch.actions.num_actions
    cpu = torch.device("cpu")
    outputs: Outputs = allocate_outputs(1, size, cpu, separate_final_obs=True, mask_size=mask_size)
    mask_strides = dict.fromkeys(("mask_row", "mask_column"), 1 if mask_size else None)
    dtype = torch.int64 if batch.actions.is_discrete else torch.float32
    common: dict[str, Any] = {"state_ptr": batch.state, "columns": Columns(*batch.columns)}
    step = common | {"action_ptr": torch.zeros(1, dtype=dtype), "action_row": 1, "action_column": 1, "outputs": outputs}
    step |= dict.fromkeys(("obs_row", "obs_column", "final_row", "final_column", "num_envs"), 1)
    step |= mask_strides
    reset = common | {"reset_mask_ptr": torch.zeros(1, dtype=torch.bool), "obs_ptr": outputs.obs}
    reset |= {"action_mask_ptr": outputs.action_mask, **mask_strides}
    reset |= dict.fromkeys(("obs_row", "obs_column", "num_envs"), 1)
    return [(step_kernel, step, step_constants(batch)), (reset_kernel, reset, reset_constants(batch))]


def compile_all(targets: list[int]) -> list[Usage]:
    usages = []
    for environment in environments():
        for mode in AutoresetMode:
            batch = batch_of(environment, mode)
            for kernel, arguments, constants in kernels_of(batch):
                if kernel is reset_kernel and mode is not AutoresetMode.SAME_STEP:
                    continue
                block, warps = launch_shape(BATCH_SIZE)
                for target in targets:
                    compiled = compile_kernel(kernel, arguments, constants | {"BLOCK": block}, warps, target)
                    numbers = resource_usage(compiled, target)
                    names = kernel.fn.__name__, environment.id, mode.name
                    usages.append(Usage(triton.__version__, f"sm_{target}", *names, *numbers))
    return usages


if __name__ == "__main__":
    found = compile_all([int(argument) for argument in sys.argv[1:]] or [90])
    for usage in found:
        print(*usage, sep="\t")
    print(json.dumps([usage._asdict() for usage in found]))
