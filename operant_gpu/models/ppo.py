"""Proximal policy optimization: collect steps, learn from them, report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from gymnasium.vector import AutoresetMode
from torch import Generator, Tensor, nn

from operant_gpu.environment import is_integer
from operant_gpu.errors import InvalidConfig, TrainingError
from operant_gpu.models import checkpoint
from operant_gpu.models.config import PPOConfig
from operant_gpu.models.controller import Controller
from operant_gpu.models.graphs import Stage
from operant_gpu.models.normalization import RewardNormalizer
from operant_gpu.models.optimizer import Adam
from operant_gpu.models.policy import make_policy
from operant_gpu.models.presets import PRESETS
from operant_gpu.models.rnd import RND, IntrinsicReward
from operant_gpu.models.rollout import Rollout, collect
from operant_gpu.models.telemetry import Metrics, Telemetry
from operant_gpu.models.update import Update
from operant_gpu.vector import VecEnv

Callback = Callable[[Metrics], bool | None]


class PPO:
    """Learn a policy with proximal policy optimization (Schulman et al., 2017).

    All data stays on `env.device`; the environments write into the learner's buffers, and within an iteration nothing
    waits for the device. On a GPU, rollout and update are captured as CUDA graphs in the second iteration.

    Args:
        env: Environments in SAME_STEP mode.
        config: Hyperparameters; if None, the preset for the environment, or the defaults if it has none.
        network: A network of the caller's own; `operant_gpu.models.networks` says what is expected of it.
        intrinsic: A reward of the learner's own; `config.rnd_coef` makes an `RND`.

    Attributes:
        policy: The `Policy` that is trained.
        timesteps: Environment steps learned from so far.
        iterations: Iterations so far.

    Raises:
        InvalidConfig: If environments, settings and network do not fit, before anything is allocated.
    """

    def __init__(
        self,
        env: VecEnv,
        config: PPOConfig | None = None,
        *,
        network: nn.Module | None = None,
        intrinsic: IntrinsicReward | None = None,
    ) -> None:
        self.env, self.config = env, _checked(env, config, intrinsic)
        config, device = self.config, env.device
        spaces = env.single_observation_space, env.single_action_space
        self.policy = make_policy(*spaces, config, network).to(device)
        parameters = dict(self.policy.named_parameters())
        self.optimizer = Adam(parameters.values(), config.lr, device)
        self.reward_normalizer = (
            RewardNormalizer(env.num_envs, config.gamma).to(device) if config.normalize_rewards else None
        )
        self.intrinsic = _curiosity(env, config) if intrinsic is None else intrinsic.to(device)
        self.timesteps = self.iterations = 0
        self._lr = config.lr
        self._generator = Generator(device).manual_seed(config.seed)
        self._telemetry = Telemetry(list(parameters), env.num_envs, device)
        self._update = Update(
            self.policy,
            self.optimizer,
            config,
            self._generator,
            self._telemetry,
            env.max_episode_steps,
            self.reward_normalizer,
            self.intrinsic,
        )
        self._rollout: Rollout | None = None
        self._stages: list[Stage] = []

    @property
    def engine(self) -> str:
        """How iterations run: "graph" where rollout and update both replay CUDA graphs, else "eager"."""
        return "graph" if self._stages and all(stage.captured for stage in self._stages) else "eager"

    def learn(self, total_timesteps: int | None = None, callback: Callback | None = None) -> PPO:
        """Train for `total_timesteps` environment steps, rounded up to whole iterations.

        The learning rate falls over this call. A recurrent policy's memory begins anew in each call.

        Args:
            total_timesteps: Steps to take in this call, over all environments; the config's if None.
            callback: Called with the metrics at every logging interval and after the last iteration; training stops
                when it returns False. Metrics are timesteps, iterations, sps (steps per second), lr, episodes,
                mean_reward and mean_length (of the last 100 episodes or some more; NaN before the first ends), and
                as means since the last call policy_loss, value_loss, entropy, approx_kl, clip_frac, grad_norm and
                explained_variance.

        Returns:
            The learner itself.

        Raises:
            InvalidConfig: If `total_timesteps` is not above 0.
            TrainingError: If an observation, reward, loss or gradient is not finite, with where that was first
                seen. The policy stays as it was before, and can be saved.
        """
        total = self.config.total_timesteps if total_timesteps is None else total_timesteps
        if not is_integer(total) or total < 1:
            raise InvalidConfig("total_timesteps", f"expected an integer of at least 1, got {total!r}")
        self._begin()
        first, started, going_on = self.timesteps, time.perf_counter(), True
        while going_on:
            done = self.timesteps - first
            self._iterate(1.0 - done / total if self.config.anneal_lr else 1.0)
            done = self.timesteps - first
            going_on = done < total
            if not going_on or self.iterations % self.config.log_interval == 0:
                metrics = self._metrics() | {"sps": done / (time.perf_counter() - started)}
                if callback is not None and callback(metrics) is False:
                    going_on = False
            self._save_checkpoint(due=not going_on or self.iterations % self.config.checkpoint_interval == 0)
        return self

    def controller(self, deterministic: bool = True) -> Controller:
        """Return a function from observations to actions that remembers, if the policy does.

        Args:
            deterministic: Whether to take the likeliest actions rather than to sample.
        """
        return Controller(self.policy, self.env.single_observation_space.shape or (), self._generator, deterministic)

    def predict(self, obs: Any, deterministic: bool = True, action_mask: Any = None) -> Tensor:
        """Return actions that the environment takes, for observations that begin an episode or need no memory.

        Args:
            obs: Observations (batch, *shape), or one (*shape); a tensor or anything `torch.as_tensor` reads.
            deterministic: Whether to take the likeliest actions rather than to sample.
            action_mask: Where actions are legal, (batch, choices) bool; None if all are.

        Raises:
            InvalidConfig: If the shape is another, or the policy is recurrent: that takes a `controller`.
        """
        if self.policy.state_size:
            raise InvalidConfig("obs", "a recurrent policy acts on what came before: use learner.controller()")
        return self.controller(deterministic)(obs, action_mask=action_mask)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write policy, optimizer, statistics and settings to a file, whole or not at all."""
        checkpoint.write(path, self)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        env: VecEnv | None = None,
        *,
        network: nn.Module | None = None,
        intrinsic: IntrinsicReward | None = None,
    ) -> PPO:
        """Read what `save` wrote.

        Args:
            path: The file.
            env: Environments to go on with; if None, one new environment of the same id and parameters. Sampling
                begins anew from the seed.
            network: The caller's own, if it was trained with one.
            intrinsic: Likewise.

        Raises:
            InvalidConfig: If the file is not such a checkpoint, or its policy does not fit environment or network.
        """
        return checkpoint.read(path, cls, env, network=network, intrinsic=intrinsic)

    def _begin(self) -> None:
        """Go on from where the environments are: the caller may have stepped or reset them since the last call."""
        if self._rollout is None:
            self.config.check_rollout(self.env.num_envs)
            self.env.reset(seed=self.config.seed)
            self._rollout = Rollout(self.env, self.policy, self.config.n_steps)
            self._stages = self._make_stages(self._rollout)
        self._rollout.begin(self.env)

    def _make_stages(self, rollout: Rollout) -> list[Stage]:
        def stage(function: Callable[[], None]) -> Stage:
            return Stage(function, self._generator, capture=self.config.engine != "eager")

        return [
            stage(lambda: collect(self.env, self.policy, rollout, self._generator)),
            stage(lambda: self._update(rollout)),
        ]

    def _iterate(self, lr_share: float) -> None:
        """Collect steps and learn from them. Waits for nothing."""
        self._lr = self.config.lr * lr_share
        self.optimizer.set_lr(self._lr)
        for stage in self._stages:
            stage()
        self.timesteps += self.config.n_steps * self.env.num_envs
        self.iterations += 1

    def _metrics(self) -> Metrics:
        """Read what was measured since the last time, and raise what has gone wrong. Waits for the device."""
        measured, faults = self._telemetry.read()
        if faults:
            self._telemetry.faults.clear()
            later = f"; then {', '.join(map(str, faults[1:3]))}" if len(faults) > 1 else ""
            message = (
                f"a number is not finite: first {faults[0]}{later}. The policy is as it was before; try a lower lr"
            )
            raise TrainingError(message)
        self.env.check()
        return {"timesteps": self.timesteps, "iterations": self.iterations, "lr": self._lr, **measured}

    def _save_checkpoint(self, due: bool) -> None:
        if due and self.config.checkpoint_dir is not None:
            checkpoint.write_newest(self.config.checkpoint_dir, self, self.config.checkpoint_keep)


