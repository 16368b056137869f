"""The Triton backend: launches the generic kernels on the current CUDA stream, or in Triton's interpreter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
from gymnasium.vector import AutoresetMode
from torch import Tensor

from operant_gpu.backends.base import Batch
from operant_gpu.columns import Outputs
from operant_gpu.kernels import step as kernels
from operant_gpu.random import Rng

_MODES = {
    AutoresetMode.SAME_STEP: kernels.SAME_STEP.value,
    AutoresetMode.NEXT_STEP: kernels.NEXT_STEP.value,
    AutoresetMode.DISABLED: kernels.DISABLED.value,
}

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


def launch_shape(num_envs: int) -> tuple[int, int]:
    """Return (environments per program, warps per program).

    One environment a thread: more would spill registers in the larger environments. Small batches are cut finer, so
    that every multiprocessor gets a program. The interpreter pays for each program, so there one takes all.
    """
    if INTERPRETED:
        return triton.next_power_of_2(num_envs), 4
    if num_envs <= 32_768:
        return 64, 2
    return 128, 4


class TritonBackend:
    """Implements `Backend` with one kernel launch a call, and no synchronisation."""

    def __init__(self, batch: Batch) -> None:
        self._state, self._columns, self._num_envs = batch.state, batch.columns, batch.num_envs
        block, warps = launch_shape(batch.num_envs)
        self._grid = (triton.cdiv(batch.num_envs, block),)
        self._reset_constants = reset_constants(batch) | {"BLOCK": block}
        self._step_constants = step_constants(batch) | {"BLOCK": block}
        # Fused multiply-add would round differently in each kernel and backend.
        self._options = {} if INTERPRETED else {"num_warps": warps, "enable_fp_fusion": False}
        device = batch.columns.seed.device
        self._device = torch.cuda.device(device) if device.type == "cuda" else None

    def reset(self, mask: Tensor, outputs: Outputs) -> None:
        """Begin a new episode where `mask` holds and write every row's observation and action mask."""
        obs, action_mask = outputs.obs, outputs.action_mask
        strides = (*obs.stride(), *_strides(action_mask))
        arguments = (self._state, self._columns, mask, obs, action_mask, *strides, self._num_envs)
        self._launch(kernels.reset_kernel, arguments, self._reset_constants)

    def step(self, actions: Tensor, outputs: Outputs) -> None:
        """Advance every environment by one action."""
        action_row, action_column = (*actions.stride(), 0)[:2]
        arguments = (self._state, self._columns, actions, action_row, action_column)
        strides = (*outputs.obs.stride(), *outputs.final_obs.stride(), *_strides(outputs.action_mask))
        self._launch(kernels.step_kernel, (*arguments, outputs, *strides, self._num_envs), self._step_constants)

    def _launch(self, kernel: Any, arguments: tuple[Any, ...], constants: dict[str, Any]) -> None:
        if self._device is None:
            # The interpreter is NumPy, which warns of what the rows beyond the last one compute from zeros.
            with np.errstate(all="ignore"):
                kernel[self._grid](*arguments, **constants)
        else:
            with self._device:
                kernel[self._grid](*arguments, **constants, **self._options)


def _strides(action_mask: Tensor | None) -> tuple[int | None, int | None]:
    """Return the mask's strides, or what leaves no trace in a compiled kernel."""
    return (None, None) if action_mask is None else (action_mask.stride(0), action_mask.stride(1))


def reset_constants(batch: Batch) -> dict[str, Any]:
    """Return the compile-time arguments of the reset kernel, BLOCK apart."""
    environment = batch.environment
    return {
        "STATE": Maker(environment.state),
        "RNG": Maker(Rng),
        "PARAMS": batch.params,
        "RESET": environment.reset,
        "OBSERVE": environment.observe,
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
