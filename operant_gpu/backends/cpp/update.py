"""The gradient steps of an iteration on a CPU, by C++."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from operant_gpu.backends.cpp.calls import KINDS, Climb
from operant_gpu.backends.cpp.learner import address, library, network_of
from operant_gpu.backends.threads import Pieces
from operant_gpu.hyperparameters import MEASURED, AdamState, Samples, StepSettings, StepTable, minibatches_of
from operant_gpu.mlp import MLP
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

    Raises:
        BackendError: If there is no C++ compiler.
    """

    def __init__(self, mlp: MLP, actions: ActionLayout, settings: StepSettings, example: Samples, samples: int) -> None:
        del example
        self._climb, self._actions, tensors = library().climb, actions, len(mlp.layout.shapes)
        minibatches = minibatches_of(settings, samples)
        steps = settings.n_epochs * minibatches
        self._measured = torch.zeros(steps, len(MEASURED), dtype=torch.float32, device="cpu")
        self._norms = torch.zeros(steps, tensors, dtype=torch.float32, device="cpu")
        self._status = torch.zeros(steps + 1, dtype=torch.int32, device="cpu")
        self._fields = Climb(
            samples=samples,
            minibatches=minibatches,
            tensors=tensors,
            normalizes_advantages=settings.normalize_advantages,
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
        self._pieces.each(len(self._measured), self._take)
        return StepTable(self._measured, self._norms, self._status)

    def _take(self, first: int, count: int) -> None:
        self._fields.first_step, self._fields.last_step = first, first + count
        if not self._climb(ctypes.byref(self._fields)):
            raise MemoryError("the gradient steps of an iteration need more memory than there is")


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
