"""Proximal policy optimization: collect steps, estimate advantages, climb the clipped objective."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from torch import Generator, Tensor, nn

from operant_gpu.environment import is_integer
from operant_gpu.errors import InvalidConfig, TrainingError
from operant_gpu.models.config import PPOConfig
from operant_gpu.models.policy import ActorCritic
from operant_gpu.models.rollout import Batch, Rollout, generalized_advantages
from operant_gpu.registry import make
from operant_gpu.vector import VecEnv

Metrics = dict[str, float]
Callback = Callable[[Metrics], bool | None]

_CHECKPOINT_FORMAT = 1
# Episodes that `mean_reward` and `mean_length` are taken over.
_RECENT_EPISODES = 100
_ADVANTAGE_EPS = 1e-8


class PPO:
    """Learn a policy with proximal policy optimization (Schulman et al., 2017).

    All data stays on `env.device`; the environments write into the learner's buffers.

    Args:
        env: Environments in SAME_STEP mode.
        config: Hyperparameters.

    Attributes:
        policy: The `ActorCritic` that is trained.
        timesteps: Environment steps learned from so far.

    Raises:
        InvalidConfig: If environments and settings do not fit.
    """

    def __init__(self, env: VecEnv, config: PPOConfig | None = None) -> None:
        self.env, self.config = env, config or PPOConfig()
        _check(env, self.config)
        # The CPU draws the weights, so that a seed gives the same policy on every device.
        weights = Generator().manual_seed(self.config.seed)
        spaces = env.single_observation_space, env.single_action_space
        self.policy = ActorCritic(*spaces, self.config.hidden_sizes, weights).to(env.device)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=self.config.lr, eps=1e-5)
        self.timesteps = 0
        self._generator = Generator(env.device).manual_seed(self.config.seed)
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RECENT_EPISODES)
        self._episodes = 0
        self._rollout: Rollout | None = None

    def learn(self, total_timesteps: int, callback: Callback | None = None) -> PPO:
        """Train for `total_timesteps` environment steps, rounded up to whole iterations.

        Args:
            total_timesteps: Steps to take in this call, over all environments.
            callback: Called with the metrics once an iteration; training stops when it returns False. Metrics are
                timesteps, sps (steps per second), episodes, mean_reward and mean_length (of the last 100 episodes, of
                all while there are fewer, NaN before the first ends), policy_loss, value_loss, entropy, approx_kl,
                clip_frac, explained_variance, grad_norm and lr.

        Returns:
            The learner itself.

        Raises:
            InvalidConfig: If `total_timesteps` is not above 0, or an iteration has fewer steps than `batch_size`.
            TrainingError: If a loss or gradient is not finite; the policy is of no use then.
        """
        if not is_integer(total_timesteps) or total_timesteps < 1:
            raise InvalidConfig("total_timesteps", f"expected an integer of at least 1, got {total_timesteps!r}")
        self._check_batch()
        rollout = self._rollout = self._rollout or self._first_rollout()
        # The caller may have stepped or reset the environments since the last call.
        rollout.obs[-1] = self.env.observe()
        started, first = time.perf_counter(), self.timesteps
        while self.timesteps - first < total_timesteps:
            self._anneal((self.timesteps - first) / total_timesteps)
            self._collect(rollout)
            losses = self._update(self._batch(rollout))
            sps = (self.timesteps - first) / (time.perf_counter() - started)
            metrics = {"timesteps": self.timesteps, "sps": sps, **self._episode_metrics(rollout), **losses}
            if callback is not None and callback(metrics) is False:
                break
        return self

    @torch.no_grad()
    def predict(self, obs: Any, deterministic: bool = True) -> Tensor:
        """Return actions that the environment takes.

        Args:
            obs: Observations (batch, *shape), or one (*shape); a tensor or anything `torch.as_tensor` reads.
            deterministic: Whether to take the likeliest actions rather than to sample.
        """
        tensor = torch.as_tensor(obs, dtype=torch.float32, device=self.env.device)
        shape = self.env.single_observation_space.shape or ()
        if tensor.shape != shape and tensor.shape[1:] != shape:
            raise InvalidConfig("obs", f"expected shape {shape} or (batch, *{shape}), got {tuple(tensor.shape)}")
        batch = tensor.reshape(-1, *shape)
        actions = self.policy.mode(batch) if deterministic else self.policy.act(batch, self._generator)[0]
        actions = self.policy.head.for_environment(actions)
        return actions[0] if tensor.shape == shape else actions

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write policy, optimizer and settings to a file, whole or not at all."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        torch.save(
            {
                "format": _CHECKPOINT_FORMAT,
                "env": self.env.environment.id,
                "params": self.env.params._asdict(),
                "config": asdict(self.config),
                "timesteps": self.timesteps,
                "policy": self.policy.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
            partial,
        )
        partial.replace(target)

    @classmethod
    def load(cls, path: str | os.PathLike[str], env: VecEnv | None = None) -> PPO:
        """Read what `save` wrote.

        Args:
            path: The file.
            env: Environments to go on with; if None, one new environment of the same id and parameters. Sampling
                begins anew from the seed.

        Raises:
            InvalidConfig: If the file is not such a checkpoint, or its policy does not fit the environment.
        """
        saved = _read(path)
        env = env or make(saved["env"], 1, **saved["params"])
        learner = cls(env, PPOConfig(**saved["config"]))
        try:
            learner.policy.load_state_dict(saved["policy"])
            learner.optimizer.load_state_dict(saved["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise InvalidConfig(
                "path", f"the policy in {path}, of {saved['env']}, does not fit {env}: {error}"
            ) from error
        learner.timesteps = saved["timesteps"]
        return learner

    def _first_rollout(self) -> Rollout:
        obs, _ = self.env.reset(seed=self.config.seed)
        with torch.no_grad():
            action = self.policy.act(obs, Generator(self.env.device))[0]
        return Rollout(self.env, self.config.n_steps, action)

    def _check_batch(self) -> None:
        steps = self.config.n_steps * self.env.num_envs
        if steps < self.config.batch_size:
            collected = f"the {self.config.n_steps} x {self.env.num_envs} = {steps} steps of an iteration"
            message = f"{self.config.batch_size} is more than {collected}: lower it, or raise n_steps or num_envs"
            raise InvalidConfig("batch_size", message)

    def _anneal(self, progress: float) -> None:
        if self.config.anneal_lr:
            self.optimizer.param_groups[0]["lr"] = self.config.lr * (1.0 - progress)

    @torch.no_grad()
    def _collect(self, rollout: Rollout) -> None:
        """Step the environments `n_steps` times, into the rollout."""
        rollout.obs[0] = rollout.obs[-1]
        for step in range(self.config.n_steps):
            actions, log_probs, values = self.policy.act(rollout.obs[step], self._generator)
            rollout.actions[step], rollout.log_probs[step], rollout.values[step] = actions, log_probs, values
            info = self.env.step(self.policy.head.for_environment(actions), out=rollout.outputs(step))[-1]
            rollout.episode_return[step], rollout.episode_length[step] = info["episode"]["r"], info["episode"]["l"]
        self.timesteps += rollout.rewards.numel()

    @torch.no_grad()
    def _batch(self, rollout: Rollout) -> Batch:
        """Return the rollout's steps, flattened, with advantages and the returns that the critic learns."""
        next_values = torch.cat([rollout.values[1:], self.policy.value(rollout.obs[-1])[None]])
        # The value after a truncation is that of the episode that was cut, not of the one that follows.
        cut = rollout.truncated & ~rollout.terminated
        next_values[cut] = self.policy.value(rollout.final_obs[cut])
        config, flags = self.config, (rollout.terminated, rollout.truncated)
        advantages = generalized_advantages(
            rollout.rewards, rollout.values, next_values, *flags, config.gamma, config.gae_lambda
        )
        steps = Batch(
            rollout.obs[:-1],
            rollout.actions,
            rollout.log_probs,
            rollout.values,
            advantages,
            advantages + rollout.values,
        )
        return Batch(*(tensor.flatten(0, 1) for tensor in steps))

    def _update(self, batch: Batch) -> Metrics:
        """Take `n_epochs` passes over the batch in minibatches; return the means of what was measured."""
        size = len(batch.obs)
        measured = []
        for _ in range(self.config.n_epochs):
            order = torch.randperm(size, generator=self._generator, device=self.env.device)
            for rows in order.tensor_split(size // self.config.batch_size):
                minibatch = Batch(*(tensor[rows] for tensor in batch))
                measured.append(self._climb(minibatch))
        means = torch.stack(measured).mean(0).tolist()
        if not all(map(math.isfinite, means)):
            raise TrainingError(f"a loss or gradient is not finite after {self.timesteps} timesteps: try a lower lr")
        unexplained = (batch.returns - batch.values).var() / batch.returns.var()
        names = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_frac", "grad_norm")
        return {
            **dict(zip(names, means, strict=True)),
            "explained_variance": 1.0 - float(unexplained),
            "lr": self.optimizer.param_groups[0]["lr"],
        }

    def _climb(self, batch: Batch) -> Tensor:
        """Take one gradient step on a minibatch."""
        config = self.config
        new = self.policy.evaluate(batch.obs, batch.actions)
        log_ratio = new.log_prob - batch.log_probs
        ratio = log_ratio.exp()
        advantages = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + _ADVANTAGE_EPS)
        clipped = ratio.clamp(1.0 - config.clip_eps, 1.0 + config.clip_eps)
        policy_loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
        value_loss = 0.5 * (new.value - batch.returns).square().mean()
        entropy = new.entropy.mean()
        loss = policy_loss + config.vf_coef * value_loss - config.ent_coef * entropy

        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        grad_norm = nn.utils.clip_grad_norm_(self.policy.parameters(), config.max_grad_norm)
        self.optimizer.step()
        with torch.no_grad():
            # Schulman's estimator of the divergence from the policy that collected: unbiased and never negative.
            approx_kl = (ratio - 1.0 - log_ratio).mean()
            clip_frac = ((ratio - 1.0).abs() > config.clip_eps).float().mean()
            return torch.stack([policy_loss, value_loss, entropy, approx_kl, clip_frac, grad_norm])

    def _episode_metrics(self, rollout: Rollout) -> Metrics:
        self.env.check()
        ended = rollout.terminated | rollout.truncated
        returns, lengths = rollout.episode_return[ended].tolist(), rollout.episode_length[ended].tolist()
        self._recent.extend(zip(returns, lengths, strict=True))
        self._episodes += len(returns)
        count = len(self._recent)
        means = [sum(column) / count for column in zip(*self._recent, strict=True)] or [float("nan")] * 2
        return {"episodes": self._episodes, "mean_reward": means[0], "mean_length": means[1]}


def _check(env: VecEnv, config: PPOConfig) -> None:
    if not isinstance(env, VecEnv):
        raise InvalidConfig("env", f"expected a VecEnv (operant_gpu.make(...)), got {env!r}")
    if not isinstance(config, PPOConfig):
        raise InvalidConfig("config", f"expected a PPOConfig, got {config!r}")
    if env.output != "torch":
        raise InvalidConfig("env", f"PPO needs output='torch', got {env.output!r}")
    if env.autoreset_mode is not AutoresetMode.SAME_STEP:
        raise InvalidConfig("env", f"PPO needs autoreset_mode=SAME_STEP, got {env.autoreset_mode.name}")


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InvalidConfig("path", f"there is no file {os.fspath(path)!r}") from None
    except Exception as error:
        raise InvalidConfig("path", f"{os.fspath(path)!r} is not a checkpoint of PPO: {error}") from error
    if not isinstance(saved, dict) or saved.get("format") != _CHECKPOINT_FORMAT:
        raise InvalidConfig("path", f"{os.fspath(path)!r} is not a checkpoint of PPO in format {_CHECKPOINT_FORMAT}")
    return saved
