"""Take every kernel of every environment through Triton's launcher and compiler, and print what each needs.

Run as a program, with whatever Triton is on the path: `python tests/support/aot.py steps 80 90`, or `rollouts`, or
`networks`, or `arrays` for the kernels of environments that have them (`snake` for one of them), or `updates` for those
of the fused learner, or `sample` for each kernel once. Targets are compute capabilities times ten, and AMD's names of
`AMD`. The last line is JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from contract_envs import Lamps, Ledge, MaskedDials, modes_of
from gymnasium.vector import AutoresetMode
from ptx_executor.triton_driver import shared_memory_of
from reporting_envs import MARKET, MAZE, Market, Maze
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.cache import get_cache_manager
from varied_envs import CARTPOLE, TILES, Tiles, given

from operant_gpu.backends.base import NO_LIMIT, Batch
from operant_gpu.backends.lowering.trial import try_out
from operant_gpu.backends.triton.backend import (
    OPTIONS,
    draw_arguments,
    examples,
    launch_shape,
    policy_constants,
    reset_arguments,
    rollout_arguments,
    rollout_shape,
    step_arguments,
)
from operant_gpu.backends.triton.constants import environment_constants, learner_constants
from operant_gpu.backends.triton.rows import copy_arguments
from operant_gpu.backends.triton.update import (
    CHUNK,
    PIECES,
    ROWS,
    SHAPES,
    Shape,
    adam_constants,
    gradient_constants,
)
from operant_gpu.backends.triton.update import OPTIONS as FUSED
from operant_gpu.environment import Environment
from operant_gpu.kernels.triton import adam
from operant_gpu.kernels.triton.advantages import advantages_kernel
from operant_gpu.kernels.triton.draw import draw_kernel
from operant_gpu.kernels.triton.gradient import gradient_kernel
from operant_gpu.kernels.triton.objective import moments_kernel
from operant_gpu.kernels.triton.rollout import rollout_kernel
from operant_gpu.kernels.triton.rows import copy_rows_kernel
from operant_gpu.kernels.triton.shuffle import shuffle_kernel
from operant_gpu.kernels.triton.step import reset_kernel, step_kernel
from operant_gpu.memory.allocation import allocate_columns, allocate_state
from operant_gpu.memory.rows import Copy, NewStreams, rows_of
from operant_gpu.memory.trajectory import NETWORK_OUTPUTS, Storage, Trajectory
from operant_gpu.mlp import MLP, MLPLayout
from operant_gpu.parameters import allocated
from operant_gpu.registry import find, list_envs
from operant_gpu.spaces import action_layout, observation_layout

# Any will do: every entry of the launch tables gives a thread as many environments, so its code is the same.
BATCH_SIZE = 1_048_576
CPU = torch.device("cpu")
AMD = {"gfx942": GPUTarget("hip", "gfx942", 64), "gfx1100": GPUTarget("hip", "gfx1100", 32)}
# A multiple of 16, as most batches are: the launcher compiles kernels of their own for those.
ROWS_OF_BATCH = 48
# In a folder of Triton's cache.
REPORT = "ptxas.txt"


class Launch(NamedTuple):
    """A kernel as a backend would launch it."""

    kernel: Any
    environment: str
    variant: str
    arguments: dict[str, Any]
    constants: dict[str, Any]
    warps: int
    options: dict[str, Any] = OPTIONS
    # Whether it takes more than the 99 KiB of most cards, whose learner then takes another.
    is_large: bool = False


class Usage(NamedTuple):
    """What one compiled kernel takes of the machine.

    `stack` is bytes of a thread. `spills` is bytes that ptxas stores and loads; on AMD's devices vector registers.
    """

    triton: str
    target: str
    kernel: str
    environment: str
    variant: str
    registers: int
    shared: int
    stack: int
    spills: int
    matrix_instructions: dict[str, int]


class NoGPU:
    """Answers what the launcher asks of a driver before it launches: a machine with one device of every target."""

    target = GPUTarget("cuda", 80, 32)

    def get_current_device(self) -> GPUTarget:
        # Triton keeps what it has compiled by device.
        return self.target

    def get_current_stream(self, device: GPUTarget) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


def compiled(launch: Launch, target: GPUTarget) -> Any:
    """Take one kernel through the launcher, up to the launch."""
    NoGPU.target = target
    options = {"num_warps": launch.warps, **launch.options, "grid": (1,), "warmup": True}
    return launch.kernel.run(**launch.arguments, **launch.constants, **options)


def compile_launch(launch: Launch, capability: int) -> tuple[Any, str]:
    """Compile one kernel for compute capability `capability` / 10.

    Returns:
        The compiled kernel, and what ptxas said of it, which is kept beside it in Triton's cache.
    """

    def reported() -> tuple[Any, str]:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            return compiled(launch, GPUTarget("cuda", capability, 32)), printed.getvalue()

    kernel, report = reported()
    cache = get_cache_manager(kernel.hash)
    if not report:
        if kept := cache.get_file(REPORT):
            return kernel, Path(kept).read_text()
        # Something else compiled it.
        launch.kernel.device_caches.clear()
        with triton.knobs.compilation.scope():
            triton.knobs.compilation.always_compile = True
            kernel, report = reported()
    cache.put(report, REPORT, binary=False)
    return kernel, report


def usage_of(launch: Launch, target: str) -> Usage:
    if target in AMD:
        kernel = compiled(launch, AMD[target])
        assert kernel.asm["hsaco"].startswith(b"\x7fELF"), "no code object"
        names = "vgpr_count", "private_segment_fixed_size", "vgpr_spill_count"
        registers, stack, spills = (int(re.search(rf"\.{name}:\s+(\d+)", kernel.asm["amdgcn"])[1]) for name in names)
    else:
        kernel, report = compile_launch(launch, int(target))
        registers = int(re.search(r"Used (\d+) registers", report)[1])
        stack, *both = map(int, re.search(r"(\d+) bytes stack frame, (\d+) .*?, (\d+) ", report).groups())
        spills, target = sum(both), f"sm_{target}"
    names = launch.kernel.fn.__name__, launch.environment, launch.variant
    shared, matrix = kernel.metadata.shared, matrix_instructions(kernel)
    return Usage(triton.__version__, target, *names, registers, shared, stack, spills, matrix)


def matrix_instructions(compiled: Any) -> dict[str, int]:
    """Count the instructions for matrix products, by the names that they have in machine code."""
    if "amdgcn" in compiled.asm:
        found = re.findall(r"^\s*v_(mfma|wmma)_\w+_(\w+)", compiled.asm["amdgcn"], re.MULTILINE)
        return {f"{name.upper()} {kind}": count for (name, kind), count in Counter(found).items()}
    names = {"mma.sync": "HMMA", "wgmma.mma_async": "HGMMA", "tcgen05.mma": "UTCHMMA"}
    found = re.findall(r"^\s*(?:@\S+ )?(mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b", compiled.asm["ptx"], re.MULTILINE)
    return {names[name]: count for name, count in Counter(found).items()}


def environments(with_arrays: bool) -> list[Environment]:
    """Return every registered environment, and those with action masks: with or without arrays in their state."""
    known = [*(one for one in map(find, list_envs()) if isinstance(one, Environment)), Ledge, MaskedDials, Lamps]
    return [one for one in known if has_arrays(one) == with_arrays]


def has_arrays(environment: Environment) -> bool:
    return any(column.shape for column in environment.column_types(environment.make_params({})).values())


def batch_of(
    environment: Environment, mode: AutoresetMode = AutoresetMode.SAME_STEP, varied: dict[str, Any] | None = None
) -> Batch:
    params, tables = environment.make_given(given(varied or {}, ROWS_OF_BATCH))
    observation, action = environment.spaces(params, tables)
    layouts = observation_layout(observation), action_layout(action)
    state = allocate_state(environment, params, ROWS_OF_BATCH, CPU)
    columns = allocate_columns(ROWS_OF_BATCH, CPU, 0, environment.metric_rows)
    limit, trial = environment.max_episode_steps or NO_LIMIT, try_out(environment, params, tables)
    memory = allocated(params, ROWS_OF_BATCH, CPU), tables
    outputs = storage_of(environment, *layouts, stores_rows=False).outputs(separate_final_obs=True)
    return Batch(environment, params, *memory, state, columns, *layouts, outputs, limit, mode, trial)


def storage_of(environment: Environment, obs: Any, actions: Any, stores_rows: bool) -> Storage:
    mask_size = actions.num_actions if environment.has_action_mask else 0
    return Storage(ROWS_OF_BATCH, CPU, obs, actions, mask_size, stores_rows)


def launch_of(
    kernel: Any,
    batch: Batch,
    variant: str,
    values: tuple[Any, ...],
    shape: Any,
    exact: torch.Tensor | None = None,
    **constants: Any,
) -> Launch:
    """Return a kernel of the environment's, with as many threads as on a GPU."""
    block, warps = shape
    # Where a network acts, what it draws is scaled.
    scales = constants.get("NET") is not None or kernel is draw_kernel
    constants = {"ENV": environment_constants(batch, scales), **constants, "BLOCK": block}
    if kernel is not rollout_kernel or batch.trial.width == 1:
        stay, change = examples(kernel, values, exact)
        values = (*stay, *change)
    arguments = dict(zip(kernel.arg_names, values, strict=False))
    return Launch(kernel, batch.environment.id, variant, arguments, constants, warps)


