"""Who of several processes still lives, as they show it to each other in the store of their process group."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from typing import Any

from operant_gpu.errors import ProcessError, one_line

_log = logging.getLogger("operant_gpu")
# Seconds between two signs of life.
BEAT = 1.0
# Seconds of silence after which a process counts as gone: as long as Python's lock may be held by a long call.
_SILENCE = 20.0
# The same, once a connection has broken.
_BROKEN = 4.0
# Seconds after which the log says who is waited for.
PATIENCE = 30.0
# Seconds that a process waits for one that lives and does not come.
LIMIT = 600.0
# The end of a process that is done, before how many collectives it has begun.
_LEFT = "left after "
# Seconds that a process may wait on its GPU for one that is gone, until it ends itself.
_GRACE = 15.0


class Watch:
    """Shows in the store that this process lives, and looks whether the others do.

    That is what one thread does. Another looks after it, for it may wait for the store of a machine that is gone.

    Attributes:
        failure: What has happened to another process; None if nothing has.
        working_since: When the process began what may wait for others on its GPU; None while it does nothing such.
        begun: How many collectives between hosts it has begun.
    """

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self._threads = [
            threading.Thread(target=one, name="processes", daemon=True) for one in (self._run, self._guard)
        ]
        self._store, self._rank, self._size = store, rank, size
        self._stopped, self._is_broken, self._count = threading.Event(), False, 0
        self._seen, self._looked = [(b"", 0.0)] * size, 0.0
        self._ends, self._own_end = [""] * size, ""
        self._lost: set[int] = set()
        self.failure: str | None = None
        self.working_since: float | None = None
        self.begun = 0
        store.set(f"end/{rank}", "")
        store.set(f"beat/{rank}", "0 0")

    def start(self) -> None:
        """Wait until all processes are there, and begin to look."""
        began, has_told = time.monotonic(), False
        while absent := [rank for rank in range(self._size) if not self._store.check([f"beat/{rank}"])]:
            waited, names = time.monotonic() - began, " and ".join(f"rank {rank}" for rank in absent)
            if waited > LIMIT:
                raise ProcessError(f"rank {self._rank} has waited {waited:.0f} s for {names} to begin")
            if waited > PATIENCE and not has_told:
                has_told = True
                _log.warning(f"rank {self._rank} waits for {names} to begin")
            time.sleep(BEAT / 20)
        self._looked = time.monotonic()
        self._seen = [(b"", self._looked)] * self._size
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        """Show and look, once a second, until there is a failure."""
        try:
            while not self._stopped.wait(BEAT) and self.failure is None:
                self._look()
        except Exception as error:
            self._lose_store(one_line(error))

    def _guard(self) -> None:
        """See that the other thread looks; end the process if there is a failure of which it will not hear."""
        failed: float | None = None
        while not self._stopped.wait(BEAT):
            now = time.monotonic()
            if self.failure is None and now - self._looked > _SILENCE:
                self._lose_store(f"no answer for {_SILENCE:g} s")
            if self.failure is None:
                continue
            failed, since = failed or now, self.working_since
            if since is not None and now - max(since, failed) > _GRACE:
                # Nothing else ends a wait for a kernel.
                sys.stderr.write(f"operant-gpu: {self.failure}; rank {self._rank} waits for it, and ends\n")
                sys.stderr.flush()
                os._exit(1)

    def _lose_store(self, reason: str) -> None:
        if not self._stopped.is_set():
            self.failure = self.failure or f"{_store_is_gone()}: {reason}"
            self._lost.update(range(self._size))

    def _look(self) -> None:
        self._count += 1
        self._store.set(f"beat/{self._rank}", f"{self._count} {self.begun}")
        keys = [f"{kind}/{rank}" for kind in ("end", "beat") for rank in range(self._size)]
        values = self._store.multi_get(keys)
        self._ends = [value.decode() for value in values[: self._size]]
        now, limit = time.monotonic(), _BROKEN if self._is_broken else _SILENCE
        first, later = list[str](), list[str]()
        for rank, value in enumerate(values[self._size :]):
            if value != self._seen[rank][0]:
                self._seen[rank] = value, now
            if self._ends[rank].startswith("failed") and rank != self._rank:
                # It may have failed because another had.
                (later if ProcessError.__name__ in self._ends[rank] else first).append(
                    f"rank {rank} {self._ends[rank]}"
                )
            elif not self._ends[rank] and rank != self._rank and now - self._seen[rank][1] > limit:
                self._lost.add(rank)
                first.append(
                    f"rank {rank} does not answer: its process was killed or does not run, or its machine is gone"
                )
        self.failure, self._looked = self.failure or next(iter(first + later), None), now

    def check(self) -> None:
        """Raise if another process is gone, or has left while this one needs it."""
        if reason := self._obstacle():
            raise ProcessError(reason)

    def _obstacle(self) -> str | None:
        """Return why this process cannot wait for the others; None if it can."""
        if self.failure is not None:
            return self.failure
        if self._stopped.is_set():
            return "this process has left the others: train and save within `with distributed():`"
        for rank, end in enumerate(self._ends):
            # What it had begun it has done, also if others have not yet.
            if end.startswith(_LEFT) and int(end.removeprefix(_LEFT)) < self.begun and rank != self._rank:
                advice = "every process has to make the same calls, in the same order"
                return f"rank {rank} left, and rank {self._rank} still needs it: {advice}"
        return None

    def late(self) -> str:
        """Return which processes are behind this one, in words."""
        begun = [int(value.split()[1]) if value else 0 for value, _ in self._seen]
        behind = [f"rank {rank}" for rank, one in enumerate(begun) if one < self.begun and rank != self._rank]
        lives = "lives and has" if len(behind) == 1 else "live and have"
        return f"{' and '.join(behind) or 'other processes'}, which {lives} not come yet"

    def find_out(self, error: Exception) -> str:
        """Return who is gone, after a connection has broken."""
        self._is_broken = True
        until = time.monotonic() + _BROKEN + 3 * BEAT
        while time.monotonic() < until:
            if reason := self._obstacle():
                return reason
            time.sleep(BEAT / 10)
        return f"the processes have lost each other: {one_line(error)}"

    def announce(self, end: str) -> None:
        """Tell the others how this process ends."""
        with contextlib.suppress(Exception):
            if not self._own_end and len(self._lost) < self._size:
                self._own_end = end
                self._store.set(f"end/{self._rank}", end)

    def ends_alike(self, rank: int) -> bool:
        """Return whether this process and another have ended with the same words."""
        return self._own_end == self._ends[rank] and self._own_end.startswith("failed")

    def stop(self) -> None:
        """Look no more, and tell that this process is done."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(3 * BEAT)
            if thread.is_alive():
                # It waits for a store that does not answer, and so would this one.
                self._lost.update(range(self._size))
        self.announce(f"{_LEFT}{self.begun}")

    def leave(self) -> None:
        """Do as `stop` does, and wait a while until all are done, or are lost."""
        self.stop()
        if len(self._lost) == self._size:
            return
        with contextlib.suppress(Exception):
            self._wait_for_others("end")
            # Whoever keeps the store keeps it until nobody looks at it.
            self._store.set(f"gone/{self._rank}", "")
            if self._rank == 0:
                self._wait_for_others("gone")

    def _wait_for_others(self, what: str) -> None:
        until, self._is_broken = time.monotonic() + _SILENCE, True
        while time.monotonic() < until:
            self._look()
            left = [rank for rank in range(self._size) if rank not in self._lost]
            if all(self._has(what, rank) for rank in left):
                return
            time.sleep(BEAT / 20)

    def _has(self, what: str, rank: int) -> bool:
        key = f"{what}/{rank}"
        return bool(self._store.check([key]) and (what != "end" or self._store.get(key)))


def _store_is_gone() -> str:
    """Return what it means that the store does not answer."""
    keeper = "torchrun" if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "rank 0"
    return f"{keeper} is gone, which kept what the processes know of each other"
