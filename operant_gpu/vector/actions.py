"""Actions as users give them: a check of what the host knows of them, a report of those that steps refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor, nn

from operant_gpu.errors import ActionError, InvalidConfig, ResetNeeded, TableError
from operant_gpu.memory.columns import Columns
from operant_gpu.mlp import ACTIVATIONS, MAX_LAYERS, MAX_WIDTH, MLP
from operant_gpu.spaces import ActionLayout, ObservationLayout
from operant_gpu.tables import report
from operant_gpu.tensors import as_tensor

# Beyond it the width of a Box has no float32.
_MOST = float(np.finfo(np.float32).max)
_KINDS = "expected 'random', a tensor of actions or an MLPPolicy"
_ADVICE = (
    f"rollouts evaluate networks of up to {MAX_LAYERS} {' or '.join(ACTIVATIONS)} layers of up to {MAX_WIDTH} units; "
    "make one with operant_gpu.models.MLPPolicy, or take the learner.policy of a PPO with such settings; for any other "
    "policy, call it and env.step in turn"
)


class ActionReader:
    """Turns actions into a tensor on the environment's device, without a copy where memory can be shared.

    Args:
        layout: Shape and kind of one action.
        num_envs: How many environments there are.
        device: Where they live.

    Attributes:
        layout: Shape and kind of one action.
    """

    def __init__(self, layout: ActionLayout, num_envs: int, device: torch.device) -> None:
        self.layout, self._shape = layout, (num_envs, *layout.shape)
        self._dtypes = (torch.int32, torch.int64) if layout.is_discrete else (torch.float32,)
        self._device = device

    def read(self, actions: Any) -> Tensor:
        """Return the actions as a tensor.

        Args:
            actions: A tensor, an array with `__dlpack__`, or on a CPU also a sequence of numbers.

        Raises:
            ActionError: If shape, dtype or device are not those of the environment.
        """
        return self._read(actions, self._shape)

    def read_policy(self, policy: Any, num_steps: int, obs: ObservationLayout) -> Tensor | MLP | None:
        """Return what a rollout's actions come from: themselves, a network, or None for chance.

        Args:
            policy: As `VecEnv.rollout` takes it.
            num_steps: Length of the rollout.
            obs: Of one observation.

        Raises:
            ActionError: As `read`, for actions (num_steps, num_envs, ...).
            InvalidConfig: If the policy does not fit.
        """
        if isinstance(policy, str):
            self._check_random(policy)
            return None
        network = getattr(policy, "mlp", None)
        if not isinstance(network, MLP):
            if callable(policy):
                raise InvalidConfig("policy", f"{_KINDS}, got {_described(policy)}: {_ADVICE}")
            return self._read(policy, (num_steps, *self._shape)).detach()
        self._check_network(network, obs)
        return network

    def _check_random(self, policy: str) -> None:
        if policy != "random":
            raise InvalidConfig("policy", f"{_KINDS}, got {policy!r}")
        for low, high in zip(self.layout.box_low, self.layout.box_high, strict=True):
            if not high - low <= _MOST:
                message = f"'random' needs a Box with finite bounds, got [{low}, {high}]: give a tensor of actions"
                raise InvalidConfig("policy", message)

    def _check_network(self, network: MLP, obs: ObservationLayout) -> None:
        layout, inputs = self.layout, math.prod(obs.seen)
        outputs = layout.num_actions if layout.is_discrete else layout.size
        expected = (inputs, outputs, not layout.is_discrete, obs.one_hot_start)
        own = network.layout
        found = (own.inputs, own.outputs, own.is_gaussian, own.obs_start)
        if found != expected:
            names = "inputs, outputs, is_gaussian, obs_start"
            raise InvalidConfig("policy", f"the network has ({names}) = {found}, the environment needs {expected}")
        parameters = network.parameters
        if parameters.device != self._device or parameters.dtype != torch.float32:
            place = f"{_name(parameters.dtype)} on {parameters.device}"
            cast = "" if parameters.dtype == torch.float32 else ".float()"
            message = f"the network must be float32 on {self._device}, got {place}: use policy{cast}.to(env.device)"
            raise InvalidConfig("policy", message)
        shapes = {"parameters": (network.layout.size,), "shift": (inputs,), "scale": (inputs,)}
        for name, shape in shapes.items():
            tensor = getattr(network, name)
            if tensor is not None and tensor.shape != shape:
                raise InvalidConfig("policy", f"{name} must be of shape {shape}, got {tuple(tensor.shape)}")

    def read_one(self, action: Any) -> np.ndarray[Any, Any]:
        """Return the action of one environment, () or (k,).

        Raises:
            ActionError: If it has another shape, or is of no numbers.
        """
        shape = self.layout.shape
        expected = (
            f"the action of one environment, {'integers' if self.layout.is_discrete else 'numbers'} of shape {shape}"
        )
        try:
            tensor = as_tensor(action).detach().cpu()
            dtype = tensor.dtype
            is_real = not (dtype.is_complex or dtype is torch.bool)
            is_right = is_real and not (self.layout.is_discrete and dtype.is_floating_point) and tensor.shape == shape
        except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
            raise ActionError(f"expected {expected}, got {action!r}: {error}") from error
        if not is_right or tensor.is_meta:
            raise ActionError(f"expected {expected}, got {_name(dtype)} {tuple(tensor.shape)}")
        return tensor.to(torch.int64 if self.layout.is_discrete else torch.float32).numpy()

    def _read(self, actions: Any, shape: tuple[int, ...]) -> Tensor:
        tensor = actions if isinstance(actions, Tensor) else self._imported(actions, shape)
        if tensor.shape != shape or tensor.dtype not in self._dtypes or tensor.device != self._device:
            raise ActionError(self._mismatch(tensor, shape))
        return tensor

    def _imported(self, actions: Any, shape: tuple[int, ...]) -> Tensor:
        try:
            if not isinstance(actions, np.ndarray) and hasattr(actions, "__dlpack__"):
                return torch.utils.dlpack.from_dlpack(actions)
            return as_tensor(actions, np.float32 if self._dtypes[0] is torch.float32 else None)
        except (TypeError, ValueError, RuntimeError, BufferError) as error:
            raise ActionError(f"{self._expectation(shape)}, got {type(actions).__name__}: {error}") from error

    def _expectation(self, shape: tuple[int, ...]) -> str:
        dtypes = " or ".join(map(_name, self._dtypes))
        return f"actions must be {dtypes} of shape {shape} on {self._device}"

    def _mismatch(self, tensor: Tensor, expected: tuple[int, ...]) -> str:
        steps = "actions"
        if tensor.shape != expected and tensor.numel() == math.prod(expected):
            steps += f".reshape{expected}"
        if tensor.dtype not in self._dtypes:
            steps += ".float()" if self._dtypes[0] is torch.float32 else ".long()"
        if tensor.device != self._device:
            steps += ".to(env.device)"
        shape = tuple(tensor.shape)
        hint = f": use {steps}" if steps != "actions" else ": one row per environment"
        return f"{self._expectation(expected)}, got {_name(tensor.dtype)} {shape} on {tensor.device}{hint}"


def faulty(columns: Columns, helpless: Tensor | None) -> Tensor:
    """Return whether one of the functions below would raise, (), without waiting for the device."""
    found = (columns.bad_actions + columns.late_steps != 0) | (columns.episode < -1)
    for other in (columns.outside, helpless):
        if other is not None:
            found |= other != 0
    return found.any()


def raise_refused(columns: Columns, space: Space[Any]) -> None:
    """Raise if steps refused actions since the last call, or if the numbers of episodes have run out.

    The counts of actions start again from zero. Synchronises with the device.

    Raises:
        ActionError: With the number of such actions and the first environment that got one.
        ResetNeeded: If an environment has had as many episodes as an int32 counts. The word of its streams that numbers
            them has as many more, so that nothing has been drawn twice yet.
    """
    counts = (columns.bad_actions.sum(), columns.late_steps.sum(), columns.episode.min())
    bad, late, least = torch.stack(counts).tolist()
    if least < -1:
        first = int(columns.episode.argmin())
        advice = "its random numbers repeat after 2**32: call reset(seed=...) with another seed"
        raise ResetNeeded(f"environment {first} has begun more than 2**31 episodes: {advice}")
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


def raise_outside(outside: Tensor, tables: Any) -> None:
    """Raise if environments read beyond tables since the last call.

    Synchronises with the device.

    Args:
        outside: What was noted of each environment's indices, (num_envs,).
        tables: The tables.

    Raises:
        TableError: With the number of such environments, and the first one's index.
    """
    if count := int(outside.count_nonzero()):
        first = int(outside.ne(0).int().argmax())
        what = report(tables._asdict(), int(outside[first]))
        outside.zero_()
        raise TableError(
            f"{count} environments read beyond a table (first environment {first}: {what}): let the environment's "
            "functions keep the index inside; without debug=True the nearest number is read"
        )


def helpless_ones(mask: Tensor, over: Tensor | None, layout: ActionLayout) -> Tensor:
    """Return where the mask leaves no legal action for a component, (num_envs,); see `raise_helpless`."""
    sizes = [high - low for low, high in zip(layout.low, layout.high, strict=True)]
    helpless = ~torch.stack([part.any(1) for part in torch.split(mask, sizes, 1)]).all(0)
    return helpless if over is None else helpless & ~over


def raise_helpless(mask: Tensor, over: Tensor | None, layout: ActionLayout) -> None:
    """Raise if the mask (num_envs, n) leaves an environment no legal action, for a component of its action.

    Synchronises with the device.

    Args:
        mask: Which actions are legal.
        over: Environments that take none, (num_envs,), or None.
        layout: Which columns of the mask belong together.

    Raises:
        ActionError: With the number of such environments and the first of them.
    """
    helpless = helpless_ones(mask, over, layout)
    if count := int(helpless.sum()):
        first = int(helpless.int().argmax())
        advice = "let `action_mask` leave one, or let `step` end the episode there"
        raise ActionError(f"no action is legal in {count} environments (first in environment {first}): {advice}")


def _described(policy: Any) -> str:
    """Return a policy's kind, and that of the network which it consists of."""
    network = getattr(policy, "network", None)
    kind = type(policy).__name__
    return f"a {kind} with a {type(network).__name__}" if isinstance(network, nn.Module) else f"a {kind}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
