"""The loop of a training: iterations that collect and learn, and what is read of them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from operant_gpu.errors import BackendError, OperantError, TrainingError
from operant_gpu.models.contexts import plain
from operant_gpu.models.ppo.faults import Fault
from operant_gpu.models.ppo.graphs import Stage
from operant_gpu.models.ppo.rollout import Rollout
from operant_gpu.models.ppo.stopwatch import Stopwatch
from operant_gpu.models.ppo.telemetry import Metrics
from operant_gpu.models.ppo.update import Update

# An odd number that scatters bits, and those that a float64 holds.
_FACTOR, _LOW_BITS = 0x9E3779B97F4A7C1, 2**52 - 1


class Loop:
    """Repeats iterations, as CUDA graphs where they can be captured, and reads what they measured.

    Args:
        update: Steps and learns.

    Attributes:
        update: Steps and learns.
        rollout: Storage of an iteration; None before the first.
        stages: What an iteration runs, one after the other; none before the first.
    """

    def __init__(self, update: Update) -> None:
        self.update, self._stopwatch = update, Stopwatch(update.env.device)
        self.rollout: Rollout | None = None
        self.stages: list[Stage] = []
        self._fingerprint: object = None
        self._has_warned = self._has_told = False
        self._faults_before = 0

    @property
    def is_captured(self) -> bool:
        """Whether all of an iteration replays CUDA graphs."""
        return bool(self.stages) and all(stage.captured for stage in self.stages)

    @property
    def failure(self) -> str | None:
        """Why an iteration cannot be captured; None while nothing has failed."""
        return next((stage.failure for stage in self.stages if stage.failure is not None), None)

    def memory(self) -> Mapping[str, Tensor]:
        """Return what the policy remembers of the episodes under way."""
        return {} if self.rollout is None else self.rollout.memory()

    @plain()
    def begin(self, iterations: int, memory: Mapping[str, Tensor] | None = None) -> None:
        """Go on from where the environments are: the caller may have stepped or reset them since the last call.

        Args:
            iterations: How many there were.
            memory: What the policy is to remember, as `memory` returned it; nothing if None.
        """
        update = self.update
        if self.rollout is None:
            self.rollout = Rollout(update.env, update.policy, update.config.n_steps, update.is_fused)
        if self._fingerprint != (fingerprint := update.fingerprint()):
            # Graphs read the memory, and do the work, of the time when they were captured.
            self._fingerprint, self._has_warned = fingerprint, False
            self.stages = self._make_stages(self.rollout)
        if update.env.stopped is not None:
            # Whatever went wrong before is none of this training's.
            update.env.reset(options={"reset_mask": update.env.stopped.clone()})
            self._faults_before, self._has_told = int(update.env.fault_count or 0), False
        self.rollout.begin(update.env)
        if memory:
            self.rollout.remember(memory, update.env)
        update.begin(iterations)

    def _make_stages(self, rollout: Rollout) -> list[Stage]:
        update, watch = self.update, self._stopwatch

        def gather() -> None:
            watch.start()
            update.revive(rollout)
            rollout.note(update.env, 0)
            update.collect(rollout)
            rollout.note(update.env, 1)
            watch.lap()

        def improve() -> None:
            update(rollout)
            watch.stop()

        def both() -> None:
            gather()
            improve()

        functions = [both] if update.is_fused else [gather, improve]
        return [Stage(function, update.generator, capture=update.config.engine != "eager") for function in functions]

    @plain()
    def iterate(self) -> None:
        """Collect steps and learn from them. Waits for nothing."""
        for stage in self.stages:
            stage()
        self._go_on_without_graphs()

    def _go_on_without_graphs(self) -> None:
        """After a capture that failed, replay no graph: those captured before share generators with it."""
        if self.failure is None or self._has_warned:
            return
        for stage in self.stages:
            stage.run_eagerly()
        self._has_warned = True
        if self.update.config.engine == "graph":
            raise BackendError(f"engine='graph', but an iteration cannot be captured: {self.failure}; use 'auto'")
        message = f"no CUDA graph, training goes on eagerly: {self.failure}"
        # Of the call of `learn` or `resume`.
        warnings.warn(message, RuntimeWarning, stacklevel=8)

    def read(self, iterations: int, is_due: bool) -> Metrics:
        """Read what was measured since the last time, and raise what has gone wrong. Waits for the device.

        Args:
            iterations: How many there were.
            is_due: Whether the reading is one that every training has. One that is not leaves nothing behind: a
                training that goes on from there is as if it had not been.
        """
        # A product with 0 is 0, or it is not a number: two kernels for all parameters.
        update, processes = self.update, self.update.processes
        parameters = torch.cat([parameter.detach().flatten() for parameter in update.policy.parameters()])
        count = update.env.fault_count
        stops = count is not None and update.config.on_fault != "skip"
        others = {
            "lr": update.schedules.exactly("lr"),
            "policy": (parameters * 0).sum(),
            "would_raise": update.env.would_raise(),
            **({"stopped": count - self._faults_before} if count is not None and stops else {}),
            **({"digest": digest(update.learned())} if processes.size > 1 else {}),
        }
        measured, faults, rows = update.telemetry.read(is_due, list(others.values()), processes)
        read = [dict(zip(others, row, strict=True)) for row in rows]
        own = read[processes.rank]
        if faults:
            self.update.telemetry.faults.clear()
            # The environments count the actions that came of it; they are of no use to the next call.
            with contextlib.suppress(OperantError):
                self.update.env.check()
            raise TrainingError(_account(faults))
        if any(row["policy"] != 0 for row in read):
            message = f"the policy is not finite after iteration {iterations}: lower lr, from a checkpoint"
            raise TrainingError(message)
        if stops and any(row["stopped"] for row in read):
            raise TrainingError(_account_of_stops(update, [int(row["stopped"]) for row in read]))
        if difference := difference_of([row["digest"] for row in read if "digest" in row]):
            advice = "a machine computes differently, or a callback changed one process; go on from a checkpoint"
            raise TrainingError(f"after iteration {iterations} {difference}: {advice}")
        self._tell_of_faults()
        if own["would_raise"]:
            self.update.env.check()
        return {"lr": own["lr"], **measured}

    def _tell_of_faults(self) -> None:
        """Warn, once a training, that it goes on without steps that went wrong."""
        env = self.update.env
        if env.fault_count is None or self._has_told or int(env.fault_count) == self._faults_before:
            return
        self._has_told = True
        message = f"steps go wrong in the environments, first {env.faults()[0]}; training goes on without them"
        # Of the call of `learn` or `resume`.
        warnings.warn(message, RuntimeWarning, stacklevel=6)

    def read_speeds(self) -> Metrics:
        """Return the environment steps per second that each part takes by itself; the device must have finished."""
        steps = self.update.config.n_steps * self.update.env.num_envs * self.update.processes.size
        collecting, learning = self._stopwatch.read()
        return {"env_sps": steps / collecting, "learner_sps": steps / learning}


def digest(tensors: Iterable[Tensor]) -> Tensor:
    """Return a number of all bits of tensors, which a float64 holds exactly: () on the device."""
    flat = (one.detach().contiguous().flatten() for one in tensors)
    words = torch.cat([one.view(torch.int32 if one.element_size() >= 4 else torch.uint8).long() for one in flat])
    # Odd factors, so that no bit is lost.
    factors = torch.arange(1, 2 * len(words), 2, device=words.device) * _FACTOR
    return ((words * factors).sum() & _LOW_BITS).double()


def difference_of(digests: Sequence[float]) -> str:
    """Return which processes differ from most, or from the first, in words; nothing if none does."""
    usual = max(digests, key=digests.count, default=0.0)
    odd = [f"rank {rank}" for rank, one in enumerate(digests) if one != usual]
    if not odd:
        return ""
    others = "the other processes" if len(odd) < len(digests) / 2 else f"rank {digests.index(usual)}"
    return f"{' and '.join(odd)} learned other numbers than {others}"


def _account_of_stops(update: Update, counts: Sequence[int]) -> str:
    """Return what to say of steps of environments that went wrong, so many in each process."""
    rank = next(rank for rank, count in enumerate(counts) if count)
    where = "" if len(counts) == 1 else f" of rank {rank}"
    first = f", first {update.env.faults()[0]}" if rank == update.processes.rank else ""
    advice = "env.save_faults keeps them for `operant-gpu replay`; on_fault='skip' goes on without them"
    plural = "step" if counts[rank] == 1 else "steps"
    return f"{counts[rank]} {plural}{where} went wrong{first}. The policy is as it was before; {advice}"


def _account(faults: list[Fault]) -> str:
    later = f"; then {', '.join(map(str, faults[1:3]))}" if len(faults) > 1 else ""
    advice = "try a lower lr" if faults[0].gradient_step else "look at what the environment gives"
    return f"a number is not finite: first {faults[0]}{later}. The policy is as it was before; {advice}"
