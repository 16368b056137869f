"""What the learners' kernels need to know of PPO, and what they tell of its gradient steps."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor

# Bits of a status.
STOPPED, FAULTY = 1, 2
# An iteration stops learning once its policy is this many times `target_kl` away.
KL_MARGIN = 1.5
# What is measured of a gradient step.
MEASURED = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_frac", "grad_norm")


class Hyperparameters(NamedTuple):
    """Settings that may change while a policy learns, named as in `PPOConfig`.

    In memory they are float32 numbers, one after the other in this order, where kernels and graphs read them. A setting
    that is None there is infinite.
    """

    lr: Any
    gamma: Any
    gae_lambda: Any
    clip_eps: Any
    vf_clip_eps: Any
    vf_coef: Any
    ent_coef: Any
    max_grad_norm: Any
    target_kl: Any
    rnd_coef: Any


class StepSettings(Protocol):
    """Settings that stay as they are, for they decide which gradient steps an iteration has; those of `PPOConfig`."""

    @property
    def n_epochs(self) -> int: ...  # noqa: D102

    @property
    def batch_size(self) -> int | None: ...  # noqa: D102

    @property
    def normalize_advantages(self) -> bool: ...  # noqa: D102


def minibatches_of(settings: StepSettings, samples: int) -> int:
    """Return how many minibatches an epoch has, of so many samples."""
    # A learner's settings are fitted to its environments.
    assert settings.batch_size is not None
    return max(1, samples // settings.batch_size)


def minibatch_sizes(settings: StepSettings, samples: int) -> list[int]:
    """Return how many samples each gradient step has, as `torch.tensor_split` has them."""
    minibatches = minibatches_of(settings, samples)
    share, more = divmod(samples, minibatches)
    return [share + (number < more) for number in range(minibatches)] * settings.n_epochs


class Samples(NamedTuple):
    """The steps that an iteration learns from, named as in a `Trajectory`, all contiguous."""

    obs: Tensor  # (n_steps, num_envs, ...)
    policy_action: Tensor  # (n_steps, num_envs) or with an axis of components
    action_mask: Tensor | None  # (n_steps, num_envs, choices)
    log_prob: Tensor  # (n_steps, num_envs)
    value: Tensor  # likewise, of the observations
    advantages: Tensor  # likewise, not normalized


class AdamState(NamedTuple):
    """What Adam keeps, in place."""

    means: Tensor  # (n,) first moments, in the order of the parameters
    squares: Tensor  # second moments, likewise
    updates: Tensor  # () float32 on the device, how many steps it has taken


class StepTable(NamedTuple):
    """What K gradient steps measured.

    A status has bit 1 where the iteration had stopped, and bit 2 where a number that is not finite had been seen.
    """

    measured: Tensor  # (K, 6) float32, as `MEASURED` has it
    norms: Tensor  # (K, T) float32: norm of the gradient of each parameter tensor
    status: Tensor  # (K + 1,) int32: before each step, and after the last
    own: Tensor | None = None  # (K, 5) or more: as `measured`, by one of several processes alone
