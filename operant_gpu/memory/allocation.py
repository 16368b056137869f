"""Allocation of a batch's tensors, and their exposure as torch, NumPy or CuPy arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from operant_gpu.environment import Definition
from operant_gpu.errors import InvalidConfig, needed, one_of, whole
from operant_gpu.fields import ColumnType
from operant_gpu.memory.columns import COLUMN_DTYPES, USUAL_COLUMNS, Columns
from operant_gpu.metrics import Row
from operant_gpu.spaces import ObservationLayout
from operant_gpu.tensors import torch_dtype

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


def bytes_per_env(environment: Definition, params: Any, obs: ObservationLayout, mask_size: int = 0) -> int:
    """Return the memory of one environment: state, columns and outputs with two observations."""
    state = sum(column.size * column.dtype.itemsize for column in environment.column_types(params).values())
    columns = sum(COLUMN_DTYPES[name].itemsize for name in USUAL_COLUMNS)
    columns += 2 * COLUMN_DTYPES["metrics"].itemsize * len(environment.metric_rows)
    return state + columns + 2 * obs.size * obs.dtype.itemsize + mask_size + _OTHER_BYTES


def array_stride(num_envs: int) -> int:
    """Return how far apart the numbers of an array lie in memory: an odd number of lines of the cache.

    Powers of two would put all of an environment's numbers into the same few places of it.
    """
    return 64 * (-(-num_envs // 64) | 1)


def allocate_state(environment: Definition, params: Any, num_envs: int, device: torch.device) -> Any:
    """Return a `State` of zeroed tensors (num_envs, *shape); arrays are stored number by number."""

    def zeros(column: ColumnType) -> Tensor:
        dtype = torch_dtype(column.dtype)
        stride = array_stride(num_envs) if column.shape else num_envs
        return torch.zeros(*column.shape, stride, dtype=dtype, device=device)[..., :num_envs].movedim(-1, 0)

    return environment.state(*map(zeros, environment.column_types(params).values()))


def allocate_columns(
    num_envs: int, device: torch.device, first_env_id: int, metrics: Sequence[Row] = (), notes: bool = False
) -> Columns:
    """Return the library's columns as they are before the first reset.

    Args:
        num_envs: How many environments there are.
        device: Where they live.
        first_env_id: Id of the first one.
        metrics: What lies in memory of their metrics.
        notes: Whether indices beyond tables are noted.
    """
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(USUAL_COLUMNS, (num_envs,))
    shapes |= dict.fromkeys(("metrics", "log_metrics"), (len(metrics), num_envs)) if metrics else {}
    shapes |= {"outside": (num_envs,)} if notes else {}
    columns = Columns(
        **{name: torch.zeros(shape, dtype=COLUMN_DTYPES[name], device=device) for name, shape in shapes.items()}
    )
    if columns.metrics is not None:
        columns.metrics.copy_(torch.tensor([[row.start] for row in metrics], dtype=torch.float64, device=device))
    columns.env_id.copy_(torch.arange(first_env_id, first_env_id + num_envs, device=device))
    columns.episode.fill_(-1)
    return columns


def unflattened(obs: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return flat observations (num_envs, size) as (num_envs, *shape), in the same memory."""
    if len(shape) == 1:
        return obs
    return obs.view(obs.shape[0], *shape) if shape else obs[:, 0]


def exporter(output: str, device: torch.device) -> tuple[str, Callable[[Tensor], Any]]:
    """Return the name of the library that `output` means, and the function that exposes a tensor's memory as it does.

    Raises:
        InvalidConfig: If the name is unknown or cannot see this device's memory.
        BackendError: If CuPy is missing.
    """
    output = one_of("output", output, ("torch", "numpy", "cupy"))
    if output == "torch":
        return output, lambda tensor: tensor
    if output == "cupy":
        return output, _cupy_exporter(device)
    if device.type != "cpu":
        raise InvalidConfig("output", f"'numpy' needs device='cpu', got {device}: use 'torch' or 'cupy'")
    return output, lambda tensor: tensor.numpy()


def _cupy_exporter(device: torch.device) -> Callable[[Tensor], Any]:
    if device.type != "cuda":
        raise InvalidConfig("output", f"'cupy' needs a CUDA device, got {device}: use 'torch' or 'numpy'")
    cupy = needed("output='cupy'", "cupy")
    return lambda tensor: cupy.from_dlpack(tensor)
