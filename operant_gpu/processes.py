"""Processes that train together: what they compute in common, where they meet, and how all of them end if one does.

What carries the numbers is torch.distributed: NCCL between GPUs, gloo between CPUs. `Processes` is one process by
itself, to which all this costs nothing. What tells whether the others live is a thread that looks once a second at the
store of the process group: no process waits for one that is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import pickle
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from operant_gpu.errors import InvalidConfig, OperantError, ProcessError, one_line

T = TypeVar("T")

_log = logging.getLogger("operant_gpu")
# Seconds: between two signs of life; of silence after which a process counts as gone, and as gone once a connection has
# broken; after which the log says who is waited for; and that a process waits for one that lives and does not come.
_BEAT, _SILENCE, _BROKEN, _PATIENCE, _LIMIT = 1.0, 20.0, 4.0, 30.0, 600.0
# Of a process whose device waits for another that is gone: seconds until it ends itself.
_GRACE = 15.0
# Bytes that gloo gathers at most: its all-reduce takes twice as many rounds, and as many bytes of each process as of
# two.
_MOST_GATHERED = 2**22
# Where processes meet. Each is a bit of a word, so that who is elsewhere is seen.
_PLACES = (
    "the end of an iteration",
    "the beginning of a learner, a training or a run",
    "a checkpoint, as of save()",
    "an evaluation",
)
END_OF_ITERATION, BEGINNING, CHECKPOINT, EVALUATION = _PLACES
# Bits of what a process says at a meeting: that it stops, that something went wrong, that this was in what is learned.
STOP, FAILED, FAULTY = 1, 2, 4


class Processes:
    """One process by itself.

    Attributes:
        rank: Its number among those that train together, from 0 on.
        size: How many these are.
        backend: What carries their numbers, as torch.distributed names it; nothing for one.
        is_echo: Whether this process has failed with the words of the first one, which has told them.
    """

    rank = 0
    size = 1
    backend = ""
    is_echo = False

    def average(self, *tensors: Tensor) -> None:
        """Replace tensors of one dtype by their means over all processes, the same bits in each."""

    def gather(self, tensor: Tensor) -> Tensor:
        """Return what each process has of a tensor, (size, *shape)."""
        return tensor[None]

    def gather_objects(self, value: T, to_all: bool = True) -> list[T]:
        """Return what each process gives, in the first one or in all; elsewhere nothing."""
        return [value]

    def first(self, function: Callable[[], T], place: str = BEGINNING) -> T:
        """Let the first process call a function; return in all what it returned, or raise what it raised."""
        return function()

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the first one's tensors."""

    def meet(self, place: str, word: int = 0) -> int:
        """Wait until all processes are here, and return the bits that any of them has set."""
        return word

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Check that what all processes must have in common is the same.

        Raises:
            InvalidConfig: With what differs, and where.
        """

    def announcing(self) -> contextlib.AbstractContextManager[None]:
        """Tell the others of an error that ends what is done here, so that they end too."""
        return contextlib.nullcontext()

    def working(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        """Do what may wait on a GPU for other processes: if one is gone, such a wait would never end."""
        return contextlib.nullcontext()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rank={self.rank}, size={self.size})"


class Group(Processes):
    """Several processes, with a thread that watches over them.

    Args:
        group: The process group of torch.distributed. All its processes make a `Group` of it at the same time.

    Attributes:
        group: As given.

    Raises:
        ProcessError: From all methods, if a process has failed, left or does not answer.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.rank, self.size = group, dist.get_rank(group), dist.get_world_size(group)
        self.backend = str(dist.get_backend_config(group))
        # One of this name that was destroyed may have left its words in the store.
        _made[group.group_name] = number = _made.get(group.group_name, 0) + 1
        internals: Any = dist.distributed_c10d

        def store(name: str) -> Any:
            # With a connection of its own, so that a thread never waits for another.
            return internals.PrefixStore(f"operant_gpu/{group.group_name}/{number}/{name}", _default_store().clone())

        def gloo(name: str) -> Any:
            # `new_group` would name it after how many groups this process has, which others may have more of.
            return internals.ProcessGroupGloo(store(name), self.rank, self.size, timedelta(seconds=2 * _LIMIT))

        self._watch = _Watch(store("watch"), self.rank, self.size)
        # Two, since a process may be at a meeting while another is in an iteration.
        self._meetings, self._host = gloo("meetings"), gloo("numbers")
        self._watch.start()
        # A program that ends without `distributed` waits for nobody.
        atexit.register(self._watch.stop)

    def __deepcopy__(self, memo: Any) -> Group:
        """Return itself: there is one of a process group."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the processes that are there where it is unpickled."""
        return present, ()

    def average(self, *tensors: Tensor) -> None:
        """Replace tensors of one dtype by their means over all processes, the same bits in each."""
        # A view, if there is but one that lies in a piece.
        flat, *others = [tensor.detach().flatten() for tensor in tensors]
        flat = torch.cat([flat, *others]) if others else flat
        if flat.device.type == "cuda":
            dist.all_reduce(flat, dist.ReduceOp.AVG, self.group)
        elif self.size * flat.nbytes <= _MOST_GATHERED:
            rows = self.gather(flat)
            for row in rows[1:]:
                rows[0] += row
            torch.div(rows[0], self.size, out=flat)
        else:
            self._complete(lambda: [self._host.allreduce([flat])])
            flat /= self.size
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.detach().copy_(part.view_as(tensor))

    def gather(self, tensor: Tensor) -> Tensor:
        """Return what each process has of a tensor, (size, *shape)."""
        tensor = tensor.detach().contiguous()
        rows = tensor.new_empty(self.size, *tensor.shape)
        if tensor.device.type == "cuda":
            dist.all_gather(list(rows), tensor, self.group)
        else:
            rows[self.rank] = tensor
            self._complete(lambda: self._exchange(self._host, rows))
        return rows

    def _exchange(self, group: Any, rows: Tensor) -> list[Any]:
        """Begin to send one's own row to all others, and to take theirs: a quarter of the time of gloo's all-gather."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        sent = [group.send([rows[self.rank]], rank, 0) for rank in others]
        return [*sent, *(group.recv([rows[rank]], rank, 0) for rank in others)]

    def gather_objects(self, value: T, to_all: bool = True) -> list[T]:
        """Return what each process gives, in the first one or in all; elsewhere nothing."""
        data = _packed(value)
        sizes = _word().repeat(self.size, 1)
        sizes[self.rank] = len(data)
        self._complete(lambda: self._exchange(self._meetings, sizes))
        rows = data.new_empty(self.size, int(sizes.max()))
        rows[self.rank, : len(data)] = data
        if to_all:
            self._complete(lambda: self._exchange(self._meetings, rows))
        elif self.rank:
            self._complete(lambda: [self._meetings.send([rows[self.rank]], 0, 0)])
            return []
        else:
            self._complete(lambda: [self._meetings.recv([rows[rank]], rank, 0) for rank in range(1, self.size)])
        return [_unpacked(row[: int(size)]) for row, size in zip(rows, sizes, strict=True)]

    def first(self, function: Callable[[], T], place: str = BEGINNING) -> T:
        """Let the first process call a function; return in all what it returned, or raise what it raised."""
        self.meet(place)
        outcome: tuple[bool, Any] | None = None
        failure: BaseException | None = None
        if self.rank == 0:
            try:
                outcome = True, function()
            except Exception as error:
                failure = error
                message = f"rank 0 failed: {type(error).__name__}: {one_line(error)}"
                outcome = False, error if isinstance(error, OperantError) else ProcessError(message)
        succeeded, result = self._sent(outcome)
        if failure is not None:
            raise failure
        if not succeeded:
            raise result
        return cast(T, result)

    def _sent(self, value: Any) -> Any:
        """Return what the first process gives."""
        data = _packed(value)
        size = _word(len(data))
        self._complete(lambda: [self._meetings.broadcast([size], dist.BroadcastOptions())])
        data = data if self.rank == 0 else data.new_empty(int(size))
        self._complete(lambda: [self._meetings.broadcast([data], dist.BroadcastOptions())])
        return value if self.rank == 0 else _unpacked(data)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the first one's tensors."""
        given = self.first(lambda: [tensor.detach().cpu() for tensor in tensors])
        for own, other in zip(tensors, given, strict=True):
            own.detach().copy_(other)

    def meet(self, place: str, word: int = 0) -> int:
        """Wait until all processes are here, and return the bits that any of them has set."""
        own = 1 << _PLACES.index(place)
        met = _word(own | word << len(_PLACES))
        bits: Any = dist.AllreduceOptions()
        bits.reduceOp = dist.ReduceOp.BOR
        self._complete(lambda: [self._meetings.allreduce([met], bits)])
        found = int(met)
        here = [name for bit, name in enumerate(_PLACES) if found >> bit & 1]
        if len(here) > 1:
            message = f"this process, rank {self.rank}, is at {place}, and others are at {_listed(here, place)}"
            raise ProcessError(f"{message}: every process has to make the same calls, in the same order")
        return found >> len(_PLACES)

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Check that what all processes must have in common is the same.

        Raises:
            InvalidConfig: With what differs, and where.
        """
        self.meet(BEGINNING)
        own, *others = self.gather_objects({name: repr(value) for name, value in facts.items()})
        for rank, other in enumerate(others, 1):
            for name in {**own, **other}:
                here, there = own.get(name, "nothing"), other.get(name, "nothing")
                if here != there:
                    message = f"rank {rank} has {there}, and rank 0 has {here}: start all processes with the same"
                    raise InvalidConfig(name, message)

    @contextlib.contextmanager
    def announcing(self) -> Iterator[None]:
        """Tell the others of an error that ends what is done here, so that they end too."""
        try:
            yield
        except BaseException as error:
            # A program may end so when all is well.
            if not isinstance(error, SystemExit) or error.code:
                self._watch.announce(f"failed: {type(error).__name__}: {one_line(Exception(error))}")
            raise

    @contextlib.contextmanager
    def working(self, device: torch.device) -> Iterator[None]:
        """Do what may wait on a GPU for other processes: if one is gone, such a wait would never end."""
        self._watch.check()
        self._watch.working_since = time.monotonic() if device.type == "cuda" else None
        try:
            yield
        finally:
            self._watch.working_since = None

    def leave(self) -> None:
        """Wait a while for the others to be done too, so that none is ended for the end of another."""
        self._watch.leave()
        if self._watch.failure is not None and "nccl" in self.backend:
            # Kernels that wait for a process that is gone would keep this one from ending.
            with contextlib.suppress(RuntimeError):
                self.group.abort()

    @property
    def is_echo(self) -> bool:  # type: ignore[override]
        """Whether this process has failed with the words of the first one, which has told them."""
        return self.rank > 0 and self._watch.ends_alike(0)

    def _complete(self, begin: Callable[[], list[Any]]) -> None:
        """Begin to send or take between hosts, and wait for the end, unless a process is found to be gone."""
        watch = self._watch
        watch.check()
        watch.begun += 1
        began, has_told = time.monotonic(), False
        try:
            works = begin()
            while not all(map(_is_over, works)):
                watch.check()
                waited = time.monotonic() - began
                if waited > _LIMIT:
                    message = f"rank {self.rank} has waited {waited:.0f} s for {watch.late()}"
                    raise ProcessError(f"{message}: every process has to make the same calls, in the same order")
                if waited > _PATIENCE and not has_told:
                    has_told = True
                    _log.warning(f"rank {self.rank} waits for {watch.late()}")
        except RuntimeError as error:
            if isinstance(error, ProcessError):
                raise
            raise ProcessError(watch.find_out(error)) from error


def _is_over(work: Any) -> bool:
    """Wait a second for something that is sent or taken; return whether it is over."""
    try:
        work.wait(timedelta(seconds=_BEAT))
    except RuntimeError:
        # The wait is over, or the collective has failed.
        if not work.is_completed():
            return False
        work.wait()
    return True


class _Watch:
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
        # All have done so before any looks: making groups waits for all.
        store.set(f"end/{rank}", "")
        store.set(f"beat/{rank}", "0 0")

    def start(self) -> None:
        """Begin to look, now that all processes are there."""
        self._looked = time.monotonic()
        self._seen = [(b"", self._looked)] * self._size
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        """Show and look, once a second, until there is a failure."""
        try:
            while not self._stopped.wait(_BEAT) and self.failure is None:
                self._look()
        except Exception as error:
            self._lose_store(one_line(error))

    def _guard(self) -> None:
        """See that the other thread looks; end the process if there is a failure of which it will not hear."""
        failed: float | None = None
        while not self._stopped.wait(_BEAT):
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
        if self.failure is not None:
            raise ProcessError(self.failure)
        for rank, end in enumerate(self._ends):
            if end and rank != self._rank and not self._own_end:
                raise ProcessError(f"rank {rank} {end}, and rank {self._rank} still needs it")

    def late(self) -> str:
        """Return which processes are behind this one, in words."""
        begun = [int(value.split()[1]) if value else 0 for value, _ in self._seen]
        behind = [f"rank {rank}" for rank, one in enumerate(begun) if one < self.begun and rank != self._rank]
        lives = "lives and has" if len(behind) == 1 else "live and have"
        return f"{' and '.join(behind) or 'other processes'}, which {lives} not come yet"

    def find_out(self, error: Exception) -> str:
        """Return who is gone, after a connection has broken."""
        self._is_broken = True
        until = time.monotonic() + _BROKEN + 3 * _BEAT
        while time.monotonic() < until:
            with contextlib.suppress(ProcessError):
                self.check()
                time.sleep(_BEAT / 10)
                continue
            break
        try:
            self.check()
        except ProcessError as found:
            return str(found)
        return f"the processes have lost each other: {one_line(error)}"

    def announce(self, end: str) -> None:
        """Tell the others how this process ends."""
        with contextlib.suppress(Exception):
            if not self._own_end and len(self._lost) < self._size:
                self._own_end = end
                self._store.set(f"end/{self._rank}", end)

    def ends_alike(self, rank: int) -> bool:
        """Return whether this process and another have ended with the same words."""
        return self._own_end == self._ends[rank] != "left"

    def stop(self) -> None:
        """Look no more, and tell that this process is done."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(3 * _BEAT)
            if thread.is_alive():
                # It waits for a store that does not answer, and so would this one.
                self._lost.update(range(self._size))
        self.announce("left")

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
            time.sleep(_BEAT / 20)

    def _has(self, what: str, rank: int) -> bool:
        key = f"{what}/{rank}"
        return bool(self._store.check([key]) and (what != "end" or self._store.get(key)))


