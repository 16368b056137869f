"""The Triton backend: launches the generic kernels on the current CUDA stream, or in Triton's interpreter."""

from __future__ import annotations

import functools
import itertools
import math
import subprocess
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
from gymnasium.vector import AutoresetMode
from torch import Tensor
from triton.errors import TritonError

from operant_gpu.backends.base import Batch
from operant_gpu.backends.failures import failure
from operant_gpu.backends.stepwise import StepwiseRollout
from operant_gpu.errors import BackendError
from operant_gpu.kernels.triton import blocks
from operant_gpu.kernels.triton import draw as drawing
from operant_gpu.kernels.triton import rollout as rollouts
from operant_gpu.kernels.triton import step as kernels
from operant_gpu.memory.columns import Outputs
from operant_gpu.memory.trajectory import Trajectory
from operant_gpu.mlp import MAX_WIDTH, MLP
from operant_gpu.random import Rng

_MODES = {
    AutoresetMode.SAME_STEP: blocks.SAME_STEP.value,
    AutoresetMode.NEXT_STEP: blocks.NEXT_STEP.value,
    AutoresetMode.DISABLED: blocks.DISABLED.value,
}

# Fused multiply-add would round differently in each kernel and backend. With more than one stage, several copies of a
# network's weights would have to fit on the chip.
OPTIONS = {"enable_fp_fusion": False, "num_stages": 1}

# How Triton, its compilers and the driver say that they cannot.
REFUSALS = (RuntimeError, TritonError, subprocess.SubprocessError, OSError)

# Whether TRITON_INTERPRET was set when the kernels were decorated: they then run on the CPU.
INTERPRETED = not isinstance(kernels.step_kernel, triton.JITFunction)


@dataclass(frozen=True)
class Maker:
    """A NamedTuple class that a kernel calls.

    Triton's launcher takes the bare class, as a compile-time constant, for a tuple of values and iterates over it.
    """

    cls: type[Any]

    def __call__(self, *fields: Any) -> Any:
        """Make a NamedTuple of blocks."""
        return self.cls(*fields)


def launch_shape(num_envs: int, width: int = 1) -> tuple[int, int]:
    """Return (environments per program, warps per program), where the widest block has `width` cells.

    One environment a thread: more would spill registers in the larger environments. Arrays have 16 cells a thread, for
    the same reason. Small batches are cut finer, so that every multiprocessor gets a program. The interpreter pays for
    each program, so there one takes all.
    """
    if INTERPRETED:
        return triton.next_power_of_2(num_envs), 4
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
        return max(16, triton.next_power_of_2(num_envs)), 4
    if width > 1:
        return _array_shape(width)
    return (64, 4) if network else (32, 1)


