"""What training measures: summed up on the device, read in one transfer at the logging interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from operant_gpu.hyperparameters import MEASURED, STOPPED, StepTable
from operant_gpu.models.ppo.faults import Fault, FaultLog
from operant_gpu.models.ppo.rollout import Rollout
from operant_gpu.processes import ALONE, Processes

Metrics = dict[str, float]

# What is summed up: of gradient steps their number and what was measured; of iterations their number and explained
# variance; the rest is of episodes, which are each process's own.
_OF_STEPS, _OF_ITERATIONS = len(MEASURED) + 1, 2
EPISODES = slice(_OF_STEPS + _OF_ITERATIONS, None)
# Episodes that `episodic_return` and `episodic_length` are taken over, at least.
_RECENT_EPISODES = 100


class Telemetry:
    """Sums of metrics on the device.

    Args:
        parameters: Names of the policy's parameters.
        num_envs: How many environments there are.
        device: Where the data is.
        metrics: Names of the environments' own.

    Attributes:
        faults: Where numbers that are not finite appeared.
    """

    def __init__(
        self, parameters: Sequence[str], num_envs: int, device: torch.device, metrics: Sequence[str] = ()
    ) -> None:
        self.faults = FaultLog(parameters, num_envs, device)
        # What is known of episodes beside their number.
        self._names = ("episodic_return", "episodic_length", *(f"env/{name}" for name in metrics))
        sizes = [_OF_STEPS, _OF_ITERATIONS, 1 + len(self._names)]
        self._sums = torch.zeros(sum(sizes), dtype=torch.float64, device=device)
        self._steps, self._iterations, self._episodes = torch.split(self._sums, sizes)
        self._one = torch.ones((), dtype=torch.float64, device=device)
        # Whose episode under way began with its first step, or is not the first one.
        self._is_whole = torch.ones(num_envs, dtype=torch.bool, device=device)
        # Of each reading: how many episodes ended, and the sums of what is known of them.
        self._recent: list[list[float]] = []
        self._finished = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what the next readings are made from."""
        recent, is_whole = [*map(list, self._recent)], self._is_whole.clone()
        return {"sums": self._sums.clone(), "recent": recent, "finished": self._finished, "is_whole": is_whole}

    def load_state_dict(self, state: Mapping[str, Any], iterations: int) -> None:
        """Go on from `state_dict`, after so many iterations."""
        self._sums.copy_(state["sums"])
        self._recent = [*map(list, state["recent"])]
        self._finished = state["finished"]
        # That of an older release has none; environments that are others begin anew.
        if len(is_whole := state.get("is_whole", self._is_whole)) == len(self._is_whole):
            self._is_whole.copy_(is_whole)
        self.faults.resume(iterations)

    def begin(self, lengths: Tensor) -> None:
        """Take in that episodes have begun, whose lengths say if with a later step: those are counted in no metric."""
        torch.eq(lengths, 0, out=self._is_whole)

    def add_step(self, measured: Tensor, counts: Tensor) -> None:
        """Take in what was measured in one gradient step.

        Args:
            measured: In the order of `MEASURED`.
            counts: Whether to, on the device.
        """
        row = torch.cat([self._one[None], measured.double()])
        self._steps += torch.where(counts, row, 0.0)

    def add_steps(self, table: StepTable) -> None:
        """Take in what an iteration's gradient steps measured, and look at whether it is finite."""
        counts = (table.status[:-1] & STOPPED) == 0
        rows = torch.cat([torch.ones_like(table.measured[:, :1]), table.measured], 1).double()
        self._steps += torch.where(counts[:, None], rows, 0.0).sum(0)
        self.faults.inspect_steps(table.measured[:, :3], table.norms, counts)
        if table.own is not None:
            self.faults.inspect_own(table.own[:, :3], counts)

    def add_iteration(self, rollout: Rollout, explained_variance: Tensor, stopped: Tensor | None = None) -> None:
        """Take in an iteration's episodes, and how well the values foresaw its returns.

        Those of environments that a fault has stopped are left out; they begin anew after it.
        """
        if stopped is not None:
            self._is_whole &= ~stopped
        self._iterations += torch.stack([self._one, explained_variance.double()])
        # What was collected belongs to episodes that ended, but for what those under way have gained.
        returns = rollout.reward.sum(0, dtype=torch.float64)
        collected = torch.stack([returns, torch.full_like(returns, rollout.n_steps)])
        before, after = rollout.under_way
        ended = rollout.ended.sum(0, dtype=torch.float64)
        found = torch.cat([ended[None], before + collected - after, rollout.reported[1] - rollout.reported[0]])
        self._episodes += found.where(self._is_whole, 0.0).sum(1)
        # What else ended in the steps in which a part of an episode did is left out with it.
        self._is_whole |= ended > 0
        if stopped is not None:
            self._is_whole |= stopped

    def read(
        self, clear: bool, others: Sequence[Tensor] = (), processes: Processes = ALONE
    ) -> tuple[Metrics, list[Fault], list[list[float]]]:
        """Return the means since the last reading, the faults so far, and other numbers (), in one wait for the device.

        `episodic_return`, `episodic_length` and the environments' own metrics, `env/...`, are over the last readings
        that hold at least 100 episodes, NaN before the first ends. The next means begin here if `clear`, and after a
        fault. Episodes and faults are those of all processes, and of the other numbers there is a list for each.
        """
        more = [torch.stack([other.double() for other in others])] if others else []
        rows = processes.gather(torch.cat([self._sums, self.faults.columns, *more])).tolist()
        read = [row[len(row) - len(others) :] for row in rows]
        count, *sums = rows[processes.rank][: len(self._steps)]
        iterations, explained = rows[processes.rank][_OF_STEPS : EPISODES.start]
        episodes = [sum(column) for column in zip(*(row[: len(self._sums)][EPISODES] for row in rows), strict=True)]
        faults = self.faults.decode([row[len(self._sums) : len(row) - len(others)] for row in rows])
        # What ended in a fault is no episode to remember.
        ended = [0.0] * len(episodes) if faults else episodes
        recent, finished = _last_readings([*self._recent, ended]), self._finished + int(ended[0])
        if clear or faults:
            self._sums.zero_()
            self._recent, self._finished = recent, finished
        metrics = {name: total / max(1.0, count) for name, total in zip(MEASURED, sums, strict=True)}
        metrics["explained_variance"] = explained / max(1.0, iterations)
        count, *totals = (sum(column) for column in zip(*recent, [0.0] * len(episodes), strict=True))
        means = [total / count if count else math.nan for total in totals]
        return {"episodes": finished, **dict(zip(self._names, means, strict=True)), **metrics}, faults, read


def _last_readings(readings: list[list[float]]) -> list[list[float]]:
    """Return the last readings of episodes that hold enough of them, as few as do."""
    readings = [reading for reading in readings if reading[0]]
    while sum(count for count, *_ in readings[1:]) >= _RECENT_EPISODES:
        del readings[0]
    return readings