def _store_is_gone() -> str:
    """Return what it means that the store does not answer."""
    keeper = "torchrun" if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "rank 0"
    return f"{keeper} is gone, which kept what the processes know of each other"


def _word(number: int = 0) -> Tensor:
    return torch.tensor([number], dtype=torch.int64, device="cpu")


def _packed(value: Any) -> Tensor:
    # On the CPU, whatever device is PyTorch's default.
    return torch.from_numpy(np.frombuffer(bytearray(pickle.dumps(value)), np.uint8))


def _unpacked(data: Tensor) -> Any:
    return pickle.loads(data.numpy().tobytes())


def _listed(places: list[str], own: str) -> str:
    return " and ".join(place for place in places if place != own)


def merged_moments(means: Tensor, spreads: Tensor, counts: Any) -> tuple[Tensor, Tensor, Any]:
    """Return mean, sum of squared deviations and number of all numbers, of whose parts these are known.

    Args:
        means: Of the parts, (parts, *shape).
        spreads: Sums of squared deviations from these, likewise.
        counts: How many numbers each part has: the same in all.
    """
    mean = means.mean(0)
    return mean, spreads.sum(0) + counts * (means - mean).square().sum(0), counts * len(means)


def _default_store() -> Any:
    internals: Any = dist.distributed_c10d
    return internals._get_default_store()


