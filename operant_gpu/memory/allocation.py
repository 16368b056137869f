"""Allocation of a batch's tensors, and their exposure as torch, NumPy or CuPy arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from operant_gpu.environment import ColumnType, Definition
from operant_gpu.errors import InvalidConfig, needed, whole
from operant_gpu.memory.columns import COLUMN_DTYPES, Columns, Outputs
from operant_gpu.spaces import ObservationLayout

_MAX_ENVS = 2**31 - 1
# Reward and two flags; the environment's id and two masks.
_OTHER_BYTES = 12


def check_num_envs(num_envs: Any, bytes_each: int, device: torch.device) -> int:
    """Return `num_envs` if it is a number of environments that fits into the device's memory."""
    count = whole("num_envs", num_envs, 1, _MAX_ENVS, " (ids have 32 bits)")
    # Arrays have room for as many at the least.
    needed, present = max(count, array_stride(1)) * bytes_each, memory_of(device)
    if present is not None and needed > present:
        fits = present // bytes_each if present >= array_stride(1) * bytes_each else 0
        raise InvalidConfig(
            "num_envs",
            f"{count} environments of {bytes_each} bytes need {needed / 2**30:.1f} GiB, {device} has "
            f"{present / 2**30:.1f} GiB for them: at most {fits} fit",
        )
    return count


def memory_of(device: torch.device) -> int | None:
    """Return the bytes of memory that a device has to give, or None if nobody knows."""
    if device.type == "cuda":
        # What torch has cached of memory that nobody uses counts as free.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        # Not every system tells; the allocation itself will.
        return None


def bytes_per_env(environment: Definition, obs: ObservationLayout, mask_size: int = 0) -> int:
    """Return the memory of one environment: state, columns and outputs with two observations."""
    state = sum(column.size * column.dtype.itemsize for column in environment.column_types().values())
    columns = sum(dtype.itemsize for dtype in COLUMN_DTYPES.values())
    return state + columns + 2 * obs.size * obs.dtype.itemsize + mask_size + _OTHER_BYTES


