"""What threads begin and wait for later, in groups that they commit: asynchronous copies here, products elsewhere."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ptx_executor.syntax import Place
from ptx_executor.types import Array


class Groups:
    """Counts the groups that each of some threads, or warpgroups, has committed."""

    def __init__(self, count: int) -> None:
        self.committed = np.zeros(count, np.int64)

    def commit(self, who: Array) -> None:
        self.committed[who] += 1

    def ends(self, who: Array, most: int) -> Array:
        """Return before which group all is done when some wait for all but the last `most`; -1 for the others."""
        found = np.full(len(self.committed), -1)
        found[who] = self.committed[who] - most
        return found


class _Copy(NamedTuple):
    threads: Array
    group: Array  # (threads,)
    to: Array  # (threads,)
    words: Array  # (threads, count)
    place: Place


class Copies(Groups):
    """Copies to shared memory that threads have begun and not waited for. Until then it holds poison there."""

    def __init__(self, num_threads: int, poison: int) -> None:
        super().__init__(num_threads)
        self._begun: list[_Copy] = []
        self._poison = np.uint32(poison & 0xFFFFFFFF)

    def begin(self, state: Any, threads: Array, to: Array, words: Array, place: Place) -> None:
        one = _Copy(threads, self.committed[threads], to, words, place)
        self._store(state, one._replace(words=np.full_like(words, self._poison)))
        self._begun.append(one)

    def wait(self, state: Any, who: Array, most: int) -> None:
        """Finish all groups of some threads but the last `most` that they committed."""
        ends, left = self.ends(who, most), []
        for one in self._begun:
            is_done = one.group < ends[one.threads]
            if is_done.any():
                self._store(state, _some(one, is_done))
            if not is_done.all():
                left.append(_some(one, ~is_done))
        self._begun = left

    @staticmethod
    def _store(state: Any, one: _Copy) -> None:
        is_active = np.zeros(state.num_threads, bool)
        is_active[one.threads] = True
        _, _, access = state.accessing(is_active, is_active)
        for i, values in enumerate(one.words.T):
            at = one.to + np.uint64(4 * i)
            state.store("shared", at, np.ascontiguousarray(values), one.threads, access, one.place)


def _some(one: _Copy, chosen: Array) -> _Copy:
    return _Copy(one.threads[chosen], one.group[chosen], one.to[chosen], one.words[chosen], one.place)