def steps_of(batch: Batch) -> list[Launch]:
    """Return the kernels of single steps and resets."""
    outputs, mode = batch.outputs, batch.autoreset_mode
    actions = torch.zeros(
        ROWS_OF_BATCH, *batch.actions.shape, dtype=torch.int64 if batch.actions.is_discrete else torch.float32
    )
    shape = launch_shape(BATCH_SIZE, batch.trial.width)
    launches = [launch_of(step_kernel, batch, mode.name, step_arguments(batch, actions, outputs), shape)]
    if mode is AutoresetMode.SAME_STEP:
        mask = torch.zeros(1, dtype=torch.bool)
        launches.append(launch_of(reset_kernel, batch, "", reset_arguments(batch, mask, outputs), shape))
        launches += copies_of(batch)
    return launches


def rollout_of(batch: Batch, policy: torch.Tensor | MLP | None, is_stored: bool, variant: str) -> Launch:
    """Return the rollout kernel, with everything or nothing stored."""
    trajectory = stored(batch, isinstance(policy, MLP)) if is_stored else Trajectory()
    values = rollout_arguments(batch, policy, trajectory, batch.outputs, 7)
    shape = rollout_shape(BATCH_SIZE, isinstance(policy, MLP), batch.trial.width)
    exact = policy.parameters if isinstance(policy, MLP) else None
    return launch_of(rollout_kernel, batch, variant, values, shape, exact, **policy_constants(policy))


