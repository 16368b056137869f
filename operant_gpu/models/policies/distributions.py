"""Distributions over actions, described by the outputs of a network."""

from __future__ import annotations

import math
from typing import Any

import torch
from gymnasium import Space, spaces
from torch import Generator, Tensor, nn

from operant_gpu.errors import InvalidConfig
from operant_gpu.models.networks import FLOATS

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Distribution(nn.Module):
    """A family of distributions over the actions of one space.

    Batches may have any leading shape (...). Masks are True where an action is legal; they belong to discrete actions.

    Attributes:
        outputs: How many numbers describe one distribution.
        action_shape: Shape of one action, as `sample` draws it.
        action_dtype: Its dtype.
    """

    outputs: int
    action_shape: tuple[int, ...] = ()
    action_dtype = torch.int64

    def sample(self, outputs: Tensor, mask: Tensor | None, generator: Generator) -> Tensor:
        """Draw actions (..., *action_shape)."""
        raise NotImplementedError

    def mode(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return the likeliest actions (..., *action_shape)."""
        raise NotImplementedError

    def log_prob(self, outputs: Tensor, actions: Tensor, mask: Tensor | None) -> Tensor:
        """Return the log-probabilities or log-densities (...) of actions."""
        raise NotImplementedError

    def entropy(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return entropies (...)."""
        raise NotImplementedError

    def for_environment(self, actions: Tensor) -> Tensor:
        """Return actions as the environment takes them."""
        raise NotImplementedError


class Categorical(Distribution):
    """Actions of a Discrete space, from logits.

    Args:
        choices: How many actions there are.
        start: Number of the first.
    """

    def __init__(self, choices: int, start: int = 0) -> None:
        super().__init__()
        self.outputs, self._start = choices, start

    def sample(self, outputs: Tensor, mask: Tensor | None, generator: Generator) -> Tensor:
        """Draw actions.

        The largest of the logits less the logarithm of exponential noise is drawn with the softmax's probabilities
        (Gumbel's trick). Unlike `torch.multinomial` it does not wait for the device.
        """
        noise = torch.empty_like(outputs).exponential_(generator=generator)
        scores = outputs - noise.log()
        # After the noise, so that no noise is large enough to draw an illegal action.
        return (scores if mask is None else scores.masked_fill(~mask, -math.inf)).argmax(-1)

    def mode(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return the likeliest actions."""
        return _legal(outputs, mask).argmax(-1)

    def log_prob(self, outputs: Tensor, actions: Tensor, mask: Tensor | None) -> Tensor:
        """Return log-probabilities among the legal actions."""
        return _legal(outputs, mask).log_softmax(-1).gather(-1, actions[..., None]).squeeze(-1)

    def entropy(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return entropies over the legal actions."""
        log_probs = _legal(outputs, mask).log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def for_environment(self, actions: Tensor) -> Tensor:
        """Return actions counted from the space's start."""
        return actions + self._start if self._start else actions


def _legal(logits: Tensor, mask: Tensor | None) -> Tensor:
    # The least finite number: its probability is exactly zero, and 0 * log(0) stays 0.
    return logits if mask is None else logits.masked_fill(~mask, torch.finfo(logits.dtype).min)


class MultiCategorical(Distribution):
    """Actions of a MultiDiscrete space: independent components, from the logits of one after the other."""

    def __init__(self, space: spaces.MultiDiscrete) -> None:
        super().__init__()
        self._sizes = [int(size) for size in space.nvec]
        self._parts = [Categorical(size) for size in self._sizes]
        self.outputs, self.action_shape = sum(self._sizes), space.shape
        self.start: Tensor
        self.register_buffer("start", torch.as_tensor(space.start, device="cpu"), persistent=False)

    def sample(self, outputs: Tensor, mask: Tensor | None, generator: Generator) -> Tensor:
        """Draw actions."""
        parts = self._split(outputs, mask)
        return torch.stack([part.sample(logits, legal, generator) for part, logits, legal in parts], -1)

    def mode(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return the likeliest actions."""
        return torch.stack([part.mode(logits, legal) for part, logits, legal in self._split(outputs, mask)], -1)

    def log_prob(self, outputs: Tensor, actions: Tensor, mask: Tensor | None) -> Tensor:
        """Return the sums of the components' log-probabilities."""
        parts = zip(self._split(outputs, mask), actions.unbind(-1), strict=True)
        return torch.stack([part.log_prob(logits, action, legal) for (part, logits, legal), action in parts]).sum(0)

    def entropy(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return the sums of the components' entropies."""
        parts = self._split(outputs, mask)
        return torch.stack([part.entropy(logits, legal) for part, logits, legal in parts]).sum(0)

    def for_environment(self, actions: Tensor) -> Tensor:
        """Return actions counted from the space's starts."""
        return actions + self.start

    def _split(self, outputs: Tensor, mask: Tensor | None) -> list[tuple[Categorical, Tensor, Tensor | None]]:
        logits = torch.split(outputs, self._sizes, -1)
        masks = [None] * len(self._sizes) if mask is None else torch.split(mask, self._sizes, -1)
        return list(zip(self._parts, logits, masks, strict=True))


class DiagonalGaussian(Distribution):
    """Actions of a Box: independent normals about the outputs, with deviations that do not see the observation.

    Log-densities are of the action as drawn; only the environment is given it clipped to the space.
    """

    low: Tensor
    high: Tensor
    action_dtype = torch.float32

    def __init__(self, space: spaces.Box, log_std_init: float) -> None:
        super().__init__()
        self.outputs, self.action_shape = space.shape[0], space.shape
        self.log_std = nn.Parameter(torch.full(space.shape, log_std_init, **FLOATS))
        self.register_buffer("low", torch.as_tensor(space.low, device="cpu"), persistent=False)
        self.register_buffer("high", torch.as_tensor(space.high, device="cpu"), persistent=False)

    def sample(self, outputs: Tensor, mask: Tensor | None, generator: Generator) -> Tensor:
        """Draw actions, unclipped."""
        noise = torch.empty_like(outputs).normal_(generator=generator)
        return outputs + noise * self.log_std.exp()

    def mode(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return the means."""
        return outputs

    def log_prob(self, outputs: Tensor, actions: Tensor, mask: Tensor | None) -> Tensor:
        """Return log-densities of the unclipped actions."""
        deviations = (actions - outputs) * (-self.log_std).exp()
        return (-0.5 * deviations.square() - self.log_std - _LOG_SQRT_2PI).sum(-1)

    def entropy(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return differential entropies."""
        return (self.log_std + 0.5 + _LOG_SQRT_2PI).sum().expand(outputs.shape[:-1])

    def for_environment(self, actions: Tensor) -> Tensor:
        """Return actions clipped to the space."""
        return actions.clamp(self.low, self.high)


def distribution_for(space: Space[Any], log_std_init: float = 0.0) -> Distribution:
    """Return the family of distributions over a space's actions.

    Raises:
        InvalidConfig: If there is none.
    """
    if isinstance(space, spaces.Discrete):
        return Categorical(int(space.n), int(space.start))
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) == 1:
        return MultiCategorical(space)
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return DiagonalGaussian(space, log_std_init)
    raise InvalidConfig("env", f"PPO takes Discrete, MultiDiscrete (k,) and Box (k,) actions, got {space}")
