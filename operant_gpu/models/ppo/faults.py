"""Where numbers that are not finite first appear, found on the device and read when it suits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from operant_gpu.models.ppo.rollout import Rollout

# What is looked at once an iteration, in the order of the data's way.
_COLLECTED = ("observations", "rewards", "log-probabilities of actions", "values")
_LOSSES = ("policy loss", "value loss", "entropy")
_NEVER = math.inf
# A moment is iteration * _STRIDE + the number of the gradient step in it, exact in a float64.
_STRIDE = 2**20


class Fault(NamedTuple):
    """Numbers that are not finite. As text it counts iterations from 1, as the metrics do.

    Attributes:
        site: What they were found in.
        iteration: Counted from 0.
        gradient_step: Within the iteration, counted from 1; 0 while steps were collected.
        step: Of the rollout; for what was collected.
        environment: The first such one in that step.
        rank: The process that it is of, where there are several and that is known.
    """

    site: str
    iteration: int
    gradient_step: int
    step: int
    environment: int
    rank: int | None = None

    def __str__(self) -> str:
        whose = "" if self.rank is None else f" (of rank {self.rank})"
        if self.gradient_step:
            return f"{self.site} in gradient step {self.gradient_step}{whose} of iteration {self.iteration + 1}"
        where = f"environment {self.environment}{whose} at step {self.step}"
        return f"{self.site} of {where} of iteration {self.iteration + 1}"


class FaultLog:
    """Remembers where numbers that are not finite were first seen, without waiting for the device.

    Args:
        parameters: Names of the parameters whose gradients are watched.
        num_envs: How many environments there are.
        device: Where the data is.

    Attributes:
        columns: What `decode` reads, float64: moments of every site, one more for what other processes have seen, and
            places; last whether what this process gives to others was not finite.
    """

    def __init__(self, parameters: Sequence[str], num_envs: int, device: torch.device) -> None:
        self._sites = [*_COLLECTED, *_LOSSES, *(f"gradient of {name}" for name in parameters)]
        self._num_envs = num_envs
        self._iteration = torch.full((), -1, dtype=torch.float64, device=device)
        sizes = [len(self._sites), 1, len(_COLLECTED), 1]
        self.columns = torch.zeros(sum(sizes), dtype=torch.float64, device=device)
        self._moments, self._elsewhere, self._places, self._is_source = torch.split(self.columns, sizes)
        self._all_moments = self.columns[: len(self._sites) + 1]
        self.clear()

    def clear(self) -> None:
        """Forget all faults."""
        self._all_moments.fill_(_NEVER)
        self._is_source.zero_()

    def resume(self, iterations: int) -> None:
        """Count on from so many iterations."""
        self._iteration.fill_(iterations - 1)

    @property
    def any(self) -> Tensor:
        """Whether there has been a fault, on the device."""
        return torch.lt(self._all_moments, _NEVER).any()

    def inspect_rollout(self, rollout: Rollout) -> None:
        """Look at an iteration's steps."""
        self._iteration += 1
        obs = rollout.obs[:-1].isfinite() & rollout.final_obs.isfinite()
        sound = (
            obs.flatten(2).all(-1) if obs.ndim > 2 else obs,
            *(column.isfinite() for column in (rollout.reward, rollout.log_prob, rollout.value)),
        )
        bad = ~torch.stack(sound).flatten(1)
        found, place = bad.any(1), bad.byte().argmax(1)
        fresh = found & (self._moments[: len(_COLLECTED)] == _NEVER)
        self._places.copy_(torch.where(fresh, place.double(), self._places))
        self._record(slice(0, len(_COLLECTED)), found, 0)

    def inspect_step(self, losses: Tensor, gradient_norms: Tensor, gradient_step: int) -> Tensor:
        """Look at a gradient step, numbered from 1; return whether all is well, on the device.

        Args:
            losses: Policy loss, value loss and entropy.
            gradient_norms: One for each parameter.
            gradient_step: Its number in the iteration.
        """
        bad = ~torch.cat([losses, gradient_norms]).isfinite()
        self._record(slice(len(_COLLECTED), None), bad, gradient_step)
        return ~self.any

    def inspect_steps(self, losses: Tensor, gradient_norms: Tensor, counts: Tensor) -> None:
        """Look at all gradient steps of an iteration.

        Args:
            losses: Policy loss, value loss and entropy of each, (steps, 3).
            gradient_norms: One for each step and parameter, (steps, parameters).
            counts: Which steps to look at, (steps,) bool.
        """
        bad = ~torch.cat([losses, gradient_norms], 1).isfinite() & counts[:, None]
        number = torch.arange(1, len(bad) + 1, device=bad.device)[:, None]
        found = torch.where(bad, number, _STRIDE).amin(0)
        self._record(slice(len(_COLLECTED), None), found < _STRIDE, found)

    def follow(self, others: Tensor) -> None:
        """Take in whether any process has seen a fault, on the device."""
        self._elsewhere.copy_(torch.where(others, 0.0, _NEVER))

    def inspect_own(self, losses: Tensor, counts: Tensor | None = None) -> None:
        """Look at what this process alone has measured, before it takes the means of all.

        Args:
            losses: Policy loss, value loss and entropy, (3,) or of each step (steps, 3).
            counts: Which steps to look at, (steps,) bool; all if None.
        """
        bad = ~losses.isfinite().all(-1)
        self._is_source += (bad if counts is None else bad & counts).any()

    def _record(self, sites: slice, bad: Tensor, gradient_step: int | Tensor) -> None:
        moment = torch.where(bad, self._iteration * _STRIDE + gradient_step, _NEVER)
        torch.minimum(self._moments[sites], moment, out=self._moments[sites])

    def decode(self, rows: Sequence[Sequence[float]]) -> list[Fault]:
        """Return the faults in the `columns` of each process, as read from the device, the earliest first."""
        if len(rows) == 1:
            return _in_order(self._decode(rows[0], None))
        found = [self._decode(row, rank) for rank, row in enumerate(rows)]
        # Of gradient steps all know the same, but only one may have caused it.
        source = next((rank for rank, row in enumerate(rows) if row[-1]), None)
        shared = [fault._replace(rank=source) for fault in found[0] if fault.gradient_step]
        return _in_order([*shared, *(fault for own in found for fault in own if not fault.gradient_step)])

    def _decode(self, columns: Sequence[float], rank: int | None) -> list[Fault]:
        """Return what one process has seen."""
        faults, before = [], (rank or 0) * self._num_envs
        for site, name in enumerate(self._sites):
            if columns[site] < _NEVER:
                iteration, gradient_step = divmod(int(columns[site]), _STRIDE)
                collected = site < len(_COLLECTED)
                step, environment = divmod(
                    int(columns[len(self._sites) + 1 + site]) if collected else 0, self._num_envs
                )
                whose = (before + environment, rank) if collected else (0, None)
                faults.append(Fault(name, iteration, gradient_step, step, *whose))
        return faults


def _in_order(faults: Iterable[Fault]) -> list[Fault]:
    return sorted(faults, key=lambda fault: (fault.iteration, fault.gradient_step, fault.step))
