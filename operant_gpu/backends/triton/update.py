"""The gradient steps of an iteration as Triton kernels: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from operant_gpu.backends.compilations import told
from operant_gpu.backends.triton.constants import PIECES, action_constants, learner_constants, network_constants
from operant_gpu.backends.triton.launching import INTERPRETED, check_compiler, compiled, launch, target_name
from operant_gpu.hyperparameters import AdamState, Samples, StepSettings, StepTable, minibatch_sizes, minibatches_of
from operant_gpu.kernels.triton.adam import GRAD_NORM, NUM_MEASURED, adam_kernel, reduce_kernel
from operant_gpu.kernels.triton.advantages import advantages_kernel
from operant_gpu.kernels.triton.gradient import gradient_kernel
from operant_gpu.kernels.triton.objective import NUM_SUMS, moments_kernel
from operant_gpu.kernels.triton.shuffle import shuffle_kernel, widths
from operant_gpu.mlp import MLP, MLPLayout
from operant_gpu.processes import ALONE, Processes, merged_moments
from operant_gpu.spaces import ActionLayout

# Inputs and units of a layer: of wider ones not all gradients fit on the chip.
MAX_TRAINABLE_WIDTH = 64
# Parameters that one program of the optimizer takes, and the rows of partial gradients that it sums at a time.
CHUNK, ROWS = 256, 16
# Numbers, of float32, to whose multiples Triton takes a tensor's memory to be aligned.
_ALIGNMENT = 4
# Registers that a thread of the gradient kernel is given, and those of a multiprocessor.
_MOST_REGISTERS, _REGISTERS = 256, 65_536


# Unlike environments, which are to compute the same everywhere. With one stage: see the rollouts.
OPTIONS = {"enable_fp_fusion": True, "num_stages": 1}
_ADVICE = "set engine='graph' or engine='eager'"


class Shape(NamedTuple):
    """A tile of the gradient kernel, and the warps that work on it."""

    block: int  # samples of a tile
    warps: int


# The first that fits is taken, by precision and whether there are three hidden layers. With 64 samples, products are
# Hopper's own; with 32 nothing spills.
SHAPES = {
    ("tf32", False): (Shape(64, 4), Shape(32, 8), Shape(16, 8)),
    ("tf32", True): (Shape(32, 8), Shape(16, 8)),
    ("ieee", False): (Shape(32, 8), Shape(16, 4)),
    ("ieee", True): (Shape(16, 8),),
}


class Fit(NamedTuple):
    """A shape of the gradient kernel for which there is room on a device."""

    shape: Shape
    shared: int  # bytes of a multiprocessor's memory that a program takes, as compiled


def find_fit(mlp: MLP, actions: ActionLayout, settings: StepSettings, example: Samples) -> Fit | None:
    """Return the first shape that fits, by what the compiler says of it; None if none does.

    Args:
        mlp: The network.
        actions: Of the environment.
        settings: Of the steps.
        example: Samples with the dtypes and the alignment of those to come.

    Raises:
        BackendError: If the compiler fails.
    """
    if INTERPRETED:
        return Fit(Shape(256, 4), 0)
    device = mlp.parameters.device
    limit, constants = _shared_memory(device), gradient_constants(mlp, actions)
    numbers, whole = mlp.parameters.new_empty(1), torch.empty(1, dtype=torch.int32, device=device)
    moments = numbers if settings.normalize_advantages else None
    arguments = _gradient_arguments(numbers, numbers, whole, numbers, mlp, example, whole, moments)
    for shape in SHAPES[mlp.precision, len(mlp.layout.hidden_sizes) > 2]:
        options, place = {"num_warps": shape.warps, **OPTIONS}, (0, 1, 1)
        compiled_in = constants | {"BLOCK": shape.block}
        with told("gradient_kernel of the learner", functools.partial(target_name, device)):
            kernel = compiled(gradient_kernel, (*arguments, *place), compiled_in, device, options, _ADVICE)
        if (shared := int(kernel.metadata.shared)) <= limit:
            return Fit(shape, shared)
    return None


def _gradient_arguments(
    partials: Tensor,
    sums: Tensor,
    status: Tensor,
    hyperparameters: Tensor,
    mlp: MLP,
    samples: Samples,
    order: Tensor,
    moments: Tensor | None,
) -> tuple[Any, ...]:
    """Return the gradient kernel's arguments that are not compiled in, but for which step it is, and of how many."""
    return (partials, sums, status, hyperparameters, mlp.parameters, mlp.shift, mlp.scale, *samples, order, moments)