ALONE = Processes()
# Of each process group by its name: how many `Group`s it had, and the present one, for making it takes all processes.
_made: dict[str, int] = {}
_groups: dict[str, Group] = {}


def present(given: Processes | dist.ProcessGroup | None = None) -> Processes:
    """Return the processes that train together.

    Args:
        given: A process group of torch.distributed, or `Processes`, such as `Processes()` for this one alone; if None,
            the default group if there is one.
    """
    if isinstance(given, Processes):
        return given
    has_default = dist.is_available() and dist.is_initialized()
    if given is None:
        if not has_default:
            if _started() > 1 and not _made:
                advice = "with operant_gpu.models.distributed(): ... lets them train together"
                message = f"{_started()} processes were started, and this one trains by itself: {advice}"
                warnings.warn(message, RuntimeWarning, stacklevel=5)
            return ALONE
        given = dist.group.WORLD
    if not isinstance(given, dist.ProcessGroup):
        raise InvalidConfig("processes", f"expected a ProcessGroup of torch.distributed, got {given!r}")
    if dist.get_world_size(given) == 1:
        return ALONE
    # A group that was destroyed may have had the same name.
    if given.group_name not in _groups or _groups[given.group_name].group is not given:
        _groups[given.group_name] = Group(given)
    return _groups[given.group_name]


