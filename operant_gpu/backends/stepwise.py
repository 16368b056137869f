"""Rollouts one step at a time: the reference for kernels that take many, and networks that PyTorch evaluates."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from operant_gpu import sampling
from operant_gpu.backends.base import Backend, Batch, numpy_view
from operant_gpu.backends.lowering.operations import NumpyRng
from operant_gpu.backends.lowering.programs import lower_to_numpy
from operant_gpu.lang import constexpr_value
from operant_gpu.memory.columns import Outputs
from operant_gpu.memory.trajectory import Trajectory
from operant_gpu.mlp import MLP
from operant_gpu.random import POLICY_STREAM

_POLICY_STREAM = constexpr_value(POLICY_STREAM)


Draw = Callable[[MLP, Tensor, Outputs], tuple[Tensor, Tensor, Tensor]]


class StepwiseRollout:
    """Rollouts of a batch by the single steps of its backend.

    Args:
        backend: Takes the steps.
        batch: What it steps.
        draw: Returns, for a network, its outputs and what the step before wrote, actions as drawn, as the environment
            takes them, and their log-probabilities; if None, NumPy draws, on a CPU. Without it, actions may be random.
    """

    def __init__(self, backend: Backend, batch: Batch, draw: Draw | None = None) -> None:
        self._backend, self._batch = backend, batch
        self._draw = draw or self._draw_by_numpy
        device = batch.columns.seed.device
        self._separate_final_obs = batch.autoreset_mode is AutoresetMode.SAME_STEP
        self._nobody = torch.zeros(batch.num_envs, dtype=torch.bool, device=device)
        # For networks that draw in the environment's units, and for those that draw in their own.
        self._scalings = [
            torch.tensor(batch.actions.scaling(scales), dtype=torch.float32, device=device) for scales in (False, True)
        ]
        final_obs = ("final_obs",) if self._separate_final_obs else ()
        self._written = ("reward", "terminated", "truncated", *final_obs)
        # For what is not stored: the environment's own outputs stay those of its last single step.
        self._spare: dict[str, Tensor] = {}

    @torch.no_grad()
    def run(self, num_steps: int, policy: Tensor | MLP | None, trajectory: Trajectory, outputs: Outputs) -> None:
        """Do as `Backend.rollout`."""
        late_steps = self._batch.columns.late_steps.clone()
        # The state may have been written since the last observation.
        self._backend.reset(self._nobody, outputs)
        for step in range(num_steps):
            row = Trajectory(*(None if tensor is None else tensor[step] for tensor in trajectory))
            action = self._act(policy, step, row, outputs)
            written = self._step(action, row, outputs)
            if row.final_value is not None:
                self._bootstrap(policy, row, written, step == num_steps - 1)
        self._batch.columns.late_steps.copy_(late_steps)

    def _act(self, policy: Tensor | MLP | None, step: int, row: Trajectory, outputs: Outputs) -> Tensor:
        """Store what comes before a step; return its actions."""
        _store(row.obs, outputs.obs)
        _store(row.action_mask, outputs.action_mask)
        drawn = log_prob = value = None
        if isinstance(policy, Tensor):
            taken = policy[step]
        elif policy is None:
            taken = self._random(outputs)
        else:
            network_outputs, value = policy.evaluate(outputs.obs)
            # Numbers that a network which went wrong gives are counted by the step, not warned of.
            with np.errstate(all="ignore"):
                drawn, taken, log_prob = self._draw(policy, network_outputs, outputs)
        _store(row.action, taken)
        _store(row.policy_action, drawn)
        _store(row.log_prob, log_prob)
        _store(row.value, value)
        return taken

    def _step(self, action: Tensor, row: Trajectory, outputs: Outputs) -> Outputs:
        """Take a step; return where it wrote."""
        if not self._spare:
            # What is made in inference mode could not be written outside.
            with torch.inference_mode(False):
                self._spare = {name: torch.empty_like(getattr(outputs, name)) for name in self._written}
        wanted = {name: getattr(row, name) for name in self._written if getattr(row, name) is not None}
        written = outputs._replace(**{**self._spare, **wanted})
        self._backend.step(action, written)
        if not self._separate_final_obs:
            _store(row.final_obs, outputs.obs)
        return written

    def _random(self, outputs: Outputs) -> Tensor:
        layout = self._batch.actions
        if layout.is_discrete:
            draw = _lowered("random_integers")
            return self._stacked(draw(self._rng(), _legal(outputs), layout.low, layout.high, layout.first_choices))
        draw = _lowered("random_floats")
        return self._stacked(draw(self._rng(), layout.box_low, layout.box_high))

    def _draw_by_numpy(self, network: MLP, network_outputs: Tensor, outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
        layout = self._batch.actions
        parts = tuple(np.ascontiguousarray(numpy_view(network_outputs).T))
        if network.layout.is_gaussian:
            log_stds = tuple(map(np.float32, network.views()[-1].tolist()))
            drawn, log_prob = _lowered("gaussian")(self._rng(), parts, log_stds)
            action = self._stacked(drawn)
            low, high, center, radius = self._scalings[network.scales_actions]
            return action, (center + radius * action).clamp(low, high), torch.from_numpy(log_prob)
        bounds = (layout.low, layout.high, layout.first_choices)
        drawn, log_prob = _lowered("categorical")(self._rng(), parts, _legal(outputs), *bounds)
        action = self._stacked(drawn)
        return action, action, torch.from_numpy(log_prob)

    def _stacked(self, components: tuple[Any, ...]) -> Tensor:
        arrays = [torch.from_numpy(np.asarray(component)) for component in components]
        return torch.stack(arrays, -1) if self._batch.actions.shape else arrays[0]

    def _rng(self) -> NumpyRng:
        """Return the policy's stream, at the step that comes."""
        columns = self._batch.columns
        elapsed = columns.elapsed
        if self._batch.autoreset_mode is not AutoresetMode.DISABLED:
            elapsed = elapsed.masked_fill(columns.ended, 0)
        seed, env_id, episode, step = map(numpy_view, (columns.seed, columns.env_id, columns.episode, elapsed))
        return NumpyRng(seed, env_id, episode, step, _POLICY_STREAM)

    def _bootstrap(self, policy: Tensor | MLP | None, row: Trajectory, outputs: Outputs, is_last: bool) -> None:
        """Store the values of the states that an episode would have gone on from."""
        wanted = outputs.truncated & ~outputs.terminated
        if is_last:
            wanted = wanted | ~self._batch.columns.ended
        assert isinstance(policy, MLP)
        # In one layout: else the last bits depended on that of the caller's memory, and on the processor.
        value = policy.evaluate(outputs.final_obs.contiguous())[1]
        _store(row.final_value, torch.where(wanted, value, 0.0))


@functools.cache
def _lowered(name: str) -> Any:
    return lower_to_numpy(getattr(sampling, name))


def _legal(outputs: Outputs) -> tuple[Any, ...]:
    """Return the conditions of the action mask, none if there is none."""
    return () if outputs.action_mask is None else tuple(numpy_view(outputs.action_mask).T)


def _store(target: Tensor | None, source: Tensor | None) -> None:
    if target is not None and source is not None:
        target.copy_(source)
