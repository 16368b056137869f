"""Curiosity: a bonus for observations that a network has not yet learned to predict."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor, nn

from operant_gpu.backends.select import existing
from operant_gpu.errors import InvalidConfig, as_integer
from operant_gpu.hyperparameters import Hyperparameters
from operant_gpu.models.config import PPOConfig
from operant_gpu.models.contexts import plain
from operant_gpu.models.networks import orthogonal
from operant_gpu.models.policies.normalization import ObservationNormalizer, OneHot, RewardNormalizer
from operant_gpu.models.ppo.optimizer import Adam
from operant_gpu.models.ppo.rollout import Rollout, permutation
from operant_gpu.processes import ALONE, Processes

_HIDDEN, _FEATURES = 64, 32
# As in the paper: observations are clipped to five deviations, and the predictor learns from a quarter of them.
_CLIP, _SHARE = 5.0, 4
_LR, _BATCH_SIZE = 1e-3, 256
# Of thousands of environments they are larger: more steps in sequence would take longer than all else on a GPU.
_MOST_BATCHES = 16


class IntrinsicReward(nn.Module):
    """A reward of the learner's own, added to the environment's.

    PPO calls it once an iteration, with the rollout and a random generator. It returns bonuses (n_steps, num_envs), and
    may learn from the rollout. It must not wait for the device, and do the same work at each call. The rollout's
    tensors (n_steps, num_envs, ...) are attributes with the names of `VecEnv.rollout`, such as `reward` and
    `final_obs`; `obs` and `action_mask` have one row more, for what follows the last step. `action` is what `env.step`
    got, and `policy_action` what was drawn.

    Where several processes train together, each has one of these, for its own rollout. What they are to have in common,
    `processes.average(tensor)` makes the same in all; checkpoints keep what the first process has.

    Attributes:
        processes: Those of the learner that it belongs to.
    """

    processes: Processes = ALONE

    def forward(self, rollout: Rollout, generator: Generator) -> Tensor:
        """Return bonuses (n_steps, num_envs)."""
        raise NotImplementedError


class RND(IntrinsicReward):
    """Random network distillation (Burda et al., 2019).

    The bonus of a step is the error with which a network predicts what a fixed random network makes of the observation
    after it: large where observations are new. It is scaled by the running deviation of its discounted return, which
    goes on over the ends of episodes.

    Args:
        shape: Of one observation, as policies see it.
        num_envs: How many environments there are.
        gamma: Discount factor, a number.
        coef: Weight of the bonus, a number.
        seed: Seed of both networks.
        device: Where the rollouts are.
        one_hot: What makes that of a Discrete one; None for others.

    Raises:
        InvalidConfig: If an argument makes no sense.
    """

    @plain()
    def __init__(
        self,
        shape: tuple[int, ...],
        num_envs: int,
        gamma: float = 0.99,
        coef: float = 1.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
        one_hot: OneHot | None = None,
    ) -> None:
        super().__init__()
        sizes = [as_integer(size) or 0 for size in shape] if isinstance(shape, tuple | list) else [0]
        if min(sizes, default=1) < 1:
            raise InvalidConfig("shape", f"expected that of an observation, such as (4,), got {shape!r}")
        # With the rules that these have as settings.
        settings, device = PPOConfig(num_envs=num_envs, gamma=gamma, rnd_coef=coef, seed=seed), existing(device)
        for name, number in (("gamma", settings.gamma), ("coef", settings.rnd_coef)):
            if not isinstance(number, float):
                raise InvalidConfig(name, f"expected a number, got {number!r}: only a learner's may change")
        self._coef: Any = settings.rnd_coef
        inputs, self.one_hot = math.prod(sizes), one_hot
        weights = Generator().manual_seed(settings.seed)
        self.target, self.predictor = _features(inputs, weights), _features(inputs, weights)
        self.target.requires_grad_(False)
        self.normalizer = ObservationNormalizer((inputs,))
        self.scale = RewardNormalizer(settings.num_envs, float(gamma))
        self.to(device)
        self._optimizer = Adam(self.predictor.parameters(), device)

    def follow(self, now: Hyperparameters) -> None:
        """Take discount factor and weight from a learner's numbers on the device, which change as it learns."""
        self._coef, self.scale.gamma = now.rnd_coef, now.gamma

    def forward(self, rollout: Rollout, generator: Generator) -> Tensor:
        """Return bonuses (n_steps, num_envs), and learn to predict a quarter of the observations."""
        seen = rollout.final_obs if self.one_hot is None else self.one_hot(rollout.final_obs)
        obs = seen.flatten(2).flatten(0, 1).float()
        self.normalizer.update(obs, processes=self.processes)
        self.scale.processes = self.processes
        inputs = self.normalizer(obs).clamp(-_CLIP, _CLIP)
        with torch.no_grad():
            targets = self.target(inputs)
            novelty = (self.predictor(inputs) - targets).square().mean(-1).view_as(rollout.reward)
            bonus: Tensor = self._coef * self.scale(novelty, torch.zeros_like(rollout.terminated))
        self._distil(inputs, targets, generator)
        return bonus

    def _apply(self, fn: Any, recurse: bool = True) -> RND:
        """Move the optimizer along with the networks."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if hasattr(self, "_optimizer"):
            self._optimizer.map(fn)
        return self

    def get_extra_state(self) -> Any:
        """Return the optimizer's state, for `state_dict`."""
        return self._optimizer.state_dict()

    def set_extra_state(self, state: Any) -> None:
        """Go on with the optimizer from a saved state."""
        self._optimizer.load_state_dict(state)

    def _distil(self, inputs: Tensor, targets: Tensor, generator: Generator) -> None:
        chosen = permutation(len(inputs), generator)[: max(1, len(inputs) // _SHARE)]
        for rows in chosen.tensor_split(min(max(1, len(chosen) // _BATCH_SIZE), _MOST_BATCHES)):
            self._optimizer.zero_grad()
            loss = (self.predictor(inputs[rows]) - targets[rows]).square().mean()
            loss.backward()
            error = loss.detach()
            if self.processes.size > 1:
                self._optimizer.average_gradients(self.processes, error)
            self._optimizer.step(_LR, condition=error.isfinite())


def _features(inputs: int, weights: Generator) -> nn.Sequential:
    first, last = (orthogonal(nn.Linear, sizes, 2**0.5, weights) for sizes in ((inputs, _HIDDEN), (_HIDDEN, _FEATURES)))
    return nn.Sequential(first, nn.ReLU(), last)
