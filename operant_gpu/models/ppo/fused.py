"""The fused engine: rollout, advantages and gradient steps by kernels of the library's own.

On a GPU they are Triton's, and an iteration is one CUDA graph; on a CPU they are compiled C++. What surrounds them,
such as normalization and curiosity, is that of every engine.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from operant_gpu.backends.select import BACKENDS
from operant_gpu.errors import BackendError, Lack
from operant_gpu.hyperparameters import FAULTY, AdamState, Samples
from operant_gpu.models.config import PPOConfig
from operant_gpu.models.networks import ActorCritic, RecurrentActorCritic
from operant_gpu.models.policies.mlp_policy import MLPPolicy, find_misfit
from operant_gpu.models.ppo.rollout import Rollout, storage_of
from operant_gpu.models.ppo.update import Update
from operant_gpu.spaces import action_layout, observation_layout
from operant_gpu.vector import VecEnv


class FusedUpdate(Update):
    """As `Update`, with the kernels of the fused engine; arguments are the same."""

    is_fused = True
    policy: MLPPolicy

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        env, config = self.env, self.config
        samples = config.n_steps * env.num_envs
        self._kernels = kernels_for(env)
        self._steps = self._kernels.GradientSteps(*_asked(env, self.policy, config), samples, self.processes)
        self._iteration = torch.zeros((), dtype=torch.int32, device=env.device)
        parameters = list(self.policy.parameters())
        self._trainable = torch.ones(len(parameters), dtype=torch.bool, device=env.device)

    def begin(self, iterations: int) -> None:
        """Go on after so many iterations: what the caller has frozen since stays as it is."""
        super().begin(iterations)
        self._iteration.fill_(iterations)
        frozen = [not parameter.requires_grad for parameter in self.policy.parameters()]
        self._trainable.copy_(~torch.tensor(frozen, device=self._trainable.device))

    def collect(self, rollout: Rollout) -> None:
        """Step the environments `n_steps` times, into the rollout."""
        out = {name: tensor for name, tensor in rollout.steps._asdict().items() if tensor is not None}
        with torch.no_grad():
            self.env.rollout(rollout.n_steps, self.policy, out)
            rollout.follow(self.env)

    def estimate(self, rollout: Rollout, rewards: Tensor) -> Tensor:
        """Return the advantages (n_steps, num_envs) of a rollout's actions, for these rewards."""
        columns = rollout.value, rollout.final_value, rollout.terminated, rollout.truncated
        advantages: Tensor = self._kernels.estimate_advantages(rewards, *columns, self.schedules.values)
        return advantages

    @torch.no_grad()
    def climb(self, rollout: Rollout, advantages: Tensor) -> None:
        """Take `n_epochs` passes over the rollout in minibatches."""
        learned = {name: getattr(rollout.steps, name) for name in Samples._fields if name != "advantages"}
        own = self.optimizer
        table = self._steps.run(
            self.policy.mlp,
            Samples(**learned, advantages=advantages),
            AdamState(own.means, own.squares, own.count),
            self.schedules.values,
            seed=self.config.seed,
            iteration=self._iteration,
            trainable=self._trainable,
            status=torch.where(self.telemetry.faults.any, FAULTY, 0).int(),
        )
        self.telemetry.add_steps(table)
        self._iteration += 1


def find_obstacle(env: VecEnv, policy: Any, config: PPOConfig) -> str | None:
    """Return why the fused engine cannot train a policy; None if it can."""
    if not isinstance(policy, MLPPolicy):
        misfit = find_misfit(observation_layout(env.single_observation_space).seen, config)
        if misfit is None or not isinstance(policy.network, ActorCritic | RecurrentActorCritic):
            return "its kernels are not for networks of the caller's own"
        return f"{misfit[0]}: {misfit[1]}"
    if config.compile:
        return "compile=True asks for PyTorch's kernels"
    try:
        obstacle: str | None = kernels_for(env).find_misfit(*_asked(env, policy, config))
        return obstacle
    except (ImportError, BackendError) as error:
        return Lack(error)


def _asked(env: VecEnv, policy: MLPPolicy, config: PPOConfig) -> tuple[Any, ...]:
    """Return what kernels are asked about: network, actions, settings, and one sample."""
    storage = storage_of(env, 1, stores_rows=True)
    obs, action, log_prob, value = (storage.allocate(name, 1) for name in ("obs", "policy_action", "log_prob", "value"))
    mask = None if env.action_mask is None else storage.allocate("action_mask", 1)
    example = Samples(obs, action, mask, log_prob, value, advantages=value)
    return policy.mlp, action_layout(env.single_action_space), config, example


def kernels_for(env: VecEnv) -> Any:
    """Return the module of kernels for the environments' device."""
    # Here, since Triton may be missing.
    return importlib.import_module(f"operant_gpu.backends.{BACKENDS[env.backend].learner}.update")
