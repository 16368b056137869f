"""Acting with a trained policy."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Generator, Tensor

from operant_gpu.errors import InvalidConfig
from operant_gpu.models.contexts import plain, undisturbed
from operant_gpu.models.policies.policy import Policy


class Controller:
    """A function from observations to actions, with the memory of a recurrent policy.

    Args:
        policy: What decides.
        shape: Of one observation.
        generator: Source of the draws, on the policy's device.
        deterministic: Whether to take the likeliest actions rather than to sample.
    """

    def __init__(self, policy: Policy, shape: tuple[int, ...], generator: Generator, deterministic: bool) -> None:
        self._policy, self._shape, self._generator = policy, shape, generator
        self._deterministic = deterministic
        self._state: Tensor | None = None

    @plain()
    @torch.no_grad()
    def __call__(self, obs: Any, ended: Any = None, action_mask: Any = None) -> Tensor:
        """Return actions that the environment takes.

        Args:
            obs: Observations (batch, *shape), or one (*shape); a tensor or anything `torch.as_tensor` reads.
            ended: Where these observations begin a new episode, (batch,) bool: there the memory is emptied. Only a
                recurrent policy reads it; on the first call, and when the batch has another size, all begin.
            action_mask: Where actions are legal, (batch, choices) bool; None if all are.

        Raises:
            InvalidConfig: If a shape is not as described.
        """
        batch = self._read("obs", obs, torch.float32, self._shape)
        mask = None
        if action_mask is not None:
            mask = self._read("action_mask", action_mask, torch.bool, (self._policy.distribution.outputs,))
            if len(mask) != len(batch):
                raise InvalidConfig("action_mask", f"expected one row for each of {len(batch)}, got {len(mask)}")
        state, starts = self._memory(len(batch), ended)
        with contextlib.nullcontext() if self._policy.is_built_in else undisturbed(self._generator.device):
            if self._deterministic:
                actions, self._state = self._policy.mode(batch, state, starts, mask)
            else:
                actions, _, _, self._state = self._policy.act(batch, state, starts, mask, self._generator)
        actions = self._policy.distribution.for_environment(actions)
        return actions[0] if len(torch.as_tensor(obs).shape) == len(self._shape) else actions

    def _read(self, name: str, given: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        batch = f"(batch, {', '.join(map(str, shape))})"
        try:
            tensor = torch.as_tensor(given, dtype=dtype, device=self._generator.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidConfig(name, f"expected numbers of shape {shape} or {batch}, got {given!r}") from error
        if tensor.shape != shape and tensor.shape[1:] != shape:
            raise InvalidConfig(name, f"expected shape {shape} or {batch}, got {tuple(tensor.shape)}")
        return tensor.reshape(-1, *shape)

    def _memory(self, size: int, ended: Any) -> tuple[Tensor | None, Tensor | None]:
        if not self._policy.state_size:
            return None, None
        device = self._generator.device
        if self._state is None or len(self._state) != size:
            self._state = torch.zeros(size, self._policy.state_size, dtype=torch.float32, device=device)
            return self._state, torch.ones(size, dtype=torch.bool, device=device)
        if ended is None:
            return self._state, torch.zeros(size, dtype=torch.bool, device=device)
        starts = self._read("ended", ended, torch.bool, ())
        if len(starts) != size:
            raise InvalidConfig("ended", f"expected one for each of {size} observations, got {len(starts)}")
        return self._state, starts