class TritonBackend:
    """Implements `Backend` with one kernel launch a call, and no synchronisation."""

    def __init__(self, batch: Batch) -> None:
        self._state, self._columns, self._num_envs = batch.state, batch.columns, batch.num_envs
        self._reset_constants, self._step_constants = reset_constants(batch), step_constants(batch)
        self._rollout_constants = rollout_constants(batch)
        self._width, self._batch = batch.trial.width, batch
        # Too much to hold in a program beside the layers of a network: PyTorch evaluates it, step by step.
        self._has_boards = self._width > 1 or batch.observations.size > MAX_WIDTH
        self._stepwise = StepwiseRollout(self, batch, self._draw)
        device = batch.columns.seed.device
        self._device = torch.cuda.device(device) if device.type == "cuda" else None

    def reset(self, mask: Tensor, outputs: Outputs) -> None:
        """Begin a new episode where `mask` holds and write every row's observation and action mask."""
        obs, action_mask = outputs.obs, outputs.action_mask
        strides = (*obs.stride(), *_strides(action_mask))
        arguments = (self._state, self._columns, mask, obs, action_mask, *strides, self._num_envs)
        self._launch(kernels.reset_kernel, arguments, self._reset_constants, self._launch_shape())

    def step(self, actions: Tensor, outputs: Outputs) -> None:
        """Advance every environment by one action."""
        action_row, action_column = (*actions.stride(), 0)[:2]
        arguments = (self._state, self._columns, actions, action_row, action_column)
        strides = (*outputs.obs.stride(), *outputs.final_obs.stride(), *_strides(outputs.action_mask))
        arguments = (*arguments, outputs, *strides, self._num_envs)
        self._launch(kernels.step_kernel, arguments, self._step_constants, self._launch_shape())

    def rollout(self, num_steps: int, policy: Tensor | MLP | None, trajectory: Trajectory, outputs: Outputs) -> None:
        """Take many steps, in one launch unless a network sees boards."""
        if isinstance(policy, MLP) and self._has_boards:
            self._stepwise.run(num_steps, policy, trajectory, outputs)
            return
        if isinstance(policy, MLP) and self._device is not None:
            check_compiler(torch.cuda.get_device_capability(self._device.idx), triton.__version__)
        present = (outputs.obs, *outputs.obs.stride(), outputs.action_mask, *_strides(outputs.action_mask))
        arguments = (self._state, self._columns, *policy_arguments(policy), *stored_arguments(trajectory), *present)
        shape = rollout_shape(self._num_envs, isinstance(policy, MLP), self._width)
        constants = self._rollout_constants | policy_constants(policy)
        self._launch(rollouts.rollout_kernel, (*arguments, self._num_envs, num_steps), constants, shape)

    def _draw(self, network: MLP, network_outputs: Tensor, outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions as drawn, as the environments take them, and their log-probabilities."""
        layout, device = self._batch.actions, network_outputs.device
        dtype = torch.int64 if layout.is_discrete else torch.float32
        drawn = torch.empty(self._num_envs, *layout.shape, dtype=dtype, device=device)
        taken = torch.empty_like(drawn)
        log_prob = torch.empty(self._num_envs, dtype=torch.float32, device=device)
        log_std = network.views()[-1] if network.layout.is_gaussian else None
        given = (network_outputs.detach(), *network_outputs.stride(), log_std)
        given = (*given, outputs.action_mask, *_strides(outputs.action_mask))
        arguments = (self._columns, *given, drawn, taken, log_prob, self._num_envs)
        constants = draw_constants(self._batch, network.layout.outputs)
        self._launch(drawing.draw_kernel, arguments, constants, launch_shape(self._num_envs))
        return drawn, taken, log_prob

    def _launch_shape(self) -> tuple[int, int]:
        return launch_shape(self._num_envs, self._width)

    def _launch(
        self, kernel: Any, arguments: tuple[Any, ...], constants: dict[str, Any], shape: tuple[int, int]
    ) -> None:
        block, warps = shape
        launched = kernel[(triton.cdiv(self._num_envs, block),)]
        if self._device is None:
            # The interpreter is NumPy, which warns of what the rows beyond the last one compute from zeros.
            with np.errstate(all="ignore"):
                launched(*arguments, **constants, BLOCK=block)
        else:
            try:
                with self._device:
                    launched(*arguments, **constants, BLOCK=block, num_warps=warps, **OPTIONS)
            except REFUSALS as error:
                device = torch.device("cuda", self._device.idx)
                raise failure(kernel.fn.__name__, device, error, "use device='cpu'") from error


@functools.cache
def check_compiler(capability: tuple[int, int], version: str) -> None:
    """Raise `BackendError` where Triton miscompiles networks: up to 3.7 at the least, for compute capability 10."""
    if capability[0] == 10 and tuple(map(int, version.split(".")[:2])) < (3, 9):
        raise BackendError(
            "networks in rollouts on a device of compute capability 10 need Triton 3.9 or newer, "
            f"found {version}: pip install 'triton>=3.9'"
        )


def policy_arguments(policy: Tensor | MLP | None) -> tuple[Any, ...]:
    """Return a rollout kernel's arguments from `policy_ptr` to `scale_ptr`."""
    if isinstance(policy, MLP):
        return policy.parameters, None, None, None, policy.shift, policy.scale
    if policy is None:
        return (None,) * 6
    return policy, *(*policy.stride(), 0)[:3], None, None


def stored_arguments(trajectory: Trajectory) -> tuple[Trajectory, ...]:
    """Return a rollout kernel's arguments from `trajectory` to `by_column`: pointers, and strides for each axis."""

    def strides(axis: int) -> Trajectory:
        return Trajectory._make(None if tensor is None else (*tensor.stride(), 0)[axis] for tensor in trajectory)

    return trajectory, strides(0), strides(1), strides(2)


def _strides(action_mask: Tensor | None) -> tuple[int | None, int | None]:
    """Return the mask's strides, or what leaves no trace in a compiled kernel."""
    return (None, None) if action_mask is None else (action_mask.stride(0), action_mask.stride(1))


def reset_constants(batch: Batch) -> dict[str, Any]:
    """Return the compile-time arguments of the reset kernel, BLOCK apart."""
    environment = batch.environment
    return {
        "STATE": Maker(environment.state),
        "ARRAYS": tuple(column.size if column.shape else 0 for column in environment.column_types().values()),
        "RNG": Maker(Rng),
        "PARAMS": batch.params,
        "RESET": environment.reset,
        "OBSERVE": environment.observe,
        "OBS_SIZE": batch.observations.size,
        "ACTION_MASK": environment.action_mask,
    }


def step_constants(batch: Batch) -> dict[str, Any]:
    """Return the compile-time arguments of the step kernel, BLOCK apart."""
    layout = batch.actions
    return reset_constants(batch) | {
        "STEP": batch.environment.step,
        "LOW": layout.low,
        "HIGH": layout.high,
        "SIZE": layout.size,
        "SCALAR": layout.shape == (),
        "LIMIT": batch.max_episode_steps,
        "MODE": _MODES[batch.autoreset_mode],
    }


def rollout_constants(batch: Batch) -> dict[str, Any]:
    """Return the compile-time arguments of the rollout kernel, those of the policy and BLOCK apart."""
    layout = batch.actions
    return step_constants(batch) | {
        "BOX_LOW": layout.box_low,
        "BOX_HIGH": layout.box_high,
        "FIRST": layout.first_choices,
    }


def draw_constants(batch: Batch, outputs: int) -> dict[str, Any]:
    """Return the compile-time arguments of the draw kernel, BLOCK apart, for a network with so many outputs."""
    names = ("RNG", "LOW", "HIGH", "BOX_LOW", "BOX_HIGH", "FIRST", "SIZE", "MODE")
    constants = rollout_constants(batch)
    return {name: constants[name] for name in names} | {"OUTPUTS": outputs}


def policy_constants(policy: Tensor | MLP | None) -> dict[str, Any]:
    """Return those that depend on the policy; of those that describe a network, None where there is none."""
    names = ("OFFSETS", "SIZES", "PADS", "OUTPUTS", "OUT_PAD", "SHARED", "ACTIVATION", "PRECISION", "CLIP")
    if not isinstance(policy, MLP):
        return {"POLICY": (rollouts.RANDOM if policy is None else rollouts.GIVEN).value, **dict.fromkeys(names)}
    layout = policy.layout
    sizes = (layout.inputs, *layout.hidden_sizes)
    lengths = [math.prod(shape) for shape in layout.shapes]
    values = (
        tuple(itertools.accumulate(lengths, initial=0)),
        sizes,
        tuple(map(padded, sizes)),
        layout.outputs,
        padded(layout.outputs),
        layout.shared_trunk or not layout.hidden_sizes,
        layout.activation,
        policy.precision,
        float(policy.clip),
    )
    return {"POLICY": rollouts.NETWORK.value, **dict(zip(names, values, strict=True))}


def padded(size: int) -> int:
    """Return the width of a block for so many columns."""
    # What a product of blocks takes at the least.
    return max(16, int(triton.next_power_of_2(size)))
