"""Snapshots: some environments as they were, apart from the batch that they were in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from operant_gpu.archives import read_archive, write_archive
from operant_gpu.backends.select import existing
from operant_gpu.errors import CheckpointError, InvalidConfig, as_integer
from operant_gpu.files import as_path
from operant_gpu.memory.rows import Rows
from operant_gpu.metrics import Row
from operant_gpu.vector.checks import rows_chosen

_FORMAT = 1
_KEYS = ("env", "autoreset_mode", "numbers", *Rows._fields)
# Where a row that has ended is already in its next episode.
_SAME_STEP = AutoresetMode.SAME_STEP.value


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Some environments as they were: `VecEnv.snapshot` takes one, `VecEnv.restore` puts it back.

    `len` gives how many there are, `snapshot[indices]` some of them, in any order and as often as wanted. It can be
    pickled and copied.

    Attributes:
        env: Id of their definition.
        autoreset_mode: How they were reset, as `AutoresetMode` names it.
        numbers: Their parameters that were compiled in, by name.
        state: Fields of their `State`, tensors `(rows, *shape)`.
        clock: Their episodes and draws, tensors (rows,): "seed" and "env_id" are the key of the draws, "episode" and
            "elapsed" count episodes and steps, "episode_return" and "ended" are as `step` tells them. "metrics", if
            there are any, is (rows, metrics).
        params: Parameters that each has for itself, tensors (rows,).
    """

    env: str
    autoreset_mode: str
    numbers: Mapping[str, bool | int | float]
    state: Mapping[str, Tensor]
    clock: Mapping[str, Tensor]
    params: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.clock["seed"])

    def __repr__(self) -> str:
        return f"Snapshot({self.env}, {len(self)} rows, device='{self.device}')"

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.clock["seed"].device

    @property
    def rows(self) -> Rows:
        """The tensors."""
        return Rows(dict(self.state), dict(self.clock), dict(self.params))

    def __getitem__(self, indices: Any) -> Snapshot:
        """Return some of the rows, in memory of their own.

        Args:
            indices: Which: an integer, or integers as a list, an array or a tensor; or a slice.

        Raises:
            InvalidConfig: If there is no such row; of indices on a GPU PyTorch tells.
        """
        if isinstance(indices, slice):
            indices = range(len(self))[indices]
        elif (number := as_integer(indices)) is not None and -len(self) <= number < 0:
            indices = number + len(self)
        chosen = rows_chosen("indices", indices, len(self), self.device)
        return self.with_rows(self.rows.mapped(lambda one: one[chosen]))

    def __iter__(self) -> Iterator[Snapshot]:
        """Yield the rows one by one."""
        return (self[row] for row in range(len(self)))

    def to(self, device: str | torch.device) -> Snapshot:
        """Return the same on a device, as PyTorch's `to`: its memory is shared where it is there already.

        Raises:
            InvalidConfig: If it is no device.
            BackendError: If there is no such device.
        """
        where = existing(device)
        return self.with_rows(self.rows.mapped(lambda one: one.to(where)))

    @classmethod
    def join(cls, snapshots: Iterable[Snapshot]) -> Snapshot:
        """Return the rows of several snapshots of one kind of environments, one after the other.

        Raises:
            InvalidConfig: If there are none, or they are of different environments or devices.
        """
        joined = list(snapshots)
        if not joined or not all(isinstance(one, Snapshot) for one in joined):
            raise InvalidConfig("snapshots", f"expected some snapshots, got {joined!r}")
        first = joined[0]
        for one in joined:
            if one._kind() != first._kind():
                raise InvalidConfig("snapshots", f"expected all to be like {first}, in parameters too, got {one}")
        rows = [one.rows for one in joined]
        parts = ({name: torch.cat([one[name] for one in same]) for name in same[0]} for same in zip(*rows, strict=True))
        return first.with_rows(Rows(*parts))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, whole or not at all.

        Raises:
            CheckpointError: If that cannot be done.
        """
        write_archive(path, self.to("cpu").content())

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Snapshot:
        """Read what `save` wrote, to a device.

        Raises:
            InvalidConfig: If there is no such file.
            CheckpointError: If it is damaged, or no snapshot.
        """
        file = as_path("path", path)
        content = read_archive(file, "a snapshot", (_FORMAT,), _KEYS)
        try:
            return cls.of(content).to(device)
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"what is in {str(file)!r} does not hold together: {error}") from error

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Snapshot:
        """Return the snapshot that has this content.

        Raises:
            TypeError: Or ValueError, KeyError or AttributeError, if it is none.
        """
        if content["format"] != _FORMAT:
            raise ValueError(f"a snapshot has format {content['format']!r}, this version reads {_FORMAT}")
        snapshot = cls(*(content[name] for name in _KEYS))
        AutoresetMode(snapshot.autoreset_mode)
        columns = [column for part in snapshot.rows for column in part.values()]
        if not isinstance(snapshot.env, str) or not isinstance(snapshot.numbers, Mapping):
            raise TypeError("it does not say what it is of")
        if any(one.layout is not torch.strided or len(one) != len(snapshot) for one in columns):
            raise ValueError("its columns have not as many rows each")
        return snapshot

    def __reduce__(self) -> tuple[Any, ...]:
        return Snapshot.of, (self.content(),)

    def content(self) -> dict[str, Any]:
        """Return it as files and pickles have it."""
        columns = {part: dict(own) for part, own in self.rows._asdict().items()}
        own = {"env": self.env, "autoreset_mode": self.autoreset_mode, "numbers": dict(self.numbers)}
        return {"format": _FORMAT, **own, **columns}

    def _kind(self) -> tuple[Any, ...]:
        """Return what snapshots have to have in common to be joined."""
        columns = [{name: (one.dtype, one.shape[1:]) for name, one in part.items()} for part in self.rows]
        return self.env, self.autoreset_mode, dict(self.numbers), self.device, columns

    def with_rows(self, rows: Rows) -> Snapshot:
        """Return a snapshot of others of these environments."""
        return Snapshot(self.env, self.autoreset_mode, self.numbers, *rows)


class Place(NamedTuple):
    """What a snapshot is to fit.

    Attributes:
        env: Id of the definition.
        autoreset_mode: How environments are reset there.
        params: Their parameters: numbers, and live tensors.
        rows: Live rows.
        metric_rows: What metrics begin with.
    """

    env: str
    autoreset_mode: str
    params: Any
    rows: Rows
    metric_rows: list[Row]


def fitted(snapshot: Any, place: Place) -> Rows:
    """Return a snapshot's rows as they can be copied to a place.

    Raises:
        InvalidConfig: If they cannot go on there as they would where they were taken.
    """
    if not isinstance(snapshot, Snapshot):
        raise InvalidConfig("snapshot", f"expected what `snapshot` returned, got {snapshot!r}")
    if snapshot.env != place.env:
        raise InvalidConfig("snapshot", f"is of {snapshot.env}, these environments are {place.env}")
    device = place.rows.clock["seed"].device
    rows = snapshot.to(device).rows._replace(params=_params(snapshot, place, device))
    # In the order of the place's own, by which they are copied.
    rows = Rows(*({name: given[name] for name in own if name in given} | given for own, given in zip(place.rows, rows)))
    for part, own, given in zip(Rows._fields, place.rows, rows, strict=True):
        here, there = ({name: (one.dtype, *one.shape[1:]) for name, one in columns.items()} for columns in (own, given))
        if here != there:
            message = f"has {_listed(there)} as its {part}, these environments have {_listed(here)}"
            raise InvalidConfig("snapshot", f"{message}: make them of the same definition and parameters")
    if (snapshot.autoreset_mode == _SAME_STEP) is (place.autoreset_mode == _SAME_STEP):
        return rows
    return _in_other_mode(rows, place)


def _params(snapshot: Snapshot, place: Place, device: torch.device) -> dict[str, Tensor]:
    """Return the parameters that each environment has for itself at a place; numbers have to be the same."""
    own = {}
    for name, value in place.params._asdict().items():
        found = snapshot.params.get(name, snapshot.numbers.get(name))
        if name in place.rows.params and found is not None:
            own[name] = torch.as_tensor(found, dtype=value.dtype, device=device).expand(len(snapshot)).contiguous()
        elif not isinstance(value, Tensor) and found is not None and (isinstance(found, Tensor) or found != value):
            there, such = ("a tensor", "a tensor (num_envs,)") if isinstance(found, Tensor) else (found, found)
            advice = f"make these environments with {name}={such}"
            raise InvalidConfig("snapshot", f"{name} is {there} in it, and {value} here: {advice}")
    return own


def _in_other_mode(rows: Rows, place: Place) -> Rows:
    """Return rows between SAME_STEP and the other modes: an episode that ended has gone on to the next, or has not."""
    ended = rows.clock["ended"]
    if place.autoreset_mode == _SAME_STEP:
        if ended.any():
            first = int(ended.int().argmax())
            message = f"the episode of row {first} has ended: take it before its last step, or restore it elsewhere"
            raise InvalidConfig("snapshot", f"{message} than in SAME_STEP mode, where the next would have begun")
        return rows
    begun = {name: rows.clock[name].masked_fill(ended, 0) for name in ("elapsed", "episode_return", "ended")}
    if place.metric_rows:
        starts = torch.tensor([row.start for row in place.metric_rows], dtype=torch.float64, device=ended.device)
        begun["metrics"] = torch.where(ended[:, None], starts, rows.clock["metrics"])
    return rows._replace(clock={**rows.clock, **begun})


def _listed(columns: Mapping[str, tuple[Any, ...]]) -> str:
    named = (f"{name} ({', '.join(map(str, kind))})" for name, kind in columns.items())
    return ", ".join(named).replace("torch.", "") or "nothing"
