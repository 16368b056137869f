"""What PPO does in an iteration: collect a rollout, estimate advantages, then climb the clipped objective."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from operant_gpu.errors import BackendError, InvalidConfig
from operant_gpu.hyperparameters import KL_MARGIN, Hyperparameters
from operant_gpu.models.config import PPOConfig
from operant_gpu.models.policies.normalization import ObservationNormalizer, RewardNormalizer
from operant_gpu.models.policies.policy import Policy
from operant_gpu.models.ppo import losses
from operant_gpu.models.ppo.optimizer import Adam
from operant_gpu.models.ppo.rnd import RND, IntrinsicReward
from operant_gpu.models.ppo.rollout import (
    Minibatch,
    Rollout,
    collect,
    generalized_advantages,
    make_batch,
    minibatches,
    next_values,
)
from operant_gpu.models.ppo.schedules import Schedules
from operant_gpu.models.ppo.telemetry import Telemetry
from operant_gpu.processes import Processes, merged_moments
from operant_gpu.vector import VecEnv

Objective = Callable[[Minibatch], tuple[Tensor, Tensor]]


class Update:
    """One iteration's steps and learning, in PyTorch. Waits for the device nowhere, but for an early stop on a CPU.

    Args:
        env: The environments.
        policy: What is improved.
        optimizer: Of the policy's parameters.
        schedules: The hyperparameters of iterations.
        generator: Source of the policy's draws and of the shuffles.
        telemetry: Takes what is measured.
        reward_normalizer: Scales the environment's rewards; None leaves them as they are.
        intrinsic: A reward of the learner's own, or None.
        processes: Those that learn together, each from rollouts of its own.
    """

    # Whether the library's own kernels step and learn, as one stage, from observations that lie one after the other.
    is_fused: ClassVar[bool] = False

    def __init__(
        self,
        *,
        env: VecEnv,
        policy: Policy,
        optimizer: Adam,
        schedules: Schedules,
        generator: Generator,
        telemetry: Telemetry,
        reward_normalizer: RewardNormalizer | None,
        intrinsic: IntrinsicReward | None,
        processes: Processes,
    ) -> None:
        self.env, self.policy, self.optimizer, self.processes = env, policy, optimizer, processes
        self.generator, self.telemetry, self.schedules = generator, telemetry, schedules
        self._reward_normalizer, self._intrinsic = reward_normalizer, intrinsic
        self._objective = _compiled(self.objective) if self.config.compile else self.objective
        self._stopped = torch.zeros((), dtype=torch.bool, device=generator.device)

    @property
    def config(self) -> PPOConfig:
        """The learner's settings, as they are now."""
        return self.schedules.config

    def begin(self, iterations: int) -> None:
        """Go on after so many iterations, from where the environments are."""
        if self._reward_normalizer is not None:
            self._reward_normalizer.begin(self.env.episode_so_far[1] == 0)

    def fingerprint(self) -> object:
        """Return what graphs are captured with: memory and dtypes of what learns, what is frozen, modes, precisions."""
        modules = [one for one in (self.policy, self._reward_normalizer, self._intrinsic) if isinstance(one, nn.Module)]
        tensors = [tensor for one in modules for tensor in (*one.parameters(), *one.buffers())]
        modes = [part.training for one in modules for part in one.modules()]
        precisions = (
            getattr(self.policy, "precision", None),
            self.policy.use_amp,
            torch.backends.cuda.matmul.fp32_precision,
        )
        return [(one.data_ptr(), one.dtype, one.requires_grad) for one in tensors], modes, precisions

    def learned(self) -> list[Tensor]:
        """Return what all processes that learn together have in common."""
        own = self.optimizer
        modules: list[nn.Module] = [] if self._reward_normalizer is None else [self._reward_normalizer.moments]
        if isinstance(self.policy.normalizer, ObservationNormalizer):
            modules.append(self.policy.normalizer)
        if isinstance(self._intrinsic, RND):
            modules += [self._intrinsic.predictor, self._intrinsic.normalizer, self._intrinsic.scale.moments]
        tensors = [tensor for one in modules for tensor in (*one.parameters(), *one.buffers())]
        return [*self.policy.parameters(), *tensors, own.means, own.squares, own.count, self.schedules.values]

    def revive(self, rollout: Rollout) -> None:
        """Let environments that a fault has stopped begin anew, where training goes on without them."""
        if self.config.on_fault == "skip" and self.env.stopped is not None:
            stopped = self.env.stopped.clone()
            rollout.begin_anew(self.env, stopped)
            if self._reward_normalizer is not None:
                self._reward_normalizer.begin(stopped)

    def _leave_out(self, rollout: Rollout) -> None:
        """Learn nothing of environments that a fault has stopped; nothing at all where that is to end the training."""
        if self.env.stopped is None:
            return
        skips = self.config.on_fault == "skip"
        if skips:
            rollout.leave_out(self.env.stopped)
        self.telemetry.faults.follow(self.env.stopped.all() if skips else self.env.stopped.any())

    def collect(self, rollout: Rollout) -> None:
        """Step the environments `n_steps` times, into the rollout."""
        collect(self.env, self.policy, rollout, self.generator)

    def __call__(self, rollout: Rollout) -> None:
        """Learn from a rollout."""
        self.schedules.advance()
        self._leave_out(rollout)
        self.telemetry.faults.inspect_rollout(rollout)
        advantages = self.advantages(rollout)
        explained = self._explained_variance(rollout.value, advantages + rollout.value)
        self.telemetry.add_iteration(rollout, explained, self.env.stopped)
        self.climb(rollout, advantages)
        # Not before: the policy is to be judged as it saw the observations when it acted.
        if isinstance(self.policy.normalizer, ObservationNormalizer):
            allowed = ~self.telemetry.faults.any
            self.policy.normalizer.update(rollout.obs[:-1], allowed, self.processes)

    def _explained_variance(self, values: Tensor, returns: Tensor) -> Tensor:
        """Return that of all processes' steps, and take in whether another process has seen a fault."""
        if self.processes.size == 1:
            return losses.explained_variance(values, returns)
        own = [*torch.var_mean(returns - values, correction=0), *torch.var_mean(returns, correction=0)]
        numbers = torch.stack([*(one.double() for one in own), self.telemetry.faults.any.double()])
        rows = self.processes.gather(numbers)
        self.telemetry.faults.follow(rows[:, 4].any())
        _, (unexplained, of_returns), _ = merged_moments(rows[:, 1:4:2], rows[:, 0:4:2], 1)
        explained: Tensor = 1.0 - unexplained / of_returns
        return explained

    def advantages(self, rollout: Rollout) -> Tensor:
        """Return the advantages (n_steps, num_envs) of a rollout's actions, for rewards as the settings have them."""
        rewards = rollout.reward
        if self._reward_normalizer is not None:
            rewards = self._reward_normalizer(rewards, rollout.ended)
        if self._intrinsic is not None:
            rewards = rewards + self._bonus(rollout, self._intrinsic)
        return self.estimate(rollout, rewards)

    def estimate(self, rollout: Rollout, rewards: Tensor) -> Tensor:
        """Return the advantages (n_steps, num_envs) of a rollout's actions, for these rewards."""
        following = next_values(rollout, self.policy, self.env.max_episode_steps)
        flags, now = (rollout.terminated, rollout.ended), self.schedules.now
        return generalized_advantages(rewards, rollout.value, following, *flags, now.gamma, now.gae_lambda)

    def _bonus(self, rollout: Rollout, intrinsic: IntrinsicReward) -> Tensor:
        bonus: Tensor = intrinsic(rollout, self.generator)
        if bonus.shape != rollout.reward.shape:
            expected = f"bonuses of shape {tuple(rollout.reward.shape)}"
            raise InvalidConfig("intrinsic", f"expected {expected}, got {tuple(bonus.shape)}")
        # What the bonus was made from learns by itself.
        return bonus.detach()

    def objective(self, batch: Minibatch) -> tuple[Tensor, Tensor]:
        """Return the loss of a minibatch, and what is measured of it."""
        # Several processes normalize their advantages together, before.
        normalizes = self.config.normalize_advantages and self.processes.size == 1
        return objective(self.policy, self.schedules.now, batch, normalizes)

    def climb(self, rollout: Rollout, advantages: Tensor) -> None:
        """Take `n_epochs` passes over the rollout in minibatches."""
        numbers, batch, batch_size = itertools.count(1), make_batch(rollout, advantages), self.config.batch_size
        # A learner's settings are fitted to its environments.
        assert batch_size is not None
        self._stopped.zero_()
        for _ in range(self.config.n_epochs):
            for minibatch in self._normalized(minibatches(batch, batch_size, self.generator)):
                self._improve(minibatch, next(numbers))
                if self._is_over():
                    return

    def _normalized(self, batches: Iterable[Minibatch]) -> Iterable[Minibatch]:
        """Normalize advantages by the moments of all processes' minibatches, where there are several."""
        if self.processes.size == 1 or not self.config.normalize_advantages:
            return batches
        batches = list(batches)
        wide = [batch.advantages.double() for batch in batches]
        # The numbers of samples too, filled in on the device: a graph takes none from the host.
        sizes = [torch.full_like(one[0], one.numel()) for one in (batch.flatten() for batch in wide)]
        moments = [(one.mean(), one.var(correction=0) * size, size) for one, size in zip(wide, sizes, strict=True)]
        rows = self.processes.gather(torch.stack([torch.stack(own) for own in moments]))
        mean, spread, count = merged_moments(rows[..., 0], rows[..., 1], rows[0, :, 2])
        deviation = (spread / (count - 1)).sqrt()
        return [
            batch._replace(advantages=losses.standardized(batch.advantages, *numbers))
            for batch, *numbers in zip(batches, mean, deviation, strict=True)
        ]

    def _improve(self, batch: Minibatch, number: int) -> None:
        """Take one gradient step on a minibatch, unless the iteration has stopped or something is not finite."""
        now, (loss, measured) = self.schedules.now, self._objective(batch)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.processes.size > 1:
            self.telemetry.faults.inspect_own(measured[:3])
            self.optimizer.average_gradients(self.processes, measured)
        norms = self.optimizer.gradient_norms()
        sound = self.telemetry.faults.inspect_step(measured[:3], norms, number)
        counts = ~self._stopped
        self._stopped |= measured[3] > KL_MARGIN * now.target_kl
        norm = norms.norm()
        self.telemetry.add_step(torch.cat([measured, norm[None]]), counts)
        self.optimizer.step(now.lr, norm, now.max_grad_norm, sound & ~self._stopped)

    def _is_over(self) -> bool:
        """Tell whether to spare the rest of an iteration that has stopped; a GPU is not waited for."""
        can_stop = self.config.target_kl is not None
        return can_stop and self._stopped.device.type == "cpu" and bool(self._stopped)


