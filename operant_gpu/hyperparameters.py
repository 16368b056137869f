"""What the learners' kernels need to know of PPO, and what they tell of its gradient steps."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

# Bits of a status.
STOPPED, FAULTY = 1, 2
# An iteration stops learning once its policy is this many times `target_kl` away.
KL_MARGIN = 1.5
# What is measured of a gradient step.
MEASURED = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_frac", "grad_norm")


class Hyperparameters(NamedTuple):
    """Settings of an iteration's gradient steps, named as in `PPOConfig`."""

    clip_eps: float
    vf_clip_eps: float | None
    vf_coef: float
    ent_coef: float
    max_grad_norm: float
    target_kl: float | None
    normalize_advantages: bool
    n_epochs: int
    minibatches: int  # of an epoch


class Samples(NamedTuple):
    """The steps that an iteration learns from, named as in a `Trajectory`, all contiguous."""

    obs: Tensor  # (n_steps, num_envs, ...)
    action: Tensor  # as drawn, (n_steps, num_envs) or with an axis of components
    action_mask: Tensor | None  # (n_steps, num_envs, choices)
    log_prob: Tensor  # (n_steps, num_envs)
    value: Tensor  # likewise, of the observations
    advantages: Tensor  # likewise, not normalized


class AdamState(NamedTuple):
    """What Adam keeps, in place; the numbers are of shape () on the device."""

    means: Tensor  # (n,) first moments, in the order of the parameters
    squares: Tensor  # second moments, likewise
    updates: Tensor  # float32, how many steps it has taken
    lr: Tensor  # float32


class StepTable(NamedTuple):
    """What K gradient steps measured.

    A status has bit 1 where the iteration had stopped, and bit 2 where a number that is not finite had been seen.
    """

    measured: Tensor  # (K, 6) float32, as `MEASURED` has it
    norms: Tensor  # (K, T) float32: norm of the gradient of each parameter tensor
    status: Tensor  # (K + 1,) int32: before each step, and after the last
