"""Settings of PPO."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from operant_gpu.errors import InvalidConfig


@dataclass(frozen=True)
class PPOConfig:
    """Hyperparameters of proximal policy optimization (Schulman et al., 2017).

    The defaults solve CartPole fast with 128 environments.

    Raises:
        InvalidConfig: Naming the field that makes no sense.
    """

    lr: float = 2.5e-3
    """Learning rate of Adam; falls linearly to zero over the training if `anneal_lr`."""
    anneal_lr: bool = True
    """Whether the learning rate falls linearly to zero."""
    gamma: float = 0.99
    """Discount factor, in [0, 1]."""
    gae_lambda: float = 0.95
    """Weight of longer returns in the advantages, in [0, 1]."""
    clip_eps: float = 0.2
    """How far the probability ratio may move from 1 in one iteration."""
    max_grad_norm: float = 0.5
    """Norm to which gradients are clipped."""
    n_steps: int = 32
    """Steps of each environment in one iteration."""
    n_epochs: int = 4
    """Passes over the collected steps in one iteration."""
    batch_size: int = 512
    """Least number of steps in a minibatch."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the actor and of the critic."""
    seed: int = 0
    """Seed of initialisation, environments, sampling and shuffles."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_type(field.name, getattr(self, field.name), field.default)
        for name in ("lr", "clip_eps", "max_grad_norm", "n_steps", "n_epochs"):
            _require(name, getattr(self, name), getattr(self, name) > 0, "a number above 0")
        for name in ("gamma", "gae_lambda"):
            _require(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "a number in [0, 1]")
        for name in ("vf_coef", "ent_coef", "seed"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "a number of at least 0")
        # Advantages are divided by their deviation within a minibatch: one step has none.
        _require("batch_size", self.batch_size, self.batch_size >= 2, "an integer of at least 2")
        _require("hidden_sizes", self.hidden_sizes, all(size > 0 for size in self.hidden_sizes), "widths above 0")


def _check_type(name: str, value: Any, default: Any) -> None:
    expected: Any = (float, int) if isinstance(default, float) else (type(default),)
    if isinstance(value, bool) is not isinstance(default, bool) or not isinstance(value, expected):
        raise InvalidConfig(name, f"expected {expected[0].__name__}, got {value!r}")
    if isinstance(value, tuple):
        _require(name, value, all(type(item) is int for item in value), "a tuple of integers")
    elif not math.isfinite(float(value)):
        raise InvalidConfig(name, f"expected a finite number, got {value!r}")


def _require(name: str, value: Any, holds: bool, expected: str) -> None:
    if not holds:
        raise InvalidConfig(name, f"expected {expected}, got {value!r}")