def objective(
    policy: Policy, now: Hyperparameters, batch: Minibatch, normalize_advantages: bool
) -> tuple[Tensor, Tensor]:
    """Return the loss of a minibatch, and policy_loss, value_loss, entropy, approx_kl and clip_frac."""
    state = None if batch.state is None else batch.state[0]
    new = policy.evaluate(batch.obs, batch.policy_action, state, batch.starts, batch.action_mask)
    log_ratio = new.log_prob - batch.log_prob
    ratio = log_ratio.exp()
    advantages = losses.normalized(batch.advantages) if normalize_advantages else batch.advantages
    policy_loss = losses.clipped_surrogate(ratio, advantages, now.clip_eps)
    value_loss = losses.squared_error(new.value, batch.value, batch.returns, now.vf_clip_eps)
    entropy = new.entropy.mean()
    loss = policy_loss + now.vf_coef * value_loss - now.ent_coef * entropy
    with torch.no_grad():
        distance = losses.approximate_kl(ratio, log_ratio), losses.clip_fraction(ratio, now.clip_eps)
    return loss, torch.stack([policy_loss, value_loss, entropy, *distance]).detach()


def _compiled(function: Objective) -> Objective:
    # Here, since it takes a second to import.
    from torch._dynamo.exc import TorchDynamoException

    compiled = torch.compile(function)

    def call(batch: Minibatch) -> tuple[Tensor, Tensor]:
        try:
            return compiled(batch)
        except TorchDynamoException as error:
            # The first line says what failed; the rest is the compiler's own account.
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            message = f"compile=True, but torch.compile failed: {reason}; fix that, or set compile=False"
            raise BackendError(message) from error

    return call
