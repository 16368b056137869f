"""Proximal policy optimization: collect steps, learn from them, report."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Generator, Tensor, nn

from operant_gpu.environment import is_integer
from operant_gpu.errors import ActionError, BackendError, InvalidConfig, TrainingError
from operant_gpu.models import checkpoint
from operant_gpu.models.config import PPOConfig
from operant_gpu.models.controller import Controller
from operant_gpu.models.faults import Fault
from operant_gpu.models.fused import FusedUpdate, find_obstacle
from operant_gpu.models.graphs import Stage
from operant_gpu.models.normalization import RewardNormalizer
from operant_gpu.models.optimizer import Adam, Schedule
from operant_gpu.models.policies import make_policy
from operant_gpu.models.policy import Policy
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
    waits for the device. On a GPU an iteration is captured as CUDA graphs when it comes the second time.

    Args:
        env: Environments in SAME_STEP mode.
        config: Hyperparameters; if None, the preset for the environment, or the defaults if it has none.
        network: A network of the caller's own; `operant_gpu.models.networks` says what is expected of it.
        intrinsic: A reward of the learner's own; `config.rnd_coef` makes an `RND`.

    Attributes:
        policy: The `Policy` that is trained; an `MLPPolicy`, which `env.rollout` takes, where settings allow one.
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
        self._schedule = Schedule(config.lr, config.anneal_lr, config.n_steps * env.num_envs, device)
        self._generator = Generator(device).manual_seed(config.seed)
        self._telemetry = Telemetry(list(parameters), env.num_envs, device)
        arguments: dict[str, Any] = {
            "policy": self.policy,
            "optimizer": self.optimizer,
            "schedule": self._schedule,
            "config": config,
            "generator": self._generator,
            "telemetry": self._telemetry,
            "max_episode_steps": env.max_episode_steps,
            "reward_normalizer": self.reward_normalizer,
            "intrinsic": self.intrinsic,
        }
        self._obstacle = _obstacle(env, self.policy, config)
        self._update = FusedUpdate(env=env, **arguments) if self._obstacle is None else Update(**arguments)
        self._rollout: Rollout | None = None
        self._stages: list[Stage] = []
        self._warned = False

    @property
    def engine(self) -> str:
        """How iterations run: "fused", "graph" where rollout and update both replay CUDA graphs, else "eager"."""
        if self._obstacle is None:
            return "fused"
        return "graph" if self._stages and all(stage.captured for stage in self._stages) else "eager"

    @property
    def engine_reason(self) -> str:
        """Why iterations run so, in a sentence."""
        if self._obstacle is None:
            return f"fused kernels train this network on {self.env.device}"
        failure = next((f"; no graph: {stage.failure}" for stage in self._stages if stage.failure is not None), "")
        return f"not fused: {self._obstacle}{failure}"

    def learn(self, total_timesteps: int | None = None, callback: Callback | None = None) -> PPO:
        """Train for `total_timesteps` environment steps, rounded up to whole iterations.

        The first call resets the environments with the config's seed. The learning rate falls over each call, and a
        recurrent policy's memory begins anew.

        Args:
            total_timesteps: Steps to take in this call, over all environments; the config's if None.
            callback: Called with the metrics at every logging interval and after the last iteration; training stops
                when it returns False. It must leave `env` alone: evaluate in environments of its own. Metrics are
                timesteps, iterations, sps (steps per second), lr, episodes, mean_reward and mean_length (of the last
                100 episodes or some more; NaN before the first ends), and as means since the last call policy_loss,
                value_loss, entropy, approx_kl, clip_frac, grad_norm and explained_variance.

        Returns:
            The learner itself.

        Raises:
            InvalidConfig: If `total_timesteps` is not above 0, or the folder for checkpoints cannot be written.
            BackendError: With `engine="graph"`, if an iteration cannot be captured; if `torch.compile` fails.
            TrainingError: If an observation, reward, loss or gradient is not finite, with where that was first
                seen. The policy stays as it was before, and can be saved.
        """
        total = self.config.total_timesteps if total_timesteps is None else total_timesteps
        if not is_integer(total) or total < 1:
            raise InvalidConfig("total_timesteps", f"expected an integer of at least 1, got {total!r}")
        if callback is not None and not callable(callback):
            raise InvalidConfig("callback", f"expected a function of a dict of metrics, got {callback!r}")
        self._begin()
        self._schedule.begin(total)
        first, started, going_on = self.timesteps, time.perf_counter(), True
        while going_on:
            self._iterate()
            done = self.timesteps - first
            going_on = done < total
            if not going_on or self.iterations % self.config.log_interval == 0:
                metrics = self._metrics() | {"sps": done / (time.perf_counter() - started)}
                if callback is not None and _is_false(callback(metrics)):
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
        config: PPOConfig | None = None,
        network: nn.Module | None = None,
        intrinsic: IntrinsicReward | None = None,
    ) -> PPO:
        """Read what `save` wrote.

        Args:
            path: The file.
            env: Environments to go on with; if None, as many new ones of the same id and parameters. Sampling begins
                anew from the seed.
            config: Settings to go on with; the saved ones if None. The network's must be the same.
            network: The caller's own, if it was trained with one.
            intrinsic: Likewise.

        Raises:
            InvalidConfig: If the file is not such a checkpoint, or its policy does not fit environment or network.
        """
        return checkpoint.read(path, cls, env, config, network=network, intrinsic=intrinsic)

    def _begin(self) -> None:
        """Go on from where the environments are: the caller may have stepped or reset them since the last call."""
        if self._rollout is None:
            if self.config.checkpoint_dir is not None:
                checkpoint.check_writable("checkpoint_dir", Path(self.config.checkpoint_dir) / "checkpoint")
            self.env.reset(seed=self.config.seed)
            self._rollout = Rollout(self.env, self.policy, self.config.n_steps, self._obstacle is None)
            self._stages = self._make_stages(self._rollout)
        self._rollout.begin(self.env)
        if isinstance(self._update, FusedUpdate):
            self._update.begin(self.iterations)

    def _make_stages(self, rollout: Rollout) -> list[Stage]:
        def stage(function: Callable[[], None]) -> Stage:
            return Stage(function, self._generator, capture=self.config.engine != "eager")

        update = self._update
        if isinstance(update, FusedUpdate):
            return [stage(lambda: update.iterate(rollout))]
        return [
            stage(lambda: collect(self.env, self.policy, rollout, self._generator)),
            stage(lambda: self._update(rollout)),
        ]

    def _iterate(self) -> None:
        """Collect steps and learn from them. Waits for nothing."""
        # Gradients are wanted wherever the caller is.
        with torch.enable_grad():
            for stage in self._stages:
                stage()
        self._go_on_without_graphs()
        self.timesteps += self.config.n_steps * self.env.num_envs
        self.iterations += 1

    def _go_on_without_graphs(self) -> None:
        """After a capture that failed, replay no graph: those captured before share generators with it."""
        failures = [stage.failure for stage in self._stages if stage.failure is not None]
        if not failures or self._warned:
            return
        for stage in self._stages:
            stage.run_eagerly()
        self._warned = True
        if self.config.engine == "graph":
            raise BackendError(f"engine='graph', but an iteration cannot be captured: {failures[0]}; use 'auto'")
        message = f"no CUDA graph, training goes on eagerly: {failures[0]}"
        warnings.warn(message, RuntimeWarning, stacklevel=3)

    def _metrics(self) -> Metrics:
        """Read what was measured since the last time, and raise what has gone wrong. Waits for the device."""
        measured, faults = self._telemetry.read()
        if faults:
            self._telemetry.faults.clear()
            # The environments count the actions that came of it; they are of no use to the next call.
            with contextlib.suppress(ActionError):
                self.env.check()
            raise TrainingError(_account(faults))
        if not torch.stack([parameter.isfinite().all() for parameter in self.policy.parameters()]).all():
            message = f"the policy is not finite after iteration {self.iterations}: lower lr, from a checkpoint"
            raise TrainingError(message)
        self.env.check()
        return {"timesteps": self.timesteps, "iterations": self.iterations, "lr": float(self._schedule.lr), **measured}

    def _save_checkpoint(self, due: bool) -> None:
        # After a fault nothing is learned until it is reported: such a checkpoint would only push out better ones.
        if due and self.config.checkpoint_dir is not None and not self._telemetry.faults.any:
            checkpoint.write_newest(self.config.checkpoint_dir, self, self.config.checkpoint_keep)


def _account(faults: list[Fault]) -> str:
    later = f"; then {', '.join(map(str, faults[1:3]))}" if len(faults) > 1 else ""
    advice = "try a lower lr" if faults[0].gradient_step else "look at what the environment gives"
    return f"a number is not finite: first {faults[0]}{later}. The policy is as it was before; {advice}"


def _is_false(result: object) -> bool:
    """Tell Python's and NumPy's False from None and everything else."""
    return isinstance(result, bool | np.bool_) and not result


def _checked(env: VecEnv, config: PPOConfig | None, intrinsic: IntrinsicReward | None) -> PPOConfig:
    """Return the settings, if they fit the environments."""
    if not isinstance(env, VecEnv):
        raise InvalidConfig("env", f"expected a VecEnv (operant_gpu.make(...)), got {env!r}")
    if env.single_observation_space.shape == ():
        raise InvalidConfig("env", "PPO needs observations with an axis: give the Box a shape, such as (1,)")
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
    config.check_rollout(env.num_envs)
    if intrinsic is not None and config.rnd_coef:
        raise InvalidConfig("rnd_coef", "an intrinsic reward was given: set rnd_coef=0, or leave intrinsic out")
    if intrinsic is not None and not isinstance(intrinsic, IntrinsicReward):
        raise InvalidConfig("intrinsic", f"expected an IntrinsicReward, got {intrinsic!r}")
    return config


def _obstacle(env: VecEnv, policy: Policy, config: PPOConfig) -> str | None:
    """Return why the learner is not to be fused; None if it is."""
    if config.engine not in ("auto", "fused"):
        return f"engine={config.engine!r}"
    obstacle = find_obstacle(env, policy, config)
    if obstacle is not None and config.engine == "fused":
        raise InvalidConfig("engine", f"'fused' cannot be had here: {obstacle}; use 'auto'")
    return obstacle


def _curiosity(env: VecEnv, config: PPOConfig) -> IntrinsicReward | None:
    if not config.rnd_coef:
        return None
    shape = env.single_observation_space.shape or ()
    return RND(shape, env.num_envs, config.gamma, config.rnd_coef, config.seed, env.device)
