"""The Triton backend: launches the generic kernels on the current CUDA stream, or in Triton's interpreter."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor

from operant_gpu.backends.base import Batch
from operant_gpu.backends.stepwise import StepwiseRollout
from operant_gpu.backends.triton.constants import environment_constants, network_constants
from operant_gpu.backends.triton.launching import INTERPRETED, Repeated, check_compiler, launch
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
# Which of the step kernel's arguments they are.
_ACTIONS = 4


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
        # Of steps that write to the environments' own outputs, by what tells their actions apart; a caller's are not
        # kept alive.
        self._steps: dict[Any, Repeated] = {}

    def reset(self, mask: Tensor, outputs: Outputs) -> None:
        """Begin a new episode where `mask` holds and write every row's observation and action mask."""
        arguments = reset_arguments(self._batch, mask, outputs)
        self._launch(kernels.reset_kernel, arguments, {}, launch_shape(self._num_envs, self._width))

    def step(self, actions: Tensor, outputs: Outputs) -> None:
        """Advance every environment by one action."""
        # All that Triton compiles anew for.
        form = actions.dtype, actions.stride(), actions.data_ptr() % 16 == 0
        if outputs is self._batch.outputs and (known := self._steps.get(form)):
            known(actions)
            return
        arguments, shape = step_arguments(self._batch, actions, outputs), launch_shape(self._num_envs, self._width)
        compiled = self._launch(kernels.step_kernel, arguments, {}, shape)
        if compiled is not None and outputs is self._batch.outputs:
            arguments, grid = (*arguments, self._constants[False], shape[0]), (triton.cdiv(self._num_envs, shape[0]),)
            self._steps[form] = Repeated(
                kernels.step_kernel, compiled, grid, arguments, _ACTIONS, self._device, _WAY_ROUND
            )

    def rollout(self, num_steps: int, policy: Tensor | MLP | None, trajectory: Trajectory, outputs: Outputs) -> None:
        """Take many steps, in one launch unless a network sees boards."""
        if isinstance(policy, MLP) and self._has_boards:
            self._stepwise.run(num_steps, policy, trajectory, outputs)
            return
        if isinstance(policy, MLP) and self._device.type == "cuda":
            check_compiler(torch.cuda.get_device_capability(self._device), triton.__version__)
        arguments = (*rollout_arguments(self._batch, policy, trajectory, outputs), num_steps)
        shape = rollout_shape(self._num_envs, isinstance(policy, MLP), self._width)
        scales_actions = isinstance(policy, MLP) and policy.scales_actions
        constants = {"ENV": self._constants[scales_actions], **policy_constants(policy)}
        self._launch(rollouts.rollout_kernel, arguments, constants, shape)

    def _draw(self, network: MLP, network_outputs: Tensor, outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions as drawn, as the environments take them, and their log-probabilities."""
        layout, device = self._batch.actions, network_outputs.device
        dtype = torch.int64 if layout.is_discrete else torch.float32
        drawn = torch.empty(self._num_envs, *layout.shape, dtype=dtype, device=device)
        log_prob = torch.empty(self._num_envs, dtype=torch.float32, device=device)
        log_std = network.views()[-1] if network.layout.is_gaussian else None
        results = (drawn, torch.empty_like(drawn), log_prob)
        arguments = draw_arguments(self._batch, network_outputs.detach(), log_std, outputs.action_mask, results)
        constants = {"ENV": self._constants[network.scales_actions], "OUTPUTS": network.layout.outputs}
        self._launch(drawing.draw_kernel, arguments, constants, launch_shape(self._num_envs))
        return results

    def _launch(
        self, kernel: Any, arguments: tuple[Any, ...], constants: dict[str, Any], shape: tuple[int, int]
    ) -> Any:
        block, warps = shape
        constants = {"ENV": self._constants[False], **constants, "BLOCK": block}
        grid, options = (triton.cdiv(self._num_envs, block),), {"num_warps": warps, **OPTIONS}
        return launch(kernel, grid, arguments, constants, self._device, options, _WAY_ROUND)


def reset_arguments(batch: Batch, mask: Tensor, outputs: Outputs) -> tuple[Any, ...]:
    """Return the reset kernel's arguments that are not compiled in."""
    return (batch.state, *_given(batch), batch.columns, mask, outputs, *_strides(outputs, 2), batch.num_envs)


def step_arguments(batch: Batch, actions: Tensor, outputs: Outputs) -> tuple[Any, ...]:
    """Return the step kernel's arguments that are not compiled in."""
    action_row, action_column = (*actions.stride(), 0)[:2]
    given = (actions, action_row, action_column)
    return (batch.state, *_given(batch), batch.columns, *given, outputs, *_strides(outputs, 2), batch.num_envs)


def rollout_arguments(
    batch: Batch, policy: Tensor | MLP | None, trajectory: Trajectory, outputs: Outputs
) -> tuple[Any, ...]:
    """Return the rollout kernel's arguments that are not compiled in, but for the last, the number of steps."""
    acting: tuple[Any, ...] = (None,) * 6
    if isinstance(policy, MLP):
        acting = (policy.parameters, None, None, None, policy.shift, policy.scale)
    elif policy is not None:
        acting = (policy, *(*policy.stride(), 0)[:3], None, None)
    stored = (trajectory, *_strides(trajectory, 3))
    return (
        batch.state,
        *_given(batch),
        batch.columns,
        *acting,
        *stored,
        outputs,
        *_strides(outputs, 2),
        batch.num_envs,
    )


def draw_arguments(
    batch: Batch,
    network_outputs: Tensor,
    log_std: Tensor | None,
    mask: Tensor | None,
    results: tuple[Tensor, Tensor, Tensor],
) -> tuple[Any, ...]:
    """Return the draw kernel's arguments that are not compiled in."""
    # What is None leaves no trace in a compiled kernel.
    strides = (None, None) if mask is None else mask.stride()
    given = (network_outputs, *network_outputs.stride(), log_std, mask, *strides)
    return (batch.columns, *given, *results, batch.num_envs)


def policy_constants(policy: Tensor | MLP | None) -> dict[str, Any]:
    """Return the rollout kernel's compile-time arguments that depend on the policy."""
    if isinstance(policy, MLP):
        return {"POLICY": rollouts.NETWORK.value, "NET": network_constants(policy)}
    return {"POLICY": (rollouts.RANDOM if policy is None else rollouts.GIVEN).value, "NET": None}


def _given(batch: Batch) -> tuple[Any, ...]:
    """Return the parameters in memory and the tables, None where there are none."""
    tables = (*batch.tables, batch.columns.outside) if batch.tables else None
    return tuple(batch.memory.values()) or None, tables


def _strides(tensors: Any, axes: int) -> tuple[Any, ...]:
    """Return the strides of a NamedTuple of tensors in elements, a NamedTuple for each axis; 0 beyond the last one."""
    zeros = (0,) * axes
    strides = [(None,) * axes if tensor is None else (*tensor.stride(), *zeros)[:axes] for tensor in tensors]
    return tuple(map(tensors._make, zip(*strides)))
