"""Rows: all that one environment is, whichever place of a batch it stands in.

That is its state, the clock of its episode, the key of its draws, and the parameters that it has for itself. Sums over
episodes that have finished, and counts of what was refused, belong to the place in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from operant_gpu.memory.columns import Columns

# Of `Columns`. `metrics` are (num_envs, rows) here, so that environments come first everywhere.
CLOCK = ("seed", "env_id", "episode", "elapsed", "episode_return", "ended", "metrics")


class Rows(NamedTuple):
    """Columns by their names, tensors (rows, ...) with any strides.

    Attributes:
        state: Fields of the environment's `State`.
        clock: `CLOCK`, without metrics where there are none.
        params: Parameters that each environment has for itself.
    """

    state: dict[str, Tensor]
    clock: dict[str, Tensor]
    params: dict[str, Tensor]

    @property
    def columns(self) -> list[Tensor]:
        """All of them as (rows,) or (rows, cells), in the same memory, the clock first; each metric by itself."""
        clock = {name: one for name, one in self.clock.items() if one.ndim == 1}
        metrics = self.clock["metrics"].unbind(1) if "metrics" in self.clock else ()
        every = (*clock.values(), *metrics, *self.state.values(), *self.params.values())
        return [one if one.ndim == 1 else one.flatten(1) for one in every]

    @property
    def size(self) -> int:
        """How many rows there are."""
        return len(self.clock["seed"])

    def empty(self, size: int) -> Rows:
        """Return memory for so many rows like these."""
        return self.mapped(lambda one: torch.empty(size, *one.shape[1:], dtype=one.dtype, device=one.device))

    def mapped(self, function: Any) -> Rows:
        """Return the rows that a function makes of each column."""
        return Rows(*({name: function(one) for name, one in part.items()} for part in self))


class NewStreams(NamedTuple):
    """What gives branches draws of their own.

    Attributes:
        env_ids: Each row's own environment id, int32 (rows,).
        counts: How many keys each row has been given, int64 (rows,): counted on.
    """

    env_ids: Tensor
    counts: Tensor


class Copy(NamedTuple):
    """Rows that are to be copied onto others, as if all were read before any is written.

    Attributes:
        pairs: How many.
        sources: Where they are.
        source_rows: Which, int64 (pairs,); the first ones if None.
        targets: Where they are copied to, with the same columns.
        target_rows: Which they become, likewise; no row twice.
        misses: int64 (), to which pairs are added that have a row which does not exist.
        streams: What gives them draws of their own, or None.
    """

    pairs: int
    sources: Rows
    source_rows: Tensor | None
    targets: Rows
    target_rows: Tensor | None
    misses: Tensor
    streams: NewStreams | None = None


def rows_of(state: Any, columns: Columns, memory: Mapping[str, Tensor]) -> Rows:
    """Return the live rows of a batch."""
    found = {name: getattr(columns, name) for name in CLOCK}
    clock = {name: one if one.ndim == 1 else one.T for name, one in found.items() if one is not None}
    return Rows(state._asdict(), clock, {name: one for name, one in memory.items() if one.ndim})
