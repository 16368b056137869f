"""Distributions over actions, described by the outputs of a network."""

from __future__ import annotations

import math
from typing import Any

import torch
from gymnasium import Space
from torch import Generator, Tensor, nn

from operant_gpu.models.networks import FLOATS
from operant_gpu.spaces import ActionLayout, Scaling, action_layout

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
        return actions


class Categorical(Distribution):
    """Integer actions of the space: independent components, from the logits of one after the other."""

    start: Tensor

    def __init__(self, layout: ActionLayout) -> None:
        super().__init__()
        self._sizes = [high - low for low, high in zip(layout.low, layout.high, strict=True)]
        self.outputs, self.action_shape = layout.num_actions, layout.shape
        self.register_buffer("start", torch.tensor(layout.low, device="cpu").reshape(layout.shape), persistent=False)
        self._starts_at_zero = not any(layout.low)

    def sample(self, outputs: Tensor, mask: Tensor | None, generator: Generator) -> Tensor:
        """Draw actions.

        The largest of the logits less the logarithm of exponential noise is drawn with the softmax's probabilities
        (Gumbel's trick). Unlike `torch.multinomial` it does not wait for the device.
        """
        scores = []
        for logits, legal in self._parts(outputs, mask):
            noise = torch.empty_like(logits).exponential_(generator=generator)
            score = logits - noise.log()
            # After the noise, so that no noise is large enough to draw an illegal action.
            scores.append(score if legal is None else score.masked_fill(~legal, -math.inf))
        return self._likeliest(scores)

    def mode(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return the likeliest actions."""
        return self._likeliest([_legal(logits, legal) for logits, legal in self._parts(outputs, mask)])

    def log_prob(self, outputs: Tensor, actions: Tensor, mask: Tensor | None) -> Tensor:
        """Return log-probabilities among the legal actions."""
        actions = actions if self._starts_at_zero else actions - self.start
        parts = zip(self._log_probs(outputs, mask), actions.unbind(-1) if self.action_shape else [actions], strict=True)
        return _sum([log_probs.gather(-1, action[..., None]).squeeze(-1) for log_probs, action in parts])

    def entropy(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return entropies over the legal actions."""
        return _sum([-(log_probs.exp() * log_probs).sum(-1) for log_probs in self._log_probs(outputs, mask)])

    def _parts(self, outputs: Tensor, mask: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        """Return each component's logits, and which of its actions are legal."""
        if len(self._sizes) == 1:
            return [(outputs, mask)]
        masks = [None] * len(self._sizes) if mask is None else torch.split(mask, self._sizes, -1)
        return list(zip(torch.split(outputs, self._sizes, -1), masks, strict=True))

    def _log_probs(self, outputs: Tensor, mask: Tensor | None) -> list[Tensor]:
        return [_legal(logits, legal).log_softmax(-1) for logits, legal in self._parts(outputs, mask)]

    def _likeliest(self, scores: list[Tensor]) -> Tensor:
        parts = [part.argmax(-1) for part in scores]
        actions = torch.stack(parts, -1) if self.action_shape else parts[0]
        return actions if self._starts_at_zero else actions + self.start


def _legal(logits: Tensor, mask: Tensor | None) -> Tensor:
    # The least finite number: its probability is exactly zero, and 0 * log(0) stays 0.
    return logits if mask is None else logits.masked_fill(~mask, torch.finfo(logits.dtype).min)


def _sum(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


class DiagonalGaussian(Distribution):
    """Actions of a Box: independent normals about the outputs, with deviations that do not see the observation.

    They are drawn in the policy's units, of which log-densities are too: the environment is given them scaled, and
    clipped to the space.

    Attributes:
        scales_actions: Whether -1 and 1 are the bounds of a component, where both are finite.
    """

    low: Tensor
    high: Tensor
    center: Tensor
    radius: Tensor
    action_dtype = torch.float32

    def __init__(self, layout: ActionLayout, log_std_init: float, scales_actions: bool) -> None:
        super().__init__()
        self.outputs, self.action_shape, self.scales_actions = layout.size, layout.shape, scales_actions
        self.log_std = nn.Parameter(torch.full(layout.shape, log_std_init, **FLOATS))
        for name, numbers in layout.scaling(scales_actions)._asdict().items():
            self.register_buffer(name, torch.tensor(numbers, **FLOATS), persistent=False)

    def scaling(self) -> Scaling:
        """Return how the environment's units are made of the policy's; waits for the device."""
        return Scaling(*(tuple(getattr(self, name).tolist()) for name in Scaling._fields))

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
        """Return actions scaled, and clipped to the space."""
        return (self.center + self.radius * actions).clamp(self.low, self.high)


def distribution_for(space: Space[Any], log_std_init: float = 0.0, scale_actions: bool = True) -> Distribution:
    """Return the family of distributions over a space's actions; settings are those of `PPOConfig`.

    Raises:
        InvalidConfig: If there is none.
    """
    layout = action_layout(space)
    return Categorical(layout) if layout.is_discrete else DiagonalGaussian(layout, log_std_init, scale_actions)