def _checked(env: VecEnv, config: PPOConfig | None, intrinsic: IntrinsicReward | None) -> PPOConfig:
    """Return the settings, if they fit the environments."""
    if not isinstance(env, VecEnv):
        raise InvalidConfig("env", f"expected a VecEnv (operant_gpu.make(...)), got {env!r}")
    if env.output != "torch":
        raise InvalidConfig("env", f"PPO needs output='torch', got {env.output!r}")
    if env.autoreset_mode is not AutoresetMode.SAME_STEP:
        raise InvalidConfig("env", f"PPO needs autoreset_mode=SAME_STEP, got {env.autoreset_mode.name}")
    if config is None:
        id = env.environment.id
        config = PPOConfig.for_env(id) if id in PRESETS else PPOConfig()
    if not isinstance(config, PPOConfig):
        raise InvalidConfig("config", f"expected a PPOConfig, got {config!r}")
    if config.engine == "graph" and env.device.type != "cuda":
        raise InvalidConfig(
            "engine", f"'graph' needs environments on a CUDA device, these are on {env.device}: use 'auto'"
        )
    if intrinsic is not None and config.rnd_coef:
        raise InvalidConfig("rnd_coef", "an intrinsic reward was given: set rnd_coef=0, or leave intrinsic out")
    if intrinsic is not None and not isinstance(intrinsic, IntrinsicReward):
        raise InvalidConfig("intrinsic", f"expected an IntrinsicReward, got {intrinsic!r}")
    return config


def _curiosity(env: VecEnv, config: PPOConfig) -> IntrinsicReward | None:
    if not config.rnd_coef:
        return None
    shape = env.single_observation_space.shape or ()
    return RND(shape, env.num_envs, config.gamma, config.rnd_coef, config.seed, env.device)