def array_stride(num_envs: int) -> int:
    """Return how far apart the numbers of an array lie in memory: an odd number of lines of the cache.

    Powers of two would put all of an environment's numbers into the same few places of it.
    """
    return 64 * (-(-num_envs // 64) | 1)


def allocate_state(environment: Definition, num_envs: int, device: torch.device) -> Any:
    """Return a `State` of zeroed tensors (num_envs, *shape); arrays are stored number by number."""

    def zeros(column: ColumnType) -> Tensor:
        dtype = torch.from_numpy(np.empty(0, column.dtype)).dtype
        stride = array_stride(num_envs) if column.shape else num_envs
        return torch.zeros(*column.shape, stride, dtype=dtype, device=device)[..., :num_envs].movedim(-1, 0)

    return environment.state(*map(zeros, environment.column_types().values()))


def allocate_columns(num_envs: int, device: torch.device, first_env_id: int) -> Columns:
    """Return the library's columns as they are before the first reset."""
    columns = Columns(
        **{name: torch.zeros(num_envs, dtype=dtype, device=device) for name, dtype in COLUMN_DTYPES.items()}
    )
    columns.env_id.copy_(torch.arange(first_env_id, first_env_id + num_envs, device=device))
    columns.episode.fill_(-1)
    return columns


def allocate_outputs(
    num_envs: int,
    obs: ObservationLayout,
    device: torch.device,
    *,
    separate_final_obs: bool,
    by_component: bool,
    mask_size: int = 0,
) -> Outputs:
    """Return the outputs of a step. Action masks are stored component by component, observations where so wished."""

    def observations() -> Tensor:
        shape = (obs.size, num_envs) if by_component else (num_envs, obs.size)
        zeros = torch.zeros(shape, dtype=obs.torch_dtype, device=device)
        return zeros.T if by_component else zeros

    present = observations()
    action_mask = torch.zeros(mask_size, num_envs, dtype=torch.bool, device=device).T if mask_size else None
    return Outputs(
        obs=present,
        final_obs=observations() if separate_final_obs else present,
        reward=torch.zeros(num_envs, dtype=torch.float32, device=device),
        terminated=torch.zeros(num_envs, dtype=torch.bool, device=device),
        truncated=torch.zeros(num_envs, dtype=torch.bool, device=device),
        action_mask=action_mask,
    )


def redirected(outputs: Outputs, out: Mapping[str, Any], shape: tuple[int, ...]) -> Outputs:
    """Return `outputs` with the caller's tensors in place of those named in `out`.

    Args:
        outputs: The environment's own.
        out: Tensors by name; observations of shape (num_envs, *shape) and action masks with any strides.
        shape: Shape of one observation.

    Raises:
        InvalidConfig: If a name is unknown or a tensor does not fit.
    """
    shared = outputs.final_obs is outputs.obs
    present = [name for name, own in outputs._asdict().items() if own is not None]
    replaced = {}
    for name, given in out.items():
        if name not in present:
            raise InvalidConfig("out", f"unknown output {name!r}: expected some of {', '.join(present)}")
        if name == "final_obs" and shared:
            raise InvalidConfig("out", "final_obs is obs itself in this auto-reset mode: leave it out")
        own = getattr(outputs, name)
        expected = (own.shape[0], *shape) if name in ("obs", "final_obs") else tuple(own.shape)
        if not isinstance(given, Tensor):
            raise InvalidConfig("out", f"{name} must be a torch.Tensor, got {type(given).__name__}")
        if given.shape != expected or given.dtype != own.dtype or given.device != own.device:
            raise InvalidConfig(
                "out",
                f"{name} must be {own.dtype} of shape {expected} on {own.device}, "
                f"got {given.dtype} {tuple(given.shape)} on {given.device}",
            )
        if own.ndim == 1 and given.stride(0) != 1 and len(given) > 1:
            message = f"{name} must be contiguous, got stride {given.stride(0)}: put the environments last, out[t]"
            raise InvalidConfig("out", message)
        replaced[name] = given if given.shape == own.shape else _flattened(name, given, own.shape)
    if "final_obs" in replaced and replaced["final_obs"].data_ptr() == replaced.get("obs", outputs.obs).data_ptr():
        raise InvalidConfig("out", "obs and final_obs are the same memory: after a reset they differ")
    if shared and "obs" in replaced:
        replaced["final_obs"] = replaced["obs"]
    return outputs._replace(**replaced)


def _flattened(name: str, given: Tensor, shape: torch.Size) -> Tensor:
    try:
        return given.view(shape)
    except RuntimeError as error:
        message = f"the components of {name} must be evenly spaced in memory, got strides {given.stride()}"
        raise InvalidConfig("out", message) from error


def unflattened(obs: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return flat observations (num_envs, size) as (num_envs, *shape), in the same memory."""
    if len(shape) == 1:
        return obs
    return obs.view(obs.shape[0], *shape) if shape else obs[:, 0]


def exporter(output: str, device: torch.device) -> Callable[[Tensor], Any]:
    """Return the function that exposes a tensor's memory as the library of `output` has it.

    Raises:
        InvalidConfig: If the name is unknown or cannot see this device's memory.
        BackendError: If CuPy is missing.
    """
    if output == "torch":
        return lambda tensor: tensor
    if output == "numpy":
        if device.type != "cpu":
            raise InvalidConfig("output", f"'numpy' needs device='cpu', got {device}: use 'torch' or 'cupy'")
        return lambda tensor: tensor.numpy()
    if output == "cupy":
        return _cupy_exporter(device)
    raise InvalidConfig("output", f"expected 'torch', 'numpy' or 'cupy', got {output!r}")


def _cupy_exporter(device: torch.device) -> Callable[[Tensor], Any]:
    if device.type != "cuda":
        raise InvalidConfig("output", f"'cupy' needs a CUDA device, got {device}: use 'torch' or 'numpy'")
    cupy = needed("output='cupy'", "cupy")
    return lambda tensor: cupy.from_dlpack(tensor)
