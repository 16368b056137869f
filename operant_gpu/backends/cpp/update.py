"""The gradient steps of an iteration on a CPU, by C++."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from operant_gpu.backends.cpp.calls import KINDS, Climb
from operant_gpu.backends.cpp.learner import address, library, network_of
from operant_gpu.backends.threads import Pieces
from operant_gpu.hyperparameters import (
    MEASURED,
    STOPPED,
    AdamState,
    Samples,
    StepSettings,
    StepTable,
    minibatch_sizes,
    minibatches_of,
)
from operant_gpu.mlp import MLP
from operant_gpu.processes import ALONE, Processes, merged_moments
from operant_gpu.spaces import ActionLayout

# Gradient steps that are worth a thread: samples of a minibatch.
_SAMPLES_PER_THREAD = 128


class GradientSteps:
    """Takes the gradient steps of iterations of one size.

    Args:
        mlp: The network.
        actions: Of the environment.
        settings: Of the steps.
        example: Any samples; kernels that are compiled for their dtypes take it.
        samples: Environment steps of an iteration.
        processes: Those that take the steps together, each with samples of its own.

    Raises:
        BackendError: If there is no C++ compiler.
    """

    def __init__(
        self,
        mlp: MLP,
        actions: ActionLayout,
        settings: StepSettings,
        example: Samples,
        samples: int,
        processes: Processes = ALONE,
    ) -> None:
        del example
        self._library, self._actions, tensors = library(), actions, len(mlp.layout.shapes)
        self._processes, minibatches = processes, minibatches_of(settings, samples)
        steps = settings.n_epochs * minibatches
        self._measured = torch.zeros(steps, len(MEASURED), dtype=torch.float32, device="cpu")
        self._norms = torch.zeros(steps, tensors, dtype=torch.float32, device="cpu")
        self._status = torch.zeros(steps + 1, dtype=torch.int32, device="cpu")
        self._own = torch.zeros(steps, len(MEASURED) - 1, dtype=torch.float32, device="cpu")
        self._moments = torch.zeros(steps, 2, dtype=torch.float64, device="cpu")
        # The gradient, and what is measured with it.
        self._sent = torch.zeros(mlp.layout.size + len(MEASURED) - 1, dtype=torch.float32, device="cpu")
        self._sizes = torch.tensor(minibatch_sizes(settings, samples), device="cpu")
        self._fields = Climb(
            samples=samples,
            minibatches=minibatches,
            tensors=tensors,
            parameter_count=mlp.layout.size,
            rank=processes.rank,
            normalizes_advantages=settings.normalize_advantages,
            gradient=self._sent.data_ptr(),
            measured=self._measured.data_ptr(),
            norms=self._norms.data_ptr(),
            status=self._status.data_ptr(),
        )
        self._pieces = Pieces(first=1)
        self._most_threads = max(1, samples // minibatches // _SAMPLES_PER_THREAD)

    def run(
        self,
        mlp: MLP,
        samples: Samples,
        adam: AdamState,
        hyperparameters: Tensor,
        *,
        seed: int,
        iteration: Tensor,
        trainable: Tensor,
        status: Tensor,
    ) -> StepTable:
        """Take all gradient steps of an iteration, in place; arguments as `backends/triton/update.py` has them."""
        given = samples._asdict() | {"parameters": mlp.parameters, "trainable": trainable}
        given |= {"means": adam.means, "squares": adam.squares, "count": adam.updates, "now": hyperparameters}
        for name, tensor in given.items():
            setattr(self._fields, name, address(tensor))
        self._fields.network, self._fields.obs_kind = network_of(mlp, self._actions), KINDS[samples.obs.dtype]
        self._fields.seed, self._fields.iteration = seed, int(iteration)
        self._fields.threads = min(self._most_threads, torch.get_num_threads())
        self._status[0] = status
        self._measured.zero_()
        self._norms.zero_()
        if self._processes.size == 1:
            self._pieces.each(len(self._measured), self._take)
        else:
            self._take_together()
        own = None if self._processes.size == 1 else self._own
        return StepTable(self._measured, self._norms, self._status, own)

    def _take(self, first: int, count: int) -> None:
        self._fields.first_step, self._fields.last_step = first, first + count
        _check_memory(self._library.climb(ctypes.byref(self._fields)))

    def _take_together(self) -> None:
        """Take the steps with the means of all processes' gradients: all stop at the same step, if one does."""
        kernels, steps = self._library, len(self._measured)
        self._fields.first_step, self._fields.last_step, self._fields.moments = 0, steps, None
        learner = _check_memory(kernels.begin_climb(ctypes.byref(self._fields)))
        try:
            if self._fields.normalizes_advantages:
                kernels.advantage_moments(learner, self._moments.data_ptr())
                means, spreads = self._processes.gather(self._moments).unbind(-1)
                mean, spread, count = merged_moments(means, spreads, self._sizes)
                self._moments.copy_(torch.stack([mean, spread / (count - 1)], 1))
                self._fields.moments = self._moments.data_ptr()
            for step in range(steps):
                if not self._status[step] & STOPPED:
                    kernels.compute_gradient(learner, step)
                    self._own[step] = self._sent[-self._own.shape[1] :]
                    self._processes.average(self._sent)
                kernels.adam_step(learner, step)
        finally:
            kernels.end_climb(learner)


def _check_memory(result: Any) -> Any:
    if not result:
        raise MemoryError("the gradient steps of an iteration need more memory than there is")
    return result


def find_misfit(mlp: MLP, actions: ActionLayout, settings: StepSettings, example: Samples) -> str | None:
    """Return why the kernels cannot train a network; None if they can.

    Raises:
        BackendError: If there is no C++ compiler.
    """
    del mlp, actions, settings, example
    library()
    return None


def estimate_advantages(
    rewards: Tensor,
    values: Tensor,
    final_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    hyperparameters: Tensor,
) -> Tensor:
    """Return generalized advantage estimates; arguments but the last are (n_steps, num_envs) and contiguous."""
    advantages = torch.empty_like(rewards)
    columns = (advantages, rewards, values, final_values, terminated, truncated)
    library().estimate_advantages(
        *(column.data_ptr() for column in columns), *rewards.shape, hyperparameters.data_ptr()
    )
    return advantages
