"""The terms of PPO's objective (Schulman et al., 2017), and what tells how far a policy has moved.

Functions of tensors of one shape, and of numbers or tensors of shape (); means are over all elements.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_EPS = 1e-8


def normalized(advantages: Tensor) -> Tensor:
    """Return advantages shifted and scaled to mean 0 and deviation 1; zeros where all are equal.

    In float64: the mean of equal numbers may be off by a rounding in float32, which would be scaled to 1.
    """
    wide = advantages.double()
    return standardized(advantages, wide.mean(), wide.std())


def standardized(advantages: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Return advantages less a mean, by a deviation, both float64."""
    return ((advantages.double() - mean) / (deviation + _EPS)).to(advantages.dtype)


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip_eps: Any) -> Tensor:
    """Return the policy loss, equation 7: pessimistic, and flat where the ratio has moved far enough."""
    clipped = ratio.clamp(1.0 - clip_eps, 1.0 + clip_eps)
    return -torch.minimum(ratio * advantages, clipped * advantages).mean()


def squared_error(values: Tensor, old_values: Tensor, returns: Tensor, clip_eps: Any) -> Tensor:
    """Return half the mean squared error of values, or of those moved by at most `clip_eps` where that is larger.

    An infinite `clip_eps` leaves the squared error of values, to the bit.
    """
    moved = values - old_values
    # What has not moved so far is the value itself, and not what rounding makes of two sums.
    clipped = torch.where(moved.abs() > clip_eps, old_values + moved.clamp(-clip_eps, clip_eps), values)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square()).mean()


def approximate_kl(ratio: Tensor, log_ratio: Tensor) -> Tensor:
    """Return Schulman's estimate of the divergence from the policy that collected: unbiased, and never negative."""
    return (ratio - 1.0 - log_ratio).mean()


def clip_fraction(ratio: Tensor, clip_eps: Any) -> Tensor:
    """Return the share of ratios beyond the clip."""
    is_beyond: Tensor = (ratio - 1.0).abs() > clip_eps
    return is_beyond.float().mean()


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """Return the share of the returns' variance that values account for: 1 is all of it, 0 is none.

    Not finite where the returns do not vary.
    """
    return 1.0 - (returns - values).var(correction=0) / returns.var(correction=0)
