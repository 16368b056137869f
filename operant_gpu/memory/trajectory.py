"""What steps and rollouts write, and where: the outputs of one step, or of many, time first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from operant_gpu.errors import InvalidConfig, mapping
from operant_gpu.memory.allocation import memory_of
from operant_gpu.memory.columns import Outputs
from operant_gpu.spaces import ActionLayout, ObservationLayout

_OBSERVATIONS = ("obs", "final_obs")
_ACTIONS = ("action", "policy_action")
# What may lie in memory with any strides; the rest is one number each, side by side.
_STRIDED = (*_OBSERVATIONS, *_ACTIONS, "action_mask")
# What only a network can give.
NETWORK_OUTPUTS = ("policy_action", "log_prob", "value", "final_value")


class Trajectory(NamedTuple):
    """Storage of `num_steps` steps, with any stride in time; None is not stored.

    Observations, action masks and actions are (num_steps, num_envs, size), with any strides, actions of Discrete
    (num_steps, num_envs). The rest is (num_steps, num_envs), with contiguous rows.
    """

    obs: Tensor | None = None  # what the policy saw
    action_mask: Tensor | None = None  # bool, likewise
    action: Tensor | None = None  # int64, int32 or float32, as the environment got it
    policy_action: Tensor | None = None  # likewise, as a network drew it, in units of its own
    log_prob: Tensor | None = None  # float32, of that
    value: Tensor | None = None  # float32, of `obs`
    reward: Tensor | None = None  # float32
    terminated: Tensor | None = None  # bool
    truncated: Tensor | None = None  # bool
    final_obs: Tensor | None = None  # after the step and before a reset of SAME_STEP
    final_value: Tensor | None = None  # float32, of `final_obs` where it is to be bootstrapped from, else 0

    def part(self, first: int, count: int) -> Trajectory:
        """Return where some of the steps are stored."""
        return Trajectory(*(None if tensor is None else tensor[first : first + count] for tensor in self))


class _Kind(NamedTuple):
    """Shape of one environment's entry, the dtypes it may have, the default first, and how it lies in fresh memory."""

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]
    stores_rows: bool = True