def stored(batch: Batch, has_network: bool) -> Trajectory:
    absent = set() if batch.environment.has_action_mask else {"action_mask"}
    # A learner wants what was drawn alone.
    absent |= {"final_obs", "action"} if has_network else set(NETWORK_OUTPUTS)
    storage = storage_of(batch.environment, batch.observations, batch.actions, stores_rows=True)
    names = [name for name in Trajectory._fields if name not in absent]
    return storage.trajectory(storage.tensors(names, 2, has_network))


def rollouts_of(batch: Batch) -> list[Launch]:
    """Return rollouts without a network."""
    dtype = torch.int64 if batch.actions.is_discrete else torch.float32
    given = torch.zeros(2, ROWS_OF_BATCH, *batch.actions.shape, dtype=dtype)
    mode = batch.autoreset_mode.name
    launches = [rollout_of(batch, None, is_stored=False, variant=f"random, nothing stored, {mode}")]
    if batch.autoreset_mode is AutoresetMode.SAME_STEP:
        launches += [
            rollout_of(batch, None, is_stored=True, variant="random, all stored"),
            rollout_of(batch, given, is_stored=True, variant="given, all stored"),
        ]
    return launches


def network_of(batch: Batch, *hidden_sizes: int, precision: str = "tf32", is_simple: bool = False) -> Launch:
    """Return a rollout with a network: tanh and two trunks, or if simple relu, one trunk and scaled observations."""
    actions = batch.actions
    inputs = math.prod(batch.observations.seen)
    outputs = actions.num_actions if actions.is_discrete else actions.size
    kind = ("relu", True) if is_simple else ("tanh", False)
    one_hot = batch.observations.one_hot_start
    layout = MLPLayout(inputs, hidden_sizes, outputs, *kind, not actions.is_discrete, one_hot)
    scaling = (torch.zeros(inputs), torch.ones(inputs), 10.0) if is_simple else ()
    network = MLP(torch.zeros(layout.size), layout, *scaling, precision=precision, scales_actions=True)
    variant = f"{'x'.join(map(str, hidden_sizes))} {kind[0]} {precision}"
    return rollout_of(batch, network, is_stored=True, variant=variant)


