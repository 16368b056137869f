"""Actions as users give them: a check of what the host knows of them, a report of those that steps refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from operant_gpu.columns import Columns
from operant_gpu.errors import ActionError
from operant_gpu.spaces import ActionLayout


class ActionReader:
    """Turns actions into a tensor on the environment's device, without a copy where memory can be shared.

    Args:
        layout: Shape and kind of one action.
        num_envs: How many environments there are.
        device: Where they live.
    """

    def __init__(self, layout: ActionLayout, num_envs: int, device: torch.device) -> None:
        self._shape = (num_envs, *layout.shape)
        self._dtypes = (torch.int32, torch.int64) if layout.is_discrete else (torch.float32,)
        self._device = device

    def read(self, actions: Any) -> Tensor:
        """Return the actions as a tensor.

        Args:
            actions: A tensor, an array with `__dlpack__`, or on a CPU also a sequence of numbers.

        Raises:
            ActionError: If shape, dtype or device are not those of the environment.
        """
        tensor = actions if isinstance(actions, Tensor) else self._imported(actions)
        if tensor.shape != self._shape or tensor.dtype not in self._dtypes or tensor.device != self._device:
            raise ActionError(self._mismatch(tensor))
        return tensor

    def _imported(self, actions: Any) -> Tensor:
        try:
            if not isinstance(actions, np.ndarray) and hasattr(actions, "__dlpack__"):
                return torch.utils.dlpack.from_dlpack(actions)
            # Python numbers have no width: they take the environment's.
            width = None if self._dtypes[0] is not torch.float32 or isinstance(actions, np.ndarray) else np.float32
            array = np.asarray(actions, width)
            # torch takes neither negative strides nor read-only memory.
            shareable = array.flags.writeable and min(array.strides, default=0) >= 0
            return torch.from_numpy(array if shareable else array.copy())
        except (TypeError, ValueError, RuntimeError, BufferError) as error:
            raise ActionError(f"{self._expectation()}, got {type(actions).__name__}: {error}") from error

    def _expectation(self) -> str:
        dtypes = " or ".join(map(_name, self._dtypes))
        return f"actions must be {dtypes} of shape {self._shape} on {self._device}"

    def _mismatch(self, tensor: Tensor) -> str:
        steps = "actions"
        if tensor.shape != self._shape and tensor.numel() == int(np.prod(self._shape)):
            steps += f".reshape{self._shape}"
        if tensor.dtype not in self._dtypes:
            steps += ".float()" if self._dtypes[0] is torch.float32 else ".long()"
        if tensor.device != self._device:
            steps += ".to(env.device)"
        shape = tuple(tensor.shape)
        hint = f": use {steps}" if steps != "actions" else ": one row per environment"
        return f"{self._expectation()}, got {_name(tensor.dtype)} {shape} on {tensor.device}{hint}"


def raise_refused(columns: Columns, space: Space[Any]) -> None:
    """Raise if steps refused actions since the last call; the counts start again from zero.

    Synchronises with the device.

    Raises:
        ActionError: With the number of such actions and the first environment that got one.
    """
    bad, late = torch.stack([columns.bad_actions.sum(), columns.late_steps.sum()]).tolist()
    if not bad and not late:
        return
    faults = []
    if bad:
        first = int(columns.bad_actions.gt(0).int().argmax())
        faults.append(f"{bad} actions outside {space} or not finite (first in environment {first})")
    if late:
        first = int(columns.late_steps.gt(0).int().argmax())
        faults.append(
            f"{late} steps of ended episodes (first in environment {first}): "
            'call reset(options={"reset_mask": terminated | truncated}) after a step that ends one'
        )
    columns.bad_actions.zero_()
    columns.late_steps.zero_()
    raise ActionError("; ".join(faults) + "; those environments were left as they were for the step")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