class GradientSteps:
    """Takes the gradient steps of iterations of one size, without waiting for the device.

    Args:
        mlp: The network.
        actions: Of the environment.
        settings: Of the steps.
        example: Samples with the dtypes and the alignment of those to come.
        samples: Environment steps of an iteration.
        processes: Those that take the steps together, each with samples of its own.
    """

    def __init__(
        self,
        mlp: MLP,
        actions: ActionLayout,
        settings: StepSettings,
        example: Samples,
        samples: int,
        processes: Processes = ALONE,
    ) -> None:
        layout, device = mlp.layout, mlp.parameters.device
        fit = find_fit(mlp, actions, settings, example)
        assert fit is not None, "find_misfit told"
        self._layout, self._actions, self._settings, self._samples = layout, actions, settings, samples
        self._device, self._shape, self._processes = device, fit.shape, processes
        self._roles = 1 if layout.shared_trunk or not layout.hidden_sizes else 2
        self._minibatches = minibatches_of(settings, samples)
        largest = -(-samples // self._minibatches)
        at_once = _programs_at_once(device, fit) // self._roles
        self._programs = min(-(-largest // fit.shape.block), max(1, at_once))
        chunks = chunk_table(layout)
        self._chunks = torch.tensor(chunks, dtype=torch.int32, device=device)
        self._tensor_of_chunk = self._chunks[:, 2].long()
        steps = settings.n_epochs * self._minibatches

        def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self._order = numbers(settings.n_epochs, samples, dtype=torch.int32)
        self._moments = numbers(steps, PIECES, 3)
        self._partials = numbers(self._programs, layout.size)
        self._sums = numbers(self._programs, self._roles, NUM_SUMS.value)
        self._gradient, self._squares = numbers(layout.size), numbers(steps, len(chunks))
        self._measured = numbers(steps, NUM_MEASURED.value)
        self._status, self._counts = numbers(steps + 1, dtype=torch.int32), numbers(steps + 1)
        # A gradient and, at an address as even as that of a tensor, what is measured with it.
        self._sent = numbers(-(-layout.size // _ALIGNMENT) * _ALIGNMENT + NUM_SUMS.value)
        self._own = numbers(steps, NUM_MEASURED.value)
        self._sizes = torch.tensor(minibatch_sizes(settings, samples), device=device)

    def run(
        self,
        mlp: MLP,
        samples: Samples,
        adam: AdamState,
        hyperparameters: Tensor,
        *,
        seed: int,
        iteration: Tensor,
        trainable: Tensor,
        status: Tensor,
    ) -> StepTable:
        """Take all gradient steps of an iteration, in place.

        Args:
            mlp: The network.
            samples: To learn from.
            adam: The optimizer's memory.
            hyperparameters: Those of the iteration, as `Hyperparameters` says.
            seed: Of the shuffles.
            iteration: Number of the iteration, an int32 on the device.
            trainable: Which parameter tensors are to be moved, (T,) bool.
            status: That of the first step, an int32 on the device.

        Returns:
            What was measured, in memory that the next call writes again.
        """
        self._status[0], self._counts[0] = status, adam.updates
        moments = self._shuffle(seed, iteration, samples.advantages)
        memory = self._partials, self._sums, self._status, hyperparameters
        gradient = _gradient_arguments(*memory, mlp, samples, self._order, moments)
        constants = gradient_constants(mlp, self._actions) | {"BLOCK": self._shape.block}
        optimizer = (mlp.parameters, adam.means, adam.squares)
        flags = trainable.to(torch.int32)
        for step in range(len(self._measured)):
            place = step, self._samples, self._minibatches
            grid = self._programs, self._roles
            _launch(gradient_kernel, grid, (*gradient, *place), constants, self._device, self._shape.warps)
            self._finish(step, optimizer, hyperparameters, flags)
        adam.updates.copy_(self._counts[-1])
        norms = torch.zeros(len(self._measured), len(trainable), device=self._squares.device)
        norms.index_add_(1, self._tensor_of_chunk, self._squares)
        own = None if self._processes.size == 1 else self._own
        return StepTable(self._measured, norms.sqrt_(), self._status, own)

    def _shuffle(self, seed: int, iteration: Tensor, advantages: Tensor) -> Tensor | None:
        """Write the orders; return the moments of the minibatches' advantages, if those are normalized."""
        samples, settings = self._samples, self._settings
        block = triton.next_power_of_2(samples) if INTERPRETED else 1024
        numbers = (self._order, iteration, seed, self._processes.rank, samples, *widths(samples))
        grid = triton.cdiv(samples, block), settings.n_epochs
        _launch(shuffle_kernel, grid, numbers, {"BLOCK": block}, self._device)
        if not settings.normalize_advantages:
            return None
        arguments = (self._moments, advantages, self._order, samples, self._minibatches)
        grid, constants = (len(self._measured), PIECES), {"PIECES": PIECES, "BLOCK": 1024}
        _launch(moments_kernel, grid, arguments, constants, self._device)
        if self._processes.size > 1:
            self._merge_moments()
        return self._moments

    def _merge_moments(self) -> None:
        """Replace the moments of this process's minibatches by those of all, as those of one piece."""
        counts, means, spreads = self._moments.double().unbind(-1)
        mean = (counts * means).sum(1) / self._sizes
        spread = (spreads + counts * (means - mean[:, None]).square()).sum(1)
        means, spreads = self._processes.gather(torch.stack([mean, spread], 1)).unbind(-1)
        mean, spread, size = merged_moments(means, spreads, self._sizes)
        self._moments.zero_()
        self._moments[:, 0] = torch.stack([size, mean, spread], 1).float()

    def _finish(
        self, step: int, optimizer: tuple[Tensor, Tensor, Tensor], hyperparameters: Tensor, trainable: Tensor
    ) -> None:
        """Sum the programs' gradients, and take Adam's step."""
        sums = (self._gradient, self._squares, self._measured)
        parts = (self._partials, self._sums, self._roles, self._programs)
        if self._processes.size > 1:
            # The mean of the processes' gradients then is the only part.
            measured = self._sent[-NUM_SUMS.value :]
            self._reduce((self._sent, self._squares, self._own), *parts, trainable, step)
            measured[: GRAD_NORM.value].copy_(self._own[step, : GRAD_NORM.value])
            self._processes.average(self._sent)
            parts = (self._sent, measured, 1, 1)
        self._reduce(sums, *parts, trainable, step)
        grid = (len(self._chunks),)
        state = (*optimizer, *sums, self._status, self._counts, hyperparameters, self._chunks, trainable, step)
        _launch(adam_kernel, grid, state, adam_constants(len(self._chunks)), self._device)

    def _reduce(
        self,
        sums: tuple[Tensor, Tensor, Tensor],
        partials: Tensor,
        measured: Tensor,
        roles: int,
        programs: int,
        trainable: Tensor,
        step: int,
    ) -> None:
        """Sum the gradients of so many programs, and what they measured."""
        arguments = (*sums, partials, measured, self._chunks, trainable, step, programs, self._layout.size)
        sizes = {"ROLES": roles, "ROWS": ROWS, "CHUNK": CHUNK}
        _launch(reduce_kernel, (len(self._chunks),), arguments, sizes, self._device)


def _launch(
    kernel: Any,
    grid: tuple[int, ...],
    arguments: tuple[Any, ...],
    constants: dict[str, Any],
    device: torch.device,
    warps: int = 4,
) -> None:
    options = {"num_warps": warps, **OPTIONS}
    launch(kernel, grid, arguments, constants, device, options, _ADVICE)


def estimate_advantages(
    rewards: Tensor,
    values: Tensor,
    final_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    hyperparameters: Tensor,
) -> Tensor:
    """Return generalized advantage estimates; arguments but the last are (n_steps, num_envs) and contiguous."""
    advantages = torch.empty_like(rewards)
    num_steps, num_envs = rewards.shape
    block = triton.next_power_of_2(num_envs) if INTERPRETED else 64
    columns = (advantages, rewards, values, final_values, terminated, truncated)
    arguments = (*columns, hyperparameters, num_envs, num_steps)
    constants = {"LEARNER": learner_constants(), "BLOCK": block}
    _launch(advantages_kernel, (triton.cdiv(num_envs, block),), arguments, constants, rewards.device, 2)
    return advantages


def chunk_table(layout: MLPLayout) -> list[tuple[int, int, int]]:
    """Return first parameter, size and tensor of each chunk."""
    sizes = [math.prod(shape) for shape in layout.shapes]
    starts = itertools.accumulate(sizes, initial=0)
    return [
        (start + first, min(CHUNK, size - first), tensor)
        for tensor, (start, size) in enumerate(zip(starts, sizes))
        for first in range(0, size, CHUNK)
    ]


def gradient_constants(mlp: MLP, actions: ActionLayout) -> dict[str, Any]:
    """Return the compile-time arguments of the gradient kernel, BLOCK apart."""
    return {"ACTIONS": action_constants(actions), "NET": network_constants(mlp), "LEARNER": learner_constants()}


def adam_constants(chunks: int) -> dict[str, Any]:
    """Return the compile-time arguments of the optimizer's kernel."""
    return {"LEARNER": learner_constants(), "NUM_CHUNKS": triton.next_power_of_2(chunks), "CHUNK": CHUNK}


def find_misfit(mlp: MLP, actions: ActionLayout, settings: StepSettings, example: Samples) -> str | None:
    """Return why the kernels cannot train a network on its device; None if they can. Arguments are `find_fit`'s.

    Raises:
        BackendError: If the device's compiler fails on them.
    """
    layout, device = mlp.layout, mlp.parameters.device
    widest, head = max((layout.inputs, *layout.hidden_sizes)), layout.outputs + 1
    if widest > MAX_TRAINABLE_WIDTH or head > MAX_TRAINABLE_WIDTH:
        limit = f"up to {MAX_TRAINABLE_WIDTH} inputs, units and outputs"
        return f"its kernels hold {limit}, the network has {max(widest, head)}"
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        check_compiler(capability, triton.__version__)
        if capability < (8, 0):
            # Warps race in the sums that Triton compiles for them.
            return "its kernels are for compute capability 8.0 and newer, found " + ".".join(map(str, capability))
    if find_fit(mlp, actions, settings, example) is None:
        room = f"the {_shared_memory(device):,} bytes that a program has on {device}"
        return f"its kernels for {mlp.precision} do not fit in {room}"
    return None


def _shared_memory(device: torch.device) -> int:
    """Return the bytes that one program can have on the chip."""
    index = torch.cuda.current_device() if device.type == "cuda" and device.index is None else device.index or 0
    return int(triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"])


def _programs_at_once(device: torch.device, fit: Fit) -> int:
    """Return how many programs fill the device; a few in the interpreter, to have sums over them."""
    if device.type != "cuda":
        return 6
    properties = torch.cuda.get_device_properties(device)
    # Gradients take nearly all registers that a thread can have; of each program's memory, 1 KiB is the system's.
    by_registers = _REGISTERS // (_MOST_REGISTERS * 32 * fit.shape.warps)
    by_memory = properties.shared_memory_per_multiprocessor // (fit.shared + 1_024)
    return max(1, min(by_registers, by_memory)) * int(properties.multi_processor_count)