def draw_of(batch: Batch) -> Launch:
    """Return the drawing of actions from a network that PyTorch evaluates."""
    actions, mask = batch.actions, batch.outputs.action_mask
    outputs = actions.num_actions if actions.is_discrete else actions.size
    drawn = torch.zeros(1, dtype=torch.int64 if actions.is_discrete else torch.float32)
    log_std = None if actions.is_discrete else torch.zeros(1)
    values = draw_arguments(batch, torch.zeros(ROWS_OF_BATCH, outputs), log_std, mask, (drawn, drawn, torch.zeros(1)))
    return launch_of(draw_kernel, batch, "", values, launch_shape(BATCH_SIZE), OUTPUTS=outputs)


def copies_of(batch: Batch) -> list[Launch]:
    """Return the copying of environments onto others: in a batch, and from a snapshot onto what draws its own."""
    rows, ids = rows_of(batch.state, batch.columns, batch.memory), torch.zeros(ROWS_OF_BATCH, dtype=torch.int64)
    misses = torch.zeros((), dtype=torch.int64)
    streams = NewStreams(batch.columns.env_id, ids)
    launches = []
    for variant, sources, own in (("", rows, None), ("new streams", rows.empty(ROWS_OF_BATCH), streams)):
        chosen = ids if own is None else None
        values, constants, shape = copy_arguments(Copy(BATCH_SIZE, sources, chosen, rows, ids, misses, own))
        arguments = dict(zip(copy_rows_kernel.arg_names, values, strict=False))
        launches.append(Launch(copy_rows_kernel, batch.environment.id, variant, arguments, constants, shape[1]))
    return launches


def gradient_of(batch: Batch, shape: Shape, *hidden_sizes: int, precision: str = "tf32", **kind: Any) -> Launch:
    """Return the gradient of a network: tanh and two trunks, unless `kind` says otherwise."""
    actions, inputs = batch.actions, math.prod(batch.observations.seen)
    outputs = actions.num_actions if actions.is_discrete else actions.size
    kind["obs_start"] = batch.observations.one_hot_start
    options = {"activation": "tanh", "shared_trunk": False, "is_gaussian": not actions.is_discrete, **kind}
    layout = MLPLayout(inputs, hidden_sizes, outputs, **options)
    numbers, whole = torch.zeros(1), torch.zeros(1, dtype=torch.int32)
    # The variants also differ in whether observations are scaled, and advantages normalized.
    scaling = (torch.zeros(inputs), torch.ones(inputs), 10.0) if layout.shared_trunk else ()
    mlp = MLP(torch.zeros(layout.size), layout, *scaling, precision=precision)
    mask = None if batch.outputs.action_mask is None else torch.zeros(1, dtype=torch.bool)
    drawn = torch.zeros(1, dtype=torch.int64 if actions.is_discrete else torch.float32)
    moments = None if layout.shared_trunk else numbers
    obs = torch.zeros(1, dtype=batch.observations.torch_dtype)
    samples = (obs, drawn, mask, numbers, numbers, numbers, whole, moments)
    values = (numbers, numbers, whole, numbers, mlp.parameters, mlp.shift, mlp.scale, *samples, 1, 2, 3)
    arguments = dict(zip(gradient_kernel.arg_names, values, strict=False))
    constants = gradient_constants(mlp, actions) | {"BLOCK": shape.block}
    variant = f"{'x'.join(map(str, hidden_sizes))} {layout.activation} {precision} {shape.block}"
    is_large = len(hidden_sizes) > 2 or shape.block >= (64 if precision == "tf32" else 32)
    return Launch(gradient_kernel, batch.environment.id, variant, arguments, constants, shape.warps, FUSED, is_large)


