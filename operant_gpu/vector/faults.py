"""Faults: steps that went wrong, kept with what preceded them, while all other environments go on.

`FaultKeeper` is a backend around another one. It looks at what each step has written, on the device, and undoes it in
the rows where something is not finite, or where the action was refused. So no kernel knows of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from operant_gpu.archives import read_archive, write_archive
from operant_gpu.backends.base import Backend, Batch
from operant_gpu.environment import Definition
from operant_gpu.errors import CheckpointError, InvalidConfig, whole
from operant_gpu.files import as_path
from operant_gpu.memory.columns import Outputs
from operant_gpu.memory.rows import Rows
from operant_gpu.memory.trajectory import Storage, Trajectory
from operant_gpu.mlp import MLP
from operant_gpu.parameters import checked
from operant_gpu.spaces import action_layout
from operant_gpu.tensors import torch_dtype
from operant_gpu.vector import checks
from operant_gpu.vector.explaining import Explanation, Subject, explain_step
from operant_gpu.vector.snapshots import Snapshot

CAPACITY = 100
# Bits of what was found, the cause before its consequences.
_REFUSED, _STATE, _REWARD, _OBSERVATION = 1, 2, 4, 8
_SAID = {
    _REFUSED: "the action is refused",
    _STATE: "the state is not finite",
    _REWARD: "the reward is not finite",
    _OBSERVATION: "the observation is not finite",
}
_FORMAT, _KEYS = 1, ("snapshot", "rows", "kinds", "actions", "total", "max_episode_steps", "params", "tables")
# What a trajectory needs for a look at a step.
_LOOKED_AT = ("action", "reward", "terminated", "truncated", "final_obs")


class StepFault(NamedTuple):
    """A step that went wrong.

    Attributes:
        row: Number of the environment in its batch.
        seed: The seed and
        env_id: the environment id that its random numbers are made of.
        episode: Counted from 0.
        step: Within the episode, from 0.
        action: What it was given: a number, or a list of them.
        found: What was found: of action, state, reward and observation each that is wrong.
    """

    row: int
    seed: int
    env_id: int
    episode: int
    step: int
    action: Any
    found: tuple[str, ...]

    def __str__(self) -> str:
        where = f"environment {self.row}, episode {self.episode}, step {self.step}"
        return f"{where}, action {self.action}: {', '.join(self.found)}"


class Faults(Sequence[StepFault]):
    """The first hundred steps that went wrong, in the order in which they did.

    Attributes:
        snapshot: The environments before those steps, on the CPU, a row for each.
        total: How many there were.
        max_episode_steps: The time limit, or None.
        params: Parameters but those that each environment was given for itself, as they were given, by name.
        tables: Tables, by name.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content
        self.snapshot: Snapshot = Snapshot.of(content["snapshot"])
        self.total: int = content["total"]
        self.max_episode_steps: int | None = content["max_episode_steps"]
        self.params: dict[str, Any] = content["params"]
        self.tables: dict[str, Tensor] = content["tables"]

    def __len__(self) -> int:
        return len(self._content["rows"])

    @overload
    def __getitem__(self, index: int) -> StepFault: ...
    @overload
    def __getitem__(self, index: slice) -> list[StepFault]: ...
    def __getitem__(self, index: int | slice) -> StepFault | list[StepFault]:
        """Return a fault, or some."""
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = range(len(self))[index]
        clock, kinds = self.snapshot.clock, int(self._content["kinds"][place])
        begins = bool(clock["ended"][place]) and self.snapshot.autoreset_mode != AutoresetMode.DISABLED.value
        return StepFault(
            int(self._content["rows"][place]),
            int(clock["seed"][place]),
            int(clock["env_id"][place]),
            int(clock["episode"][place]),
            0 if begins else int(clock["elapsed"][place]),
            self._content["actions"][place].tolist(),
            tuple(text for bit, text in _SAID.items() if kinds & bit),
        )

    def __repr__(self) -> str:
        return f"Faults({self.snapshot.env}, {len(self)} of {self.total})"

    def explain(self, environment: Definition, place: int = 0) -> Explanation:
        """Take a fault apart, as `VecEnv.explain` does a step.

        Args:
            environment: The definition.
            place: Which of the faults.

        Raises:
            InvalidConfig: If the definition is another one than that of the faults, or there is no such fault.
        """
        place = whole("place", place, 0, len(self) - 1)
        if checks.definition(environment).id != self.snapshot.env:
            raise InvalidConfig("env", f"the faults are of {self.snapshot.env}, got {environment.id}: give its own")
        alone = self.snapshot[place]
        self._check_same(environment)
        # As they were, without the author's `validate`, which may refuse what was written to them.
        values = {**alone.params, **self.params}
        defaults = environment.params._field_defaults
        given = environment.params(**{name: checked(name, values[name], one) for name, one in defaults.items()})
        tables = environment.table_class(**self.tables)
        actions = action_layout(environment.spaces(given, tables)[1])
        shared = {name: one for name, one in self.params.items() if isinstance(one, Tensor)}
        kinds = {name: torch_dtype(column.dtype) for name, column in environment.column_types(given).items()}
        is_same = kinds == {name: column.dtype for name, column in alone.state.items()}
        if not is_same or actions.shape != self._content["actions"].shape[1:]:
            message = f"the state or the actions of {environment.id} had other dtypes when the faults were kept"
            raise InvalidConfig("env", message)
        subject = Subject(environment, given, shared, tables, actions, self.max_episode_steps)
        return explain_step(subject, alone, self._content["actions"][place].numpy())

    def _check_same(self, environment: Definition) -> None:
        """Check that a definition has what it had when the faults were kept."""
        own = {
            "params": {*self.params, *self.snapshot.params},
            "tables": {*self.tables},
            "state": {*self.snapshot.state},
        }
        for part, names in own.items():
            cls = environment.table_class if part == "tables" else getattr(environment, part)
            if names != set(cls._fields):
                was, now = (", ".join(sorted(one)) or "none" for one in (names, cls._fields))
                raise InvalidConfig(
                    "env", f"{part} of {environment.id} were {was} when the faults were kept, now {now}"
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them to a file, whole or not at all.

        Raises:
            CheckpointError: If that cannot be done.
        """
        write_archive(path, {"format": _FORMAT, **self._content})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Faults:
        """Read what `save` wrote.

        Raises:
            InvalidConfig: If there is no such file.
            CheckpointError: If it is damaged, or something else.
        """
        file: Path = as_path("path", path)
        content = read_archive(file, "a file of faults", (_FORMAT,), _KEYS)
        try:
            faults = cls({name: content[name] for name in _KEYS})
            # Each of them, and what makes its environment.
            told = [str(fault) for fault in faults]
            is_whole = len(told) == len(faults.snapshot) == len(content["kinds"]) == len(content["actions"])
            tensors = isinstance(faults.params, dict) and all(isinstance(one, Tensor) for one in faults.tables.values())
        except Exception as error:
            raise CheckpointError(f"what is in {str(file)!r} does not hold together: {error}") from error
        numbers = isinstance(faults.total, int) and isinstance(faults.max_episode_steps, int | None)
        if not is_whole or not tensors or not numbers:
            raise CheckpointError(f"what is in {str(file)!r} does not hold together: it is no file of faults")
        return faults


class FaultKeeper:
    """Implements `Backend` by another one, one step at a time.

    Args:
        backend: Takes the steps.
        batch: What it steps.
        rows: Of the batch.
        storage: Makes memory for what nobody stores.

    Attributes:
        stopped: Environments that stay as they are until they are reset, bool (num_envs,), live.
        total: How many steps went wrong, int64 (), live.
    """

    def __init__(self, backend: Backend, batch: Batch, rows: Rows, storage: Storage) -> None:
        self._backend, self._batch, self._rows = backend, batch, rows
        self.stopped = torch.zeros_like(batch.columns.ended)
        self.total = torch.zeros((), dtype=torch.int64, device=self.stopped.device)
        # The last row takes what there is no room for.
        self._kept = rows.empty(CAPACITY + 1)
        action = storage.allocate("action")
        self._actions = torch.zeros(CAPACITY + 1, *action.shape[1:], dtype=action.dtype, device=action.device)
        self._numbers = torch.zeros(CAPACITY + 1, dtype=torch.int64, device=action.device)
        self._kinds = torch.zeros_like(self._numbers)
        self._spare = storage.trajectory({name: storage.allocate(name, 1) for name in _LOOKED_AT})
        self._places = torch.arange(batch.num_envs, device=action.device)
        self._nobody = torch.zeros_like(self.stopped)
        own = batch.columns
        sums = (own.bad_actions, own.log_count, own.log_return, own.log_length, own.late_steps)
        self._sums = [*sums, *(() if own.log_metrics is None else own.log_metrics)]
        # What is on the host can be looked at.
        self._may_wait = self.stopped.device.type == "cpu"
        self._starts = [row.start for row in batch.environment.metric_rows]

    def reset(self, mask: Tensor, outputs: Outputs) -> None:
        """Begin a new episode where `mask` holds; what had stopped goes on there."""
        self._backend.reset(mask, outputs)
        self.stopped &= ~mask

    def step(self, actions: Tensor, outputs: Outputs) -> None:
        """Advance every environment by one action, but those that have stopped."""
        before = self._before()
        self._backend.step(actions, outputs)
        self._look(before, actions, outputs, outputs)

    def rollout(self, num_steps: int, policy: Tensor | MLP | None, trajectory: Trajectory, outputs: Outputs) -> None:
        """Take many steps, one after the other."""
        for step in range(num_steps):
            stored = trajectory.part(step, 1)
            looked_at = Trajectory(*(own if one is None else one for one, own in zip(stored, self._spare, strict=True)))
            before, taken = self._before(), policy[step : step + 1] if isinstance(policy, Tensor) else policy
            self._backend.rollout(1, taken, looked_at, outputs)
            named = {name: getattr(looked_at, name)[0] for name in _LOOKED_AT}
            action = named.pop("action")
            self._look(before, action, outputs._replace(**named), outputs)
            if stored.final_value is not None:
                # Of a step that is not the last, the value of what follows is the next one's.
                goes_on = named["terminated"] | ~named["truncated"] if step < num_steps - 1 else self.stopped
                stored.final_value[0].masked_fill_(self.stopped | goes_on, 0.0)

    def release(self, rows: Tensor | None) -> None:
        """Let environments go on that have become others, int64 (rows,), or all if None."""
        if rows is None:
            self.stopped.fill_(False)
            return
        # On a GPU nobody has looked at the indices: those out of range fall on a place of their own.
        size = len(self.stopped)
        places = torch.where((rows >= 0) & (rows < size), rows, size)
        self.stopped.copy_(torch.cat([self.stopped, self._nobody[:1]]).index_fill(0, places, False)[:size])

    def _before(self) -> tuple[Rows, list[Tensor]]:
        """Return copies of all that moves: the rows, and what is summed up."""
        return self._rows.mapped(Tensor.clone), [one.clone() for one in self._sums]

    def _look(self, before: tuple[Rows, list[Tensor]], actions: Tensor, written: Outputs, shown: Outputs) -> None:
        """Keep the steps that went wrong, and undo them.

        Args:
            before: What there was.
            actions: What was given.
            written: Where the step wrote what came of it.
            shown: Where it wrote the present observation and action mask.
        """
        rows, sums = before
        kinds = self._found(sums[0], written, shown).masked_fill(self.stopped, 0)
        if self._may_wait and not bool(self.stopped.any() | kinds.any()):
            return
        self._keep(kinds, actions, rows)
        self.stopped |= kinds != 0
        for one, old in zip((*self._rows.columns, *self._sums), (*rows.columns, *sums), strict=True):
            one.copy_(torch.where(self.stopped if one.ndim == 1 else self.stopped[:, None], old, one))
        self._end_episodes()
        written.reward.masked_fill_(self.stopped, 0.0)
        for flag in (written.terminated, written.truncated):
            flag.masked_fill_(self.stopped, False)
        self._backend.reset(self._nobody, shown)
        if written.final_obs is not shown.obs:
            written.final_obs.copy_(torch.where(self.stopped[:, None], shown.obs, written.final_obs))

    def _found(self, refused: Tensor, written: Outputs, shown: Outputs) -> Tensor:
        """Return what is wrong in each row, int64 (num_envs,), where so many actions had been refused before."""
        kinds = (self._batch.columns.bad_actions > refused) * _REFUSED
        for bit, tensors in (
            (_STATE, self._batch.state),
            (_REWARD, (written.reward,)),
            (_OBSERVATION, (written.final_obs, shown.obs)),
        ):
            for one in tensors:
                if one.is_floating_point():
                    sound = one.isfinite()
                    kinds = kinds | ~(sound if sound.ndim == 1 else sound.flatten(1).all(1)) * bit
        return kinds

    def _keep(self, kinds: Tensor, actions: Tensor, rows: Rows) -> None:
        faulty = kinds != 0
        place = (self.total + faulty.cumsum(0) - 1).masked_fill(~faulty, CAPACITY).clamp(max=CAPACITY)
        for kept, column in zip(self._kept.columns, rows.columns, strict=True):
            kept.index_copy_(0, place, column)
        self._actions.index_copy_(0, place, actions.to(self._actions.dtype))
        self._numbers.index_copy_(0, place, self._places)
        self._kinds.index_copy_(0, place, kinds)
        self.total += faulty.sum()

    def _end_episodes(self) -> None:
        """Let what has stopped at the beginning of an episode stand there: the one before it ended once."""
        if self._batch.autoreset_mode is AutoresetMode.DISABLED:
            return
        columns = self._batch.columns
        over = self.stopped & columns.ended
        columns.elapsed.masked_fill_(over, 0)
        columns.episode_return.masked_fill_(over, 0.0)
        if columns.metrics is not None:
            for metric, start in zip(columns.metrics, self._starts, strict=True):
                metric.masked_fill_(over, start)
        columns.ended.masked_fill_(over, False)

    def content(self, snapshot_of: Callable[[Rows], Snapshot], about: dict[str, Any]) -> dict[str, Any]:
        """Return what `Faults` has; waits for the device.

        Args:
            snapshot_of: Makes one of rows of these environments.
            about: What else is to be known of them.
        """
        total = int(self.total)
        first = slice(min(total, CAPACITY))
        copied = {name: _on_cpu(value) for name, value in about.items()}
        return {
            "snapshot": snapshot_of(self._kept.mapped(lambda one: one[first].cpu().clone())).content(),
            "rows": self._numbers[first].cpu(),
            "kinds": self._kinds[first].cpu(),
            "actions": self._actions[first].cpu(),
            "total": total,
            **copied,
        }


def _on_cpu(value: Any) -> Any:
    """Return copies of tensors in a dictionary, and all else as it is."""
    if isinstance(value, dict):
        return {name: _on_cpu(one) for name, one in value.items()}
    return value.cpu().clone() if isinstance(value, Tensor) else value
