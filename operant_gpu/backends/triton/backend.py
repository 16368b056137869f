"""The Triton backend: launches the generic kernels on the current CUDA stream, or in Triton's interpreter."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from operant_gpu.backends.base import Batch
from operant_gpu.backends.compilations import told
from operant_gpu.backends.stepwise import StepwiseRollout
from operant_gpu.backends.triton import prepared
from operant_gpu.backends.triton.constants import environment_constants, network_constants
from operant_gpu.backends.triton.launching import INTERPRETED, check_compiler, launch, target_name
from operant_gpu.backends.triton.prepared import Launch, form, like, widths
from operant_gpu.fields import MOST_CELLS
from operant_gpu.kernels.triton import draw as drawing
from operant_gpu.kernels.triton import rollout as rollouts
from operant_gpu.kernels.triton import step as kernels
from operant_gpu.memory.columns import Outputs
from operant_gpu.memory.trajectory import Trajectory
from operant_gpu.mlp import MAX_WIDTH, MLP

# Fused multiply-add would round differently in each kernel and backend. With more than one stage, several copies of a
# network's weights would have to fit on the chip.
OPTIONS = {"enable_fp_fusion": False, "num_stages": 1}
_WAY_ROUND = "use device='cpu'"


def launch_shape(num_envs: int, width: int = 1) -> tuple[int, int]:
    """Return (environments per program, warps per program), where the widest block has `width` cells.

    One environment a thread: more would spill registers in the larger environments. Arrays have 16 cells a thread, for
    the same reason. Small batches are cut finer, so that every multiprocessor gets a program. The interpreter pays for
    each program, so there one takes all.
    """
    if INTERPRETED:
        return _interpreted_shape(triton.next_power_of_2(num_envs), width)
    if width > 1:
        return _array_shape(width)
    if num_envs <= 32_768:
        return 64, 2
    return 128, 4


def _array_shape(width: int) -> tuple[int, int]:
    return max(1, min(128, 2048 // width)), 4


def rollout_shape(num_envs: int, network: bool, width: int = 1) -> tuple[int, int]:
    """Return (environments per program, warps per program) of a rollout.

    Without a network one warp a program: whether any of its environments ended is then one instruction, and nothing
    waits for other warps. A network's products take 64 rows on four warps at the least, to be one of Hopper's.
    """
    if INTERPRETED:
        return _interpreted_shape(max(16, triton.next_power_of_2(num_envs)), width)
    if width > 1:
        return _array_shape(width)
    return (64, 4) if network else (32, 1)


def _interpreted_shape(rows: int, width: int) -> tuple[int, int]:
    """Return the shape of a program that takes all environments, as far as Triton's blocks hold their arrays."""
    return min(rows, max(1, MOST_CELLS // width)), 4


class Written(NamedTuple):
    """Outputs as kernels take them.

    Attributes:
        addresses: A NamedTuple of them.
        strides: Likewise of tuples, in elements.
        form: What kernels are compiled for: widths of the strides. None stands for an environment's own outputs.
    """

    addresses: Any
    strides: Any
    form: Any


def written(tensors: Any) -> Written:
    """Return a NamedTuple of tensors, or of None, as kernels take it."""
    addresses = [None if tensor is None else prepared.address(tensor) for tensor in tensors]
    strides = [None if tensor is None else tensor.stride() for tensor in tensors]
    return Written(tensors._make(addresses), tensors._make(strides), tuple(map(widths, strides)))


class TritonBackend:
    """Implements `Backend` with one kernel launch a call, and no synchronisation."""

    def __init__(self, batch: Batch) -> None:
        self._batch, self._num_envs, self._width = batch, batch.num_envs, batch.trial.width
        # For networks that draw in the environment's units, and for those that draw in their own.
        self._constants = [environment_constants(batch, scales_actions) for scales_actions in (False, True)]
        # Too much to hold in a program beside the layers of a network: PyTorch evaluates it, step by step.
        self._has_boards = self._width > 1 or math.prod(batch.observations.seen) > MAX_WIDTH
        self._stepwise = StepwiseRollout(self, batch, self._draw)
        self._device = batch.columns.seed.device
        # By the kernel's name, and what it is compiled for.
        self._launches: dict[Any, Launch] = {}
        self._own = written(batch.outputs)._replace(form=None)

    def reset(self, mask: Tensor, outputs: Outputs) -> None:
        """Begin a new episode where `mask` holds and write every row's observation and action mask."""
        shown = self._written(outputs)
        key = "reset", shown.form
        launch = self._launches.get(key) or self._prepare(
            key, kernels.reset_kernel, reset_arguments(self._batch, mask, outputs)
        )
        launch(prepared.address(mask), shown.addresses, shown.strides)

    def step(self, actions: Tensor, outputs: Outputs) -> None:
        """Advance every environment by one action."""
        shown, strides = self._written(outputs), actions.stride()
        key = "step", shown.form, actions.dtype, widths(strides)
        launch = self._launches.get(key) or self._prepare(
            key, kernels.step_kernel, step_arguments(self._batch, actions, outputs)
        )
        launch(prepared.address(actions), strides, shown.addresses, shown.strides)

    def rollout(self, num_steps: int, policy: Tensor | MLP | None, trajectory: Trajectory, outputs: Outputs) -> None:
        """Take many steps, in one launch unless a network sees boards."""
        if isinstance(policy, MLP) and self._has_boards:
            self._stepwise.run(num_steps, policy, trajectory, outputs)
            return
        if self._width > 1:
            arguments = rollout_arguments(self._batch, policy, trajectory, outputs, num_steps)
            self._roll_boards(arguments, policy)
            return
        shown, stored = self._written(outputs), written(trajectory)
        # All else that is stored has one dtype.
        dtypes = [None if one is None else one.dtype for one in (trajectory.action, trajectory.policy_action)]
        key = "rollout", shown.form, stored.form, *dtypes, _acting_form(policy)
        launch = self._launches.get(key)
        if launch is None:
            arguments = rollout_arguments(self._batch, policy, trajectory, outputs, num_steps)
            launch = self._prepare_rollout(key, arguments, policy)
        acting = prepared.addressed(acting_arguments(policy))
        launch(shown.addresses, shown.strides, *acting, stored.addresses, stored.strides, num_steps)

    def _roll_boards(self, arguments: tuple[Any, ...], policy: Tensor | MLP | None) -> None:
        """Launch a rollout after Triton's look at all arguments: alignment of boards that are stored spares registers.

        It takes longer than that looks by far.
        """
        shape = rollout_shape(self._num_envs, False, self._width)
        grid, constants, options = self._compiled_in(policy_constants(policy), shape)
        launch(rollouts.rollout_kernel, grid, arguments, constants, self._device, options, _WAY_ROUND)

    def _prepare_rollout(self, key: Any, arguments: tuple[Any, ...], policy: Tensor | MLP | None) -> Launch:
        network = policy if isinstance(policy, MLP) else None
        if network is not None and self._device.type == "cuda":
            check_compiler(torch.cuda.get_device_capability(self._device), triton.__version__)
        scales = network is not None and network.scales_actions
        constants = {"ENV": self._constants[scales], **policy_constants(policy)}
        shape = rollout_shape(self._num_envs, network is not None, self._width)
        exact = None if network is None else network.parameters
        return self._prepare(key, rollouts.rollout_kernel, arguments, constants, shape, exact)

    def _draw(self, network: MLP, network_outputs: Tensor, outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions as drawn, as the environments take them, and their log-probabilities."""
        layout, device = self._batch.actions, network_outputs.device
        dtype = torch.int64 if layout.is_discrete else torch.float32
        drawn = torch.empty(self._num_envs, *layout.shape, dtype=dtype, device=device)
        log_prob = torch.empty(self._num_envs, dtype=torch.float32, device=device)
        log_std = network.views()[-1] if network.layout.is_gaussian else None
        results = (drawn, torch.empty_like(drawn), log_prob)
        arguments = draw_arguments(self._batch, network_outputs.detach(), log_std, outputs.action_mask, results)
        given = arguments[fixed(drawing.draw_kernel) :]
        key = "draw", network.scales_actions, network.layout.outputs, form(given)
        launch = self._launches.get(key)
        if launch is None:
            constants = {"ENV": self._constants[network.scales_actions], "OUTPUTS": network.layout.outputs}
            launch = self._prepare(key, drawing.draw_kernel, arguments, constants, launch_shape(self._num_envs))
        launch(*prepared.addressed(given))
        return results

    def _written(self, outputs: Outputs) -> Written:
        return self._own if outputs is self._batch.outputs else written(outputs)

    def _compiled_in(
        self, constants: dict[str, Any], shape: tuple[int, int]
    ) -> tuple[tuple[int], dict[str, Any], dict[str, Any]]:
        """Return the grid of a launch, all that is compiled in, and the compiler's options."""
        block, warps = shape
        every = {"ENV": self._constants[False], **constants, "BLOCK": block}
        return (triton.cdiv(self._num_envs, block),), every, {"num_warps": warps, **OPTIONS}

    def _prepare(
        self,
        key: Any,
        kernel: Any,
        arguments: tuple[Any, ...],
        constants: dict[str, Any] | None = None,
        shape: tuple[int, int] | None = None,
        exact: Tensor | None = None,
    ) -> Launch:
        """Prepare launches of a kernel, by what a first one takes, and keep them by the key."""
        shape = shape or launch_shape(self._num_envs, self._width)
        grid, constants, options = self._compiled_in(constants or {}, shape)
        given = *examples(kernel, arguments, exact), constants
        name = f"{kernel.fn.__name__} of {self._batch.environment.id}"
        with told(name, functools.partial(target_name, self._device)):
            launch = self._launches[key] = Launch(kernel, grid, *given, self._device, options, _WAY_ROUND)
        return launch


def fixed(kernel: Any) -> int:
    """Return how many of a kernel's arguments stay: those up to the number of environments."""
    return int(kernel.arg_names.index("num_envs")) + 1


def examples(
    kernel: Any, arguments: tuple[Any, ...], exact: Tensor | None = None
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return a kernel's arguments that stay, and examples of the others; of the tensor `exact` alignment counts."""
    first = fixed(kernel)
    return arguments[:first], tuple(one if one is exact else like(one) for one in arguments[first:])


def _acting_form(policy: Tensor | MLP | None) -> Any:
    """Return what rollouts are compiled for of a policy."""
    if not isinstance(policy, MLP):
        return policy if policy is None else (policy.dtype, widths(policy.stride()))
    # Of weights several are loaded at a time, where they may be.
    is_aligned, is_scaled = policy.parameters.data_ptr() % 16 == 0, policy.shift is not None
    return policy.layout, policy.precision, policy.clip, policy.scales_actions, is_scaled, is_aligned


def _environments(batch: Batch) -> tuple[Any, ...]:
    """Return the first arguments of kernels, which are all that stays."""
    tables = (*batch.tables, batch.columns.outside) if batch.tables else None
    return (batch.state, tuple(batch.memory.values()) or None, tables, batch.columns, batch.num_envs)


def reset_arguments(batch: Batch, mask: Tensor, outputs: Outputs) -> tuple[Any, ...]:
    """Return the reset kernel's arguments that are not compiled in."""
    return (*_environments(batch), mask, outputs, written(outputs).strides)


def step_arguments(batch: Batch, actions: Tensor, outputs: Outputs) -> tuple[Any, ...]:
    """Return the step kernel's arguments that are not compiled in."""
    return (*_environments(batch), actions, actions.stride(), outputs, written(outputs).strides)


def rollout_arguments(
    batch: Batch, policy: Tensor | MLP | None, trajectory: Trajectory, outputs: Outputs, num_steps: int
) -> tuple[Any, ...]:
    """Return the rollout kernel's arguments that are not compiled in."""
    shown, stored = (outputs, written(outputs).strides), (trajectory, written(trajectory).strides)
    return (*_environments(batch), *shown, *acting_arguments(policy), *stored, num_steps)


def acting_arguments(policy: Tensor | MLP | None) -> tuple[Any, ...]:
    """Return those of them that choose actions."""
    if isinstance(policy, MLP):
        return policy.parameters, None, policy.shift, policy.scale
    return (None,) * 4 if policy is None else (policy, policy.stride(), None, None)


def draw_arguments(
    batch: Batch,
    network_outputs: Tensor,
    log_std: Tensor | None,
    mask: Tensor | None,
    results: tuple[Tensor, Tensor, Tensor],
) -> tuple[Any, ...]:
    """Return the draw kernel's arguments that are not compiled in."""
    # What is None leaves no trace in a compiled kernel.
    strides = None if mask is None else mask.stride()
    given = (network_outputs, network_outputs.stride(), log_std, mask, strides)
    return (batch.columns, batch.num_envs, *given, *results)


def policy_constants(policy: Tensor | MLP | None) -> dict[str, Any]:
    """Return the rollout kernel's compile-time arguments that depend on the policy."""
    if isinstance(policy, MLP):
        return {"POLICY": rollouts.NETWORK.value, "NET": network_constants(policy)}
    return {"POLICY": (rollouts.RANDOM if policy is None else rollouts.GIVEN).value, "NET": None}