def started_rank() -> int:
    """Return the number of this process among those that were started together."""
    return _number_in("RANK", 0) if _started() > 1 else 0


def _started() -> int:
    """Return how many processes torchrun, or who sets its variables, has started."""
    return _number_in("WORLD_SIZE", 1)


def _number_in(variable: str, usual: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else usual


@contextlib.contextmanager
def distributed() -> Iterator[Processes]:
    """Join the processes that torchrun has started, and leave them at the end.

    On machines with GPUs, `device="auto"` and `device="cuda"` are then the GPU with the number of this process on its
    machine (LOCAL_RANK). Started without torchrun, or anything that sets its variables, it does nothing. The process
    group of torch.distributed stays until the program ends.

    Yields:
        The processes: `rank` and `size`.

    Raises:
        InvalidConfig: If torchrun's variables make no sense.
        ProcessError: If not all processes come.
    """
    if not dist.is_available() or not (dist.is_initialized() or _is_started()):
        yield ALONE
        return
    if _groups:
        # Within another.
        yield present()
        return
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (index := _number_in("LOCAL_RANK", 0)) < gpus:
        torch.cuda.set_device(index)
    try:
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=timedelta(seconds=_LIMIT))
        processes = present()
    except (RuntimeError, ValueError) as error:
        raise ProcessError(f"the {_started()} processes cannot be joined: {one_line(error)}") from error
    try:
        with processes.announcing():
            yield processes
    finally:
        # The group of PyTorch stays. To destroy NCCL's would wait for graphs that learners have captured.
        if isinstance(processes, Group):
            processes.leave()
            _groups.clear()


def _is_started() -> bool:
    """Tell whether this is one of several processes that were started together, and check what says so."""
    size, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
    if not size.isdecimal() or not rank.isdecimal() or int(rank) >= int(size):
        message = f"expected numbers of processes as torchrun sets them, got WORLD_SIZE={size!r} and RANK={rank!r}"
        raise InvalidConfig("WORLD_SIZE", message)
    return int(size) > 1
