"""What a rollout stores, and where: the outputs of many steps, time first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from operant_gpu.errors import InvalidConfig
from operant_gpu.memory.allocation import memory_of
from operant_gpu.spaces import ActionLayout, ObservationLayout

# What only a network can give.
NETWORK_OUTPUTS = ("log_prob", "value", "final_value")


class Trajectory(NamedTuple):
    """Storage of `num_steps` steps, with any stride in time; None is not stored.

    Observations, action masks and actions are (num_steps, num_envs, size), with any strides, actions of Discrete
    (num_steps, num_envs). The rest is (num_steps, num_envs), with contiguous rows.
    """

    obs: Tensor | None = None  # what the policy saw
    action_mask: Tensor | None = None  # bool, likewise
    action: Tensor | None = None  # int64, int32 or float32, as the policy drew it
    log_prob: Tensor | None = None  # float32, of that action
    value: Tensor | None = None  # float32, of `obs`
    reward: Tensor | None = None  # float32
    terminated: Tensor | None = None  # bool
    truncated: Tensor | None = None  # bool
    final_obs: Tensor | None = None  # after the step and before a reset of SAME_STEP
    final_value: Tensor | None = None  # float32, of `final_obs` where it is to be bootstrapped from, else 0


class _Kind(NamedTuple):
    """Shape of one environment's entry, and the dtypes it may have, the default first."""

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]


class Storage:
    """Makes and checks the tensors that rollouts of one `VecEnv` write.

    Args:
        num_envs: How many environments there are.
        device: Where they live.
        obs: Shape and dtype of one observation.
        actions: Shape and kind of one action.
        mask_size: How many conditions an action mask has; 0 if there is none.
        by_component: Whether the environments store observations so.
    """

    def __init__(
        self,
        num_envs: int,
        device: torch.device,
        obs: ObservationLayout,
        actions: ActionLayout,
        mask_size: int,
        by_component: bool,
    ) -> None:
        self._num_envs, self._device = num_envs, device
        self._by_component = {"obs": by_component, "final_obs": by_component, "action_mask": True}
        integers, real, flag = (torch.int64, torch.int32), (torch.float32,), (torch.bool,)
        kinds = dict.fromkeys(Trajectory._fields, _Kind((), real))
        kinds |= dict.fromkeys(("obs", "final_obs"), _Kind(obs.shape, (obs.torch_dtype,)))
        kinds |= dict.fromkeys(("terminated", "truncated"), _Kind((), flag))
        kinds["action"] = _Kind(actions.shape, integers if actions.is_discrete else real)
        kinds["action_mask"] = _Kind((mask_size,), flag)
        self._kinds = kinds if mask_size else {name: kind for name, kind in kinds.items() if name != "action_mask"}

    def tensors(self, out: Mapping[str, Any] | Iterable[str], num_steps: int, has_network: bool) -> dict[str, Tensor]:
        """Return the tensors to write, by name: the caller's, or fresh ones for names alone.

        Raises:
            InvalidConfig: If a name is unknown, needs a network that there is not, or a tensor does not fit.
        """
        if not isinstance(out, Iterable) or isinstance(out, Tensor):
            raise InvalidConfig("out", f"expected names, or tensors by name, got {out!r}")
        names = (out,) if isinstance(out, str) else tuple(out)
        for name in names:
            if not isinstance(name, str) or name not in self._kinds:
                found = f"{name!r}" if isinstance(name, str) else f"of type {type(name).__name__}"
                raise InvalidConfig("out", f"unknown output {found}: expected some of {', '.join(self._kinds)}")
            if name in NETWORK_OUTPUTS and not has_network:
                raise InvalidConfig("out", f"{name} comes from a network: give an MLPPolicy, or leave {name} out")
        if isinstance(out, Mapping):
            for name in names:
                self._check(name, out[name], num_steps)
            _check_apart(out)
            return {name: out[name] for name in names}
        self._check_memory(names, num_steps)
        return {name: self._allocate(name, num_steps) for name in names}

    def trajectory(self, tensors: Mapping[str, Tensor]) -> Trajectory:
        """Return the tensors as backends take them: entries flat, or without an axis of their own."""
        return Trajectory(**{name: self._flat(name, tensor.detach()) for name, tensor in tensors.items()})

    def _allocate(self, name: str, num_steps: int) -> Tensor:
        kind = self._kinds[name]
        lead = (num_steps, self._num_envs)
        if not self._by_component.get(name):
            return torch.empty(*lead, *kind.shape, dtype=kind.dtypes[0], device=self._device)
        flat = torch.empty(num_steps, math.prod(kind.shape), self._num_envs, dtype=kind.dtypes[0], device=self._device)
        return flat.transpose(1, 2).view(*lead, *kind.shape)

    def _check_memory(self, names: Iterable[str], num_steps: int) -> None:
        kinds = [self._kinds[name] for name in names]
        bytes_each = sum(math.prod(kind.shape) * kind.dtypes[0].itemsize for kind in kinds)
        needed, present = num_steps * self._num_envs * bytes_each, memory_of(self._device)
        if present is not None and needed > present:
            fits = present // (self._num_envs * bytes_each)
            raise InvalidConfig(
                "num_steps",
                f"{num_steps} steps of {self._num_envs} environments need {needed / 2**30:.1f} GiB to store, "
                f"{self._device} has {present / 2**30:.1f} GiB: at most {fits} fit; name fewer outputs in out",
            )

    def _check(self, name: str, given: Any, num_steps: int) -> None:
        kind = self._kinds[name]
        shape = (num_steps, self._num_envs, *kind.shape)
        if not isinstance(given, Tensor):
            raise InvalidConfig("out", f"{name} must be a torch.Tensor, got {type(given).__name__}")
        if given.shape != shape or given.dtype not in kind.dtypes or given.device != self._device:
            raise InvalidConfig(
                "out",
                f"{name} must be {' or '.join(map(str, kind.dtypes))} of shape {shape} on {self._device}, "
                f"got {given.dtype} {tuple(given.shape)} on {given.device}",
            )
        if any(size > 1 and stride == 0 for size, stride in zip(given.shape, given.stride(), strict=True)):
            raise InvalidConfig("out", f"{name} has its elements in the same memory, got strides {given.stride()}")
        if given.ndim == 2 and name != "action" and given.stride(1) != 1 and self._num_envs > 1:
            message = f"the rows of {name} must be contiguous, got strides {given.stride()}: put the environments last"
            raise InvalidConfig("out", message)

    def _flat(self, name: str, tensor: Tensor) -> Tensor:
        shape = self._kinds[name].shape
        if name == "action" or len(shape) == 1 or (tensor.ndim == 2 and name not in ("obs", "final_obs")):
            return tensor
        try:
            return tensor.view(*tensor.shape[:2], math.prod(shape))
        except RuntimeError as error:
            message = f"the components of {name} must be evenly spaced in memory, got strides {tensor.stride()}"
            raise InvalidConfig("out", message) from error


def _check_apart(out: Mapping[str, Tensor]) -> None:
    owners: dict[int, str] = {}
    for name, tensor in out.items():
        other = owners.setdefault(tensor.data_ptr(), name)
        if other != name:
            raise InvalidConfig("out", f"{other} and {name} are the same memory: give each its own")
