"""Proximal policy optimization, as a user holds it: train, stop, resume, act, save and load."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from operant_gpu.errors import CheckpointError, InvalidConfig, Lack, ProcessError, TrainingError, one_line, whole
from operant_gpu.files import as_path
from operant_gpu.models.config import Constructor, PPOConfig, refuse_unknown, unknown_setting
from operant_gpu.models.contexts import plain
from operant_gpu.models.policies.controller import Controller
from operant_gpu.models.policies.making import make_policy
from operant_gpu.models.policies.normalization import RewardNormalizer
from operant_gpu.models.policies.policy import Policy
from operant_gpu.models.ppo import checkpoint
from operant_gpu.models.ppo.fused import FusedUpdate
from operant_gpu.models.ppo.loop import Loop, digest
from operant_gpu.models.ppo.optimizer import Adam
from operant_gpu.models.ppo.rnd import IntrinsicReward
from operant_gpu.models.ppo.schedules import NAMES, Schedules
from operant_gpu.models.ppo.setup import check_units, checked_config, curiosity, obstacle_to_fusing, usual_settings
from operant_gpu.models.ppo.shares import join, seed_of
from operant_gpu.models.ppo.telemetry import Metrics, Telemetry
from operant_gpu.models.ppo.update import Update
from operant_gpu.processes import END_OF_ITERATION, FAILED, FAULTY, STOP, Processes, present
from operant_gpu.vector import VecEnv

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Callback = Callable[[Metrics], bool | None]

# Numbers that a checkpoint keeps.
_log = logging.getLogger("operant_gpu")
_PROGRESS = ("timesteps", "iterations", "seconds", "start", "target")


def _settings_are_refused(init: Constructor) -> Constructor:
    """Let PPO tell where its settings go."""

    def message(name: str, value: Any) -> str:
        if any(name == setting.name for setting in fields(PPOConfig)):
            return f"settings go into one object: PPO(env, PPOConfig({name}={value!r}))"
        return unknown_setting(name)

    return refuse_unknown(init, message)


class PPO:
    """Learn a policy with proximal policy optimization (Schulman et al., 2017).

    All data stays on `env.device`; the environments write into the learner's buffers, and within an iteration nothing
    waits for the device. On a GPU an iteration is captured as CUDA graphs when it comes the second time.

    Args:
        env: Environments in SAME_STEP mode.
        config: Hyperparameters; if None, the preset for the environment, or the defaults if it has none.
        network: A network of the caller's own; `operant_gpu.models.networks` says what is expected of it.
        intrinsic: A reward of the learner's own; `config.rnd_coef` makes an `RND`.
        processes: Those that learn one policy together, each in environments of its own: a process group of
            torch.distributed; the default group, where there is one, if None; `Processes()` for this process alone.
            Each makes the learner with the same settings, and makes the same calls of it. `num_envs` and `batch_size`
            are of each process, timesteps and metrics of all.

    Attributes:
        policy: The `Policy` that is trained; an `MLPPolicy`, which `env.rollout` takes, where settings allow one.
        hyperparameters: Those that may change as it learns, to be read and written by name: callbacks may set
            `learner.hyperparameters.ent_coef = 0.0`.
        processes: Those that learn together.
        timesteps: Environment steps learned from so far.
        iterations: Iterations so far.
        training: A word that its checkpoints have in common, and no other learner's.
        seconds: Time spent in `learn` and `resume` so far.
        start: Timesteps at which the present training, or the last one, began.
        target: Timesteps at which it ends.

    Raises:
        InvalidConfig: If environments, settings and network do not fit, before anything is allocated; or if processes
            differ in them.
        ProcessError: If one of the processes has failed, left or does not answer; so do all methods that train or save.
    """

    @_settings_are_refused
    @plain()
    def __init__(
        self,
        env: VecEnv,
        config: PPOConfig | None = None,
        *,
        network: nn.Module | None = None,
        intrinsic: IntrinsicReward | None = None,
        processes: Processes | ProcessGroup | None = None,
    ) -> None:
        self.env, config, device = env, checked_config(env, config, intrinsic), env.device
        self.processes = present(processes)
        spaces = env.single_observation_space, env.single_action_space
        self.policy = make_policy(*spaces, config, network).to(device)
        parameters = dict(self.policy.named_parameters())
        self.optimizer = Adam(parameters.values(), device)
        self.hyperparameters = Schedules(config, usual_settings(env, config), self._steps_of(config), device)
        now = self.hyperparameters.now
        self.reward_normalizer = (
            RewardNormalizer(env.num_envs, now.gamma, self.processes).to(device) if config.normalize_rewards else None
        )
        self.intrinsic = curiosity(env, config, now) if intrinsic is None else intrinsic.to(device)
        if self.intrinsic is not None:
            self.intrinsic.processes = self.processes
        self._given = network is not None, intrinsic is not None
        join(self.processes, env, self.policy, self.intrinsic, config)
        self.training = self.processes.first(lambda: secrets.token_hex(8))
        self.timesteps = self.iterations = self.start = self.target = 0
        self.seconds = 0.0
        # Of a training that other processes wrote: how its environments are dealt out now.
        self._dealt: str | None = None
        self._generator = Generator(device).manual_seed(seed_of(config.seed, self.processes.rank))
        # For `predict` and controllers: they change nothing of the training.
        self._acting = Generator(device).manual_seed(config.seed)
        self._telemetry = Telemetry(list(parameters), env.num_envs, device, list(env.metric_sums))
        self._loop = Loop(self._make_update())
        self._checkpoints: Path | None = None
        # Whether `keep_checkpoints` has said where to.
        self._names_folder = False
        self._stopping = self._goes_on = self._is_training = self._has_begun = False
        # Of a saved training: what the policy remembers, and the states of PyTorch's own generators.
        self._memory: Mapping[str, Tensor] | None = None
        self._own_generators: Mapping[str, Tensor] = {}

    @plain()
    def _make_update(self) -> Update:
        """Return what takes an iteration, fused where kernels fit network and precision."""
        self._obstacle = obstacle_to_fusing(self.env, self.policy, self.config)
        self._precision = getattr(self.policy, "precision", None)
        return (FusedUpdate if self._obstacle is None else Update)(
            env=self.env,
            policy=self.policy,
            optimizer=self.optimizer,
            schedules=self.hyperparameters,
            generator=self._generator,
            telemetry=self._telemetry,
            reward_normalizer=self.reward_normalizer,
            intrinsic=self.intrinsic,
            processes=self.processes,
        )

    def _steps_of(self, config: PPOConfig) -> int:
        """Return how many environment steps an iteration has, in all processes."""
        return config.n_steps * self.env.num_envs * self.processes.size

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle a twin: a learner in environments of its own, with the same future.

        Its checkpoints are of another training: `keep_checkpoints` gives them a folder.
        """
        own = self.policy.network, self.intrinsic
        network, intrinsic = (part if given else None for part, given in zip(own, self._given, strict=True))
        return _twin, (type(self), self.env, self.config, network, intrinsic, self.processes), self.state_dict()

    def __copy__(self) -> PPO:
        """Return a twin too: two learners cannot share environments."""
        return copy.deepcopy(self)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Go on as the twin of another."""
        self.load_state_dict(state)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse what would be ignored: hyperparameters have a place of their own."""
        if name in NAMES or name == "config" or (name == "hyperparameters" and name in vars(self)):
            one = name if name in NAMES else "ent_coef"
            raise InvalidConfig(
                name, f"a learner's settings stay; write one such as learner.hyperparameters.{one} = ..."
            )
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.env}, engine={self.engine!r}, timesteps={self.timesteps})"

    @property
    def config(self) -> PPOConfig:
        """The settings, with what was written to `hyperparameters`."""
        return self.hyperparameters.config

    @property
    def engine(self) -> str:
        """How iterations run: "fused", "graph" where rollout and update both replay CUDA graphs, else "eager"."""
        if self._obstacle is None:
            return "fused"
        return "graph" if self._loop.is_captured else "eager"

    @property
    def engine_reason(self) -> str:
        """Why iterations run so, in a sentence."""
        fused = f"fused kernels train this network on {self.env.device}"
        reason = fused if self._obstacle is None else f"not fused: {self._obstacle}"
        return reason if self._loop.failure is None else f"{reason}; no graph: {self._loop.failure}"

    @property
    def slow_paths(self) -> list[str]:
        """What is slower here than it could be, and why: a sentence each. What was asked for is none."""
        lost = [] if self.env.slow_path is None else [self.env.slow_path]
        if self._obstacle is not None and self.config.engine == "auto":
            kind = type(self._obstacle)
            lost.append(kind(f"PyTorch trains the network, and not the fused kernels: {self._obstacle}"))
        if self._loop.failure is not None:
            lost.append(f"no CUDA graph is replayed: {self._loop.failure}")
        return lost

    def learn(
        self, total_timesteps: int | None = None, callback: Callback | None = None, *, progress: bool = False
    ) -> PPO:
        """Train for `total_timesteps` environment steps, rounded up to whole iterations.

        The first call resets the environments with the config's seed. Hyperparameters that are to change over a
        training do so over each call, and a recurrent policy's memory begins anew.

        Args:
            total_timesteps: Steps to take in this call, over all environments; the config's if None.
            callback: Called with the metrics at every logging interval and after the last iteration; training stops
                when it returns False, in all processes if it does in one. It must leave `env` alone: evaluate in
                environments of its own. Metrics are timesteps, iterations, seconds, lr, episodes, episodic_return,
                episodic_length and each metric of the environment as env/NAME (of the last 100 episodes or some more;
                NaN before the first ends); steps per second since the last call: sps, and env_sps and learner_sps of
                each part by itself; slow_paths, how many the attribute of that name has; and as means since the last
                call policy_loss, value_loss, entropy, approx_kl, clip_frac, grad_norm and explained_variance.
            progress: Whether to show a dashboard in the terminal, or lines where the output is none.

        Returns:
            The learner itself.

        Raises:
            InvalidConfig: If `total_timesteps` is not above 0, or the folder for checkpoints cannot be written, or has
                those of an earlier training.
            BackendError: With `engine="graph"`, if an iteration cannot be captured; if `torch.compile` fails.
            CheckpointError: If the last checkpoint cannot be written; for those before there is a warning.
            TrainingError: If an observation, reward, loss or gradient is not finite, with where that was first
                seen. The policy stays as it was before, and can be saved.
        """
        total = self.config.total_timesteps if total_timesteps is None else whole("total_timesteps", total_timesteps, 1)
        self._check_idle(callback)
        # Those are of a training that is not gone on with.
        self._own_generators = {}
        self._begin()
        self.start, self.target = self.timesteps, self.timesteps + total
        self.hyperparameters.begin(total)
        self._check_same()
        # What is killed before the first interval is over goes on from here.
        self._save_checkpoint()
        return self._train(callback, progress)

    def resume(
        self, total_timesteps: int | None = None, callback: Callback | None = None, *, progress: bool = False
    ) -> PPO:
        """Finish a training that was stopped, or loaded from a checkpoint, as if it had never been interrupted.

        On a CPU that gives the same bits, wherever the checkpoint was written.

        Args:
            total_timesteps: Steps of the whole training, if it is to be another number than before.
            callback: As for `learn`.
            progress: As for `learn`.

        Returns:
            The learner itself; nothing happens if the training was at its end.

        Raises:
            InvalidConfig: If there was no training.
        """
        if not self.target:
            raise InvalidConfig("resume", "there is no training to go on with: call learn() first, or PPO.load")
        self._check_idle(callback)
        total = self.target - self.start
        if total_timesteps is not None:
            total = whole("total_timesteps", total_timesteps, 1)
        if self.timesteps < self.start + total:
            self._begin(self._present_memory())
        self.target = self.start + total
        if self.timesteps >= self.target:
            return self
        if self._dealt is not None:
            _log.info(self._dealt)
        for name, state in self._own_generators.items():
            torch.set_rng_state(state) if name == "cpu" else torch.cuda.set_rng_state(state, self.env.device)
        self._own_generators = {}
        self.hyperparameters.begin(self.target - self.start, self.timesteps - self.start)
        self._check_same()
        # With the settings and the target that it has from here on.
        self._save_checkpoint()
        return self._train(callback, progress)

    def stop(self) -> None:
        """Let `learn` or `resume` return after the iteration under way, or the next of them at once.

        For callbacks, threads and signal handlers. In one of several processes it stops all, at the next reading of the
        metrics at the latest.
        """
        self._stopping = True

    def keep_checkpoints(self, folder: str | os.PathLike[str] | None) -> None:
        """Write checkpoints to a folder from now on, as often as the config says, in place of its `checkpoint_dir`.

        Args:
            folder: The folder; None for no more checkpoints.

        Raises:
            InvalidConfig: If it cannot be written, or has checkpoints of an earlier training.
        """
        self._names_folder = True
        self._checkpoints = None if folder is None else self._begun(as_path("folder", folder), "folder")

    def controller(self, deterministic: bool = True) -> Controller:
        """Return a function from observations to actions that remembers, if the policy does.

        Args:
            deterministic: Whether to take the likeliest actions rather than to sample.
        """
        return Controller(self.policy, self.env.single_observation_space, self._acting, deterministic)

    def predict(self, obs: Any, deterministic: bool = True, action_mask: Any = None) -> Tensor:
        """Return actions that the environment takes, for observations that begin an episode or need no memory.

        Args:
            obs: Observations (batch, *shape), or one (*shape); a tensor, an array, a table, or a list of those or of
                numbers.
            deterministic: Whether to take the likeliest actions rather than to sample.
            action_mask: Where actions are legal, (batch, choices) bool; None if all are.

        Raises:
            InvalidConfig: If the shape is another, or the policy is recurrent: that takes a `controller`.
        """
        if self.policy.state_size:
            raise InvalidConfig("obs", "a recurrent policy acts on what came before: use learner.controller()")
        return self.controller(deterministic)(obs, action_mask=action_mask)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write policy, optimizer, statistics and settings to a file, whole or not at all.

        Of several processes all call it, and the first one writes what they have, as one with all the environments.
        """
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
        device: str | torch.device = "auto",
        processes: Processes | ProcessGroup | None = None,
    ) -> PPO:
        """Read what `save` wrote: then `resume` finishes the training, and `learn` begins another.

        Of several processes all call it. The first one reads, and the environments are dealt out anew by their ids,
        however many processes wrote.

        Args:
            path: The file; or a folder of checkpoints or a run's directory, for the newest there that can be read (a
                warning tells of those that can't).
            env: Environments to go on with, which begin anew; if None, those of the file, where they were.
            config: Settings to go on with; the saved ones if None, where `batch_size` gives way if fewer environments
                take fewer steps in an iteration. The network's must be the same.
            network: The caller's own, if it was trained with one.
            intrinsic: Likewise.
            device: Where the file's environments are to be. The learner's generator goes on on a device of the same
                kind, and elsewhere begins anew from the seed.
            processes: As `PPO` takes them.

        Raises:
            InvalidConfig: If there is no such file, or its policy does not fit environment, network or settings; or if
                the environments cannot be dealt out evenly.
            CheckpointError: If the file is damaged, or not such a checkpoint.
        """
        own = present(processes)
        return checkpoint.read(path, cls, env, config, network, intrinsic, device, own)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that decides the future: policy, optimizer, statistics, draws, environments.

        But for the settings, which a learner that goes on from it must have: those of `config`, with what was written.
        """
        device, own = self.env.device, dict(self._own_generators)
        if not own:
            own["cpu"] = torch.get_rng_state()
            if device.type == "cuda":
                own["cuda"] = torch.cuda.get_rng_state(device)
        return {
            "progress": {name: getattr(self, name) for name in _PROGRESS},
            "precision": getattr(self.policy, "precision", None),
            "memory": dict(self._present_memory()),
            "frozen": [name for name, one in self.policy.named_parameters() if not one.requires_grad],
            "generators": {
                "device": device.type,
                "learner": self._generator.get_state(),
                "acting": self._acting.get_state(),
                "own": own,
            },
            "telemetry": self._telemetry.state_dict(),
            "environments": self.env.state_dict(),
            **{name: copy.deepcopy(part.state_dict()) for name, part in self._parts().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], environments: bool = True) -> None:
        """Go on from `state_dict`.

        Args:
            state: What it returned.
            environments: Whether environments and a recurrent policy's memory go on too.

        Raises:
            InvalidConfig: If it is that of another learner; this one may have parts of it then.
        """
        try:
            self._load(state, environments)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = error if isinstance(error, InvalidConfig) else f"{type(error).__name__}: {one_line(error)}"
            raise InvalidConfig("state", f"it is not that of such a learner: {reason}") from error

    def _load(self, state: Mapping[str, Any], environments: bool) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        for name in _PROGRESS:
            setattr(self, name, state["progress"][name])
        if state.get("precision") is not None:
            self.policy.precision = state["precision"]
        for name, parameter in self.policy.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name not in state.get("frozen", ()))
        if self.target:
            self.hyperparameters.begin(self.target - self.start, self.timesteps - self.start)
        self._telemetry.load_state_dict(state["telemetry"], self.iterations)
        generators = state["generators"]
        if generators["device"] == self.env.device.type:
            self._generator.set_state(generators["learner"])
            # Those of before have had none.
            self._acting.set_state(generators.get("acting", self._acting.get_state()))
            self._own_generators = generators["own"]
        if environments:
            self.env.load_state_dict(state["environments"])
            self._memory, self._goes_on = state["memory"], self.target > 0

    def _parts(self) -> dict[str, Any]:
        """Return what has a state of its own, by name."""
        names = ("policy", "optimizer", "reward_normalizer", "intrinsic")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _present_memory(self) -> Mapping[str, Tensor]:
        """Return what the policy remembers of the episodes under way."""
        return self._loop.memory() if self._memory is None else self._memory

    def _begun(self, folder: Path, param: str) -> Path:
        """Return a folder, made ready for checkpoints."""
        self.processes.first(lambda: checkpoint.begin(param, folder, self))
        return folder

    def _begin(self, memory: Mapping[str, Tensor] | None = None) -> None:
        """Make ready for iterations, in which the policy goes on from a memory or with none."""
        # The caller may have given the policy other weights since, or the learner another policy.
        if not isinstance(self.policy, Policy):
            raise InvalidConfig("policy", f"expected a Policy, got {self.policy!r}")
        check_units(self.policy, self.env, self.config)
        self.optimizer.follow(dict(self.policy.named_parameters()))
        if self._loop.update.policy is not self.policy or self._precision != getattr(self.policy, "precision", None):
            self._loop = Loop(self._make_update())
        if not self._has_begun:
            if not self._names_folder and self.config.checkpoint_dir is not None:
                self._checkpoints = self._begun(as_path("checkpoint_dir", self.config.checkpoint_dir), "checkpoint_dir")
            if not self._goes_on:
                options = {"elapsed": "random"} if self.config.staggered_starts else None
                self.env.reset(seed=self.config.seed, options=options)
                self._telemetry.begin(self.env.episode_so_far[1])
            for line in self.slow_paths or [self.engine_reason]:
                # What nobody can mend by an installation is said to those who ask.
                _log.log(logging.INFO if isinstance(line, Lack) else logging.DEBUG, line)
        self._memory = None
        self._loop.begin(self.iterations, memory)
        self._has_begun = True

    def _check_same(self) -> None:
        """Check that all processes begin the same training."""
        if self.processes.size > 1:
            with self.processes.working(self.env.device):
                learned = digest(self._loop.update.learned()).item()
            progress = {name: getattr(self, name) for name in ("timesteps", "iterations", "target", "engine")}
            others = {"checkpoints": self._checkpoints is not None, "digest of what is learned": learned}
            trainable = [one.requires_grad for one in self.policy.parameters()]
            self.processes.check_same({**asdict(self.config), **progress, **others, "trainable": trainable})

    def _train(self, callback: Callback | None, progress: bool) -> PPO:
        """Iterate up to the target, unless something asks to stop."""
        self._read_at = self.timesteps, self.seconds
        before = time.perf_counter() - self.seconds
        with _display(self, callback, progress and self.processes.rank == 0) as show, self._busy():
            with self.processes.announcing():
                failure = self._repeat(before, callback, show)
            if failure is not None:
                raise failure
        return self

    def _repeat(self, before: float, callback: Callback | None, show: Callable[[Metrics], None]) -> Exception | None:
        """Iterate; return what went wrong in this process, or in another, once all have written a checkpoint."""
        failure: Exception | None = None
        going_on = self._agree(self.timesteps < self.target and not self._stopping) == 0
        while going_on:
            self._iterate()
            self.seconds = time.perf_counter() - before
            is_due, said = self.iterations % self.config.log_interval == 0, 0
            going_on = self.timesteps < self.target
            if not is_due:
                going_on = self._agree(going_on and not self._stopping) == 0
            if is_due or not going_on:
                said, failure = self._report(is_due, going_on, callback, show)
                going_on = said == 0
            # What was learned before a fault is not lost either: the policy is as it was.
            if not said & FAULTY and (not going_on or self.iterations % self.config.checkpoint_interval == 0):
                try:
                    self._save_checkpoint(patient=going_on)
                except CheckpointError as error:
                    if failure is None:
                        raise
                    failure.__cause__ = error
        return failure

    def _report(
        self, is_due: bool, going_on: bool, callback: Callback | None, show: Callable[[Metrics], None]
    ) -> tuple[int, Exception | None]:
        """Read, show and tell the metrics; return what any process says to that, and what went wrong in any."""
        failure: Exception | None = None
        try:
            metrics = self._read(is_due)
            show(metrics)
            if callback is not None and _is_false(callback(metrics)):
                going_on = False
        except Exception as error:
            # One process by itself has nobody to tell.
            if self.processes.size == 1:
                raise
            failure = error
        try:
            said = self._agree(going_on and not self._stopping, failure)
            return said, self._failure_of_all(failure) if said & FAILED else None
        except ProcessError as error:
            if failure is None:
                raise
            # Where the callback made a call that the others did not, that is what to mend.
            raise failure from error

    def _agree(self, going_on: bool, failure: Exception | None = None) -> int:
        """Return what any process says at the end of an iteration: that it is to stop, or has failed; 0 to go on."""
        said = (0 if going_on and failure is None else STOP) | (0 if failure is None else FAILED)
        if isinstance(failure, TrainingError):
            said |= FAULTY
        said = self.processes.meet(END_OF_ITERATION, said)
        if said == STOP and self.timesteps < self.target and self.processes.size > 1:
            stopped = [rank for rank, goes in enumerate(self.processes.gather_objects(going_on)) if not goes]
            if len(stopped) < self.processes.size:
                _log.info(f"rank {' and '.join(map(str, stopped))} has stopped the training")
        return said

    def _failure_of_all(self, own: Exception | None) -> Exception:
        """Return what went wrong in this process, or else that it did in another."""
        text = None if own is None else f"{type(own).__name__}: {one_line(own)}"
        failed = [(rank, one) for rank, one in enumerate(self.processes.gather_objects(text)) if one is not None]
        return own or ProcessError("; ".join(f"rank {rank} failed: {text}" for rank, text in failed))

    def _check_idle(self, callback: Any) -> None:
        """Check that nothing stands against a training."""
        if callback is not None and not callable(callback):
            raise InvalidConfig("callback", f"expected a function of a dict of metrics, got {callback!r}")
        if self._is_training:
            raise TrainingError("this learner is training already, in a caller or another thread: one at a time")

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        """Refuse other trainings meanwhile, and forget at the end that `stop` was called."""
        self._is_training = True
        try:
            yield
        finally:
            self._is_training = self._stopping = False

    def _iterate(self) -> None:
        """Collect steps and learn from them. Waits for nothing."""
        with self.processes.working(self.env.device):
            self._loop.iterate()
        self.timesteps += self._steps_of(self.config)
        self.iterations += 1

    def _read(self, is_due: bool) -> Metrics:
        """Return what was measured since the last reading; waits for the device."""
        with self.processes.working(self.env.device):
            measured = self._loop.read(self.iterations, is_due)
        timesteps, seconds = self._read_at
        self._read_at = self.timesteps, self.seconds
        return {
            "timesteps": self.timesteps,
            "iterations": self.iterations,
            **measured,
            "slow_paths": len(self.slow_paths),
            "seconds": self.seconds,
            "sps": (self.timesteps - timesteps) / (self.seconds - seconds),
            **self._loop.read_speeds(),
        }

    def _save_checkpoint(self, patient: bool = False) -> None:
        """Write a checkpoint, if there is a folder for them; `patient` with a disk that is full or away for now."""
        # After a fault nothing is learned until it is reported: such a checkpoint would only push out better ones.
        if self._checkpoints is None:
            return
        try:
            with self.processes.working(self.env.device):
                if not self._telemetry.faults.any:
                    checkpoint.write_newest(self._checkpoints, self, self.config.checkpoint_keep)
        except CheckpointError as error:
            if not patient:
                raise
            if self.processes.rank:
                return
            warnings.warn(f"{error}. Training goes on, and tries again later", RuntimeWarning, stacklevel=5)


def _twin(kind: type[PPO], env: VecEnv, config: PPOConfig, network: Any, intrinsic: Any, processes: Processes) -> PPO:
    return kind(env, config, network=network, intrinsic=intrinsic, processes=processes)


def _display(
    learner: PPO, callback: Callback | None, wanted: bool
) -> contextlib.AbstractContextManager[Callable[[Metrics], None]]:
    """Return what shows metrics, if that is wanted."""
    if not wanted:
        return contextlib.nullcontext(lambda metrics: None)
    # Here, since it takes a moment to import.
    from operant_gpu.monitor.display import show_training

    return show_training(learner, callback)


def _is_false(result: object) -> bool:
    """Tell Python's and NumPy's False from None and everything else."""
    return isinstance(result, bool | np.bool_) and not result
