"""Acting with a trained policy."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from gymnasium import Space
from torch import Generator, Tensor

from operant_gpu.errors import InvalidConfig, flag, one_line
from operant_gpu.models.contexts import plain, undisturbed
from operant_gpu.models.policies.policy import Policy
from operant_gpu.spaces import observation_layout
from operant_gpu.tensors import as_tensor


class Controller:
    """A function from observations to actions, with the memory of a recurrent policy.

    Args:
        policy: What decides.
        space: Of one observation.
        generator: Source of the draws, on the policy's device.
        deterministic: Whether to take the likeliest actions rather than to sample.
    """

    def __init__(self, policy: Policy, space: Space[Any], generator: Generator, deterministic: bool) -> None:
        self._policy, self._layout, self._generator = policy, observation_layout(space), generator
        self._deterministic = flag("deterministic", deterministic)
        self._state: Tensor | None = None

    @plain()
    @torch.no_grad()
    def __call__(self, obs: Any, ended: Any = None, action_mask: Any = None) -> Tensor:
        """Return actions that the environment takes.

        Args:
            obs: Observations `(batch, *shape)`, or one `(*shape)`; a tensor, an array, a table, or a list of
                those or of numbers.
            ended: Where these observations begin a new episode, (batch,) bool: there the memory is emptied. Only a
                recurrent policy reads it; on the first call, and when the batch has another size, all begin.
            action_mask: Where actions are legal, (batch, choices) bool; None if all are.

        Raises:
            InvalidConfig: If a shape is not as described, or, on a CPU, an observation is none of a Discrete space's.
        """
        shape = self._layout.shape
        given = self._read("obs", obs, torch.float32, shape)
        batch = given.reshape(-1, *shape)
        self._check_choices(batch)
        mask = None
        if action_mask is not None:
            choices = self._policy.distribution.outputs
            mask = self._read("action_mask", action_mask, torch.bool, (choices,)).reshape(-1, choices)
            if len(mask) != len(batch):
                raise InvalidConfig("action_mask", f"expected one row for each of {len(batch)}, got {len(mask)}")
        state, starts = self._memory(len(batch), ended)
        with contextlib.nullcontext() if self._policy.is_built_in else undisturbed(self._generator.device):
            if self._deterministic:
                actions, self._state = self._policy.mode(batch, state, starts, mask)
            else:
                actions, _, _, self._state = self._policy.act(batch, state, starts, mask, self._generator)
        actions = self._policy.distribution.for_environment(actions)
        return actions[0] if given.ndim == len(shape) else actions

    def _check_choices(self, obs: Tensor) -> None:
        """Refuse what would be seen as a row of zeros; a GPU would have to be waited for."""
        choices, start = self._layout.choices, self._layout.start
        if choices and obs.device.type == "cpu":
            wrong = (obs != obs.floor()) | (obs < start) | (obs >= start + choices)
            if wrong.any():
                expected = f"expected integers from {start} to {start + choices - 1}"
                raise InvalidConfig("obs", f"{expected}, got {obs[wrong][0].item():g}")

    def _read(self, name: str, given: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        batch = f"(batch, {', '.join(map(str, shape))})"
        try:
            # In one order in memory: matrix products of another round differently on some CPUs.
            tensor = as_tensor(given).to(self._generator.device, dtype).contiguous()
        except (TypeError, ValueError, RuntimeError) as error:
            reason = f"got {given!r}, which cannot be read ({one_line(error)})"
            raise InvalidConfig(name, f"expected numbers of shape {shape} or {batch}, {reason}") from error
        if tensor.shape != shape and tensor.shape[1:] != shape:
            raise InvalidConfig(name, f"expected shape {shape} or {batch}, got {tuple(tensor.shape)}")
        return tensor

    def _memory(self, size: int, ended: Any) -> tuple[Tensor | None, Tensor | None]:
        if not self._policy.state_size:
            return None, None
        device = self._generator.device
        if self._state is None or len(self._state) != size:
            self._state = torch.zeros(size, self._policy.state_size, dtype=torch.float32, device=device)
            return self._state, torch.ones(size, dtype=torch.bool, device=device)
        if ended is None:
            return self._state, torch.zeros(size, dtype=torch.bool, device=device)
        starts = self._read("ended", ended, torch.bool, ()).reshape(-1)
        if len(starts) != size:
            raise InvalidConfig("ended", f"expected one for each of {size} observations, got {len(starts)}")
        return self._state, starts