def small_updates() -> Iterator[Launch]:
    """Return the learner's kernels beside the gradient's."""
    numbers, whole, flags = torch.zeros(1), torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.bool)
    kernels = (
        (shuffle_kernel, (whole, whole, 2, 0, 3, 4, 5), {"BLOCK": 1024}),
        (moments_kernel, (numbers, numbers, whole, 2, 3), {"PIECES": PIECES, "BLOCK": 1024}),
        (
            adam.reduce_kernel,
            (*[numbers] * 5, whole, whole, 2, 3, 5),
            {"ROLES": 2, "ROWS": ROWS, "CHUNK": CHUNK},
        ),
        (adam.adam_kernel, (*[numbers] * 6, whole, numbers, numbers, whole, whole, 2), adam_constants(40)),
        (
            advantages_kernel,
            (*[numbers] * 4, flags, flags, numbers, 3, 5),
            {"LEARNER": learner_constants(), "BLOCK": 64},
        ),
    )
    for kernel, values, constants in kernels:
        yield Launch(kernel, "", "", dict(zip(kernel.arg_names, values, strict=False)), constants, 4, FUSED)


def updates() -> Iterator[Launch]:
    """Return the learner's kernels, the gradient in every shape."""
    cartpole, pendulum, dials = batch_of(find("CartPole-v1")), batch_of(find("Pendulum-v1")), batch_of(MaskedDials)
    for (precision, is_deep), shapes in SHAPES.items():
        for shape in shapes:
            yield gradient_of(cartpole, shape, *[64] * (3 if is_deep else 2), precision=precision)
    large, small, _ = SHAPES["tf32", False]
    yield gradient_of(pendulum, large, 64, 64)
    yield gradient_of(pendulum, small, 64, 64)
    yield gradient_of(dials, large, 64, 64, activation="relu", shared_trunk=True)
    yield gradient_of(batch_of(find("FrozenLake-v1")), large, 64, 64)
    yield gradient_of(pendulum, large, shared_trunk=True)
    yield from small_updates()


def sample() -> Iterator[Launch]:
    """Return each kernel once, small ones where there is a choice."""
    batch = batch_of(find("CartPole-v1"))
    yield from steps_of(batch)
    yield rollouts_of(batch)[0]
    yield network_of(batch, 32)
    yield draw_of(batch)
    yield gradient_of(batch, SHAPES["tf32", False][-1], 32)
    yield from small_updates()


def all_launches(kind: str) -> Iterator[Launch]:
    if kind == "sample":
        yield from sample()
        return
    if kind == "updates":
        yield from updates()
        return
    if kind == "networks":
        cartpole, pendulum = (batch_of(find(name)) for name in ("CartPole-v1", "Pendulum-v1"))
        yield network_of(cartpole, 64, 64)
        yield network_of(pendulum, 64, 64)
        yield network_of(batch_of(MaskedDials), 64, 64, is_simple=True)
        yield network_of(batch_of(find("FrozenLake-v1")), 64, 64)
        yield network_of(cartpole, 128, 128, 128)
        yield network_of(cartpole, 64, 64, precision="ieee")
        return
    if kind in ("arrays", "snake"):
        batches = [batch_of(find("Snake-v0"))]
        if kind == "arrays":
            varied = [batch_of(Tiles, varied=TILES), batch_of(Maze, varied=MAZE)]
            batches = [*map(batch_of, environments(with_arrays=True)), *varied]
        for batch in batches:
            yield from (*steps_of(batch), rollouts_of(batch)[1], draw_of(batch))
        return
    for environment in environments(with_arrays=False):
        for mode in modes_of(environment.id):
            batch = batch_of(environment, mode)
            yield from (steps_of if kind == "steps" else rollouts_of)(batch)
    others = {"varied": batch_of(find("CartPole-v1"), varied=CARTPOLE), "reporting": batch_of(Market, varied=MARKET)}
    for name, batch in others.items():
        for launch in (steps_of if kind == "steps" else rollouts_of)(batch):
            yield launch._replace(variant=f"{launch.variant}, {name}")


if __name__ == "__main__":
    kind, *targets = sys.argv[1:]
    driver.set_active(NoGPU())
    triton.knobs.nvidia.dump_ptxas_log = True
    usages = [
        usage_of(launch, target)
        for launch in all_launches(kind)
        for target in targets
        # What is large on NVIDIA's devices is not on AMD's.
        if target in AMD or not launch.is_large or shared_memory_of(int(target)) > 101_376
    ]
    for usage in usages:
        print(*usage, sep="\t")
    print(json.dumps([usage._asdict() for usage in usages]))