class Storage:
    """Makes and checks the tensors that steps and rollouts of one `VecEnv` write.

    Args:
        num_envs: How many environments there are.
        device: Where they live.
        obs: Shape and dtype of one observation.
        actions: Shape and kind of one action.
        mask_size: How many conditions an action mask has; 0 if there is none.
        stores_rows: Whether fresh memory has observations and action masks environment by environment, for who takes
            them one by one, and not component by component.
    """

    def __init__(
        self,
        num_envs: int,
        device: torch.device,
        obs: ObservationLayout,
        actions: ActionLayout,
        mask_size: int,
        stores_rows: bool,
    ) -> None:
        self._num_envs, self._device = num_envs, device
        integers, real, flag = (torch.int64, torch.int32), (torch.float32,), (torch.bool,)
        kinds = dict.fromkeys(Trajectory._fields, _Kind((), real))
        kinds |= dict.fromkeys(_OBSERVATIONS, _Kind(obs.shape, (obs.torch_dtype,), stores_rows))
        kinds |= dict.fromkeys(("terminated", "truncated"), _Kind((), flag))
        kinds |= dict.fromkeys(_ACTIONS, _Kind(actions.shape, integers if actions.is_discrete else real))
        kinds["action_mask"] = _Kind((mask_size,), flag, stores_rows)
        self._kinds = kinds if mask_size else {name: kind for name, kind in kinds.items() if name != "action_mask"}
        self._shapes = {name: (num_envs, *kind.shape) for name, kind in self._kinds.items()}
        self._written = tuple(name for name in Outputs._fields if name in self._kinds)

    def allocate(self, name: str, *steps: int) -> Tensor:
        """Return fresh memory (*steps, num_envs, ...) for an output."""
        kind, num_envs = self._kinds[name], self._num_envs
        sizes = (num_envs, *kind.shape) if kind.stores_rows else (*kind.shape, num_envs)
        tensor = torch.empty(*steps, *sizes, dtype=kind.dtypes[0], device=self._device)
        return tensor if kind.stores_rows else tensor.movedim(-1, len(steps))

    def outputs(self, separate_final_obs: bool) -> Outputs:
        """Return what a step writes, in memory of its own."""
        names = [name for name in self._written if separate_final_obs or name != "final_obs"]
        own = {name: self._flat(name, self.allocate(name).zero_()) for name in names}
        return Outputs(**{"final_obs": own["obs"], **own})

    def redirected(self, outputs: Outputs, out: Mapping[str, Any]) -> Outputs:
        """Return a step's `outputs` with the caller's tensors in place of those named in `out`.

        Raises:
            InvalidConfig: If a name is unknown or a tensor does not fit.
        """
        shares_final_obs = outputs.final_obs is outputs.obs
        written = outputs._asdict()
        for name, given in mapping("out", out, "tensors").items():
            _check_known(name, self._written)
            if name == "final_obs" and shares_final_obs:
                raise InvalidConfig("out", "final_obs is obs itself in this auto-reset mode: leave it out")
            self._check(name, given)
            written[name] = self._flat(name, given)
        if shares_final_obs:
            del written["final_obs"]
        _check_apart(written)
        return Outputs(**{"final_obs": written["obs"], **written})

    def tensors(self, out: Mapping[str, Any] | Iterable[str], num_steps: int, has_network: bool) -> dict[str, Tensor]:
        """Return the tensors for a rollout to write, by name: the caller's, or fresh ones for names alone.

        Raises:
            InvalidConfig: If a name is unknown, needs a network that there is not, or a tensor does not fit.
        """
        if not isinstance(out, Iterable) or isinstance(out, Tensor):
            raise InvalidConfig("out", f"expected names, or tensors by name, got {out!r}")
        names = (out,) if isinstance(out, str) else tuple(out)
        for name in names:
            _check_known(name, self._kinds)
            if name in NETWORK_OUTPUTS and not has_network:
                raise InvalidConfig("out", f"{name} comes from a network: give an MLPPolicy, or leave {name} out")
        if isinstance(out, Mapping):
            for name in names:
                self._check(name, out[name], num_steps)
            _check_apart(out)
            return {name: out[name] for name in names}
        self._check_memory(names, num_steps)
        return {name: self.allocate(name, num_steps) for name in names}

    def trajectory(self, tensors: Mapping[str, Tensor]) -> Trajectory:
        """Return the tensors as backends take them: entries flat, or without an axis of their own."""
        plain = {name: one.detach() if one.requires_grad else one for name, one in tensors.items()}
        return Trajectory(**{name: self._flat(name, tensor) for name, tensor in plain.items()})

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

    def _check(self, name: str, given: Any, *steps: int) -> None:
        """Raise unless this is a tensor (*steps, num_envs, ...) that an output may be written to."""
        kind, shape = self._kinds[name], (*steps, *self._shapes[name])
        if not isinstance(given, Tensor):
            raise InvalidConfig("out", f"{name} must be a torch.Tensor, got {type(given).__name__}")
        if given.shape == shape and given.dtype in kind.dtypes and given.device == self._device:
            if given.is_contiguous():
                return
        else:
            raise InvalidConfig(
                "out",
                f"{name} must be {' or '.join(map(str, kind.dtypes))} of shape {shape} on {self._device}, "
                f"got {given.dtype} {tuple(given.shape)} on {given.device}",
            )
        strides = given.stride()
        if 0 in strides and any(size > 1 and stride == 0 for size, stride in zip(shape, strides, strict=True)):
            raise InvalidConfig("out", f"{name} has its elements in the same memory, got strides {strides}")
        if name not in _STRIDED and strides[-1] != 1 and self._num_envs > 1:
            message = f"{name} must have stride 1 from one environment to the next, got strides {strides}"
            raise InvalidConfig("out", f"{message}: put the environments last, as in (num_steps, num_envs)")

    def _flat(self, name: str, tensor: Tensor) -> Tensor:
        shape = self._kinds[name].shape
        if len(shape) == 1 or name not in _OBSERVATIONS:
            return tensor
        try:
            return tensor.view(*tensor.shape[: tensor.ndim - len(shape)], math.prod(shape))
        except RuntimeError as error:
            message = f"the components of {name} must be evenly spaced in memory, got strides {tensor.stride()}"
            raise InvalidConfig("out", message) from error


def _check_known(name: Any, known: Iterable[str]) -> None:
    if not isinstance(name, str) or name not in known:
        found = repr(name) if isinstance(name, str) else f"of type {type(name).__name__}"
        raise InvalidConfig("out", f"unknown output {found}: expected some of {', '.join(known)}")


def _check_apart(out: Mapping[str, Tensor | None]) -> None:
    places = {name: tensor.data_ptr() for name, tensor in out.items() if tensor is not None}
    if len(set(places.values())) == len(places):
        return
    owners: dict[int, str] = {}
    for name, place in places.items():
        if (other := owners.setdefault(place, name)) != name:
            raise InvalidConfig("out", f"{other} and {name} are the same memory: give each its own")
