"""Several processes: what they compute in common over torch.distributed, and where they meet."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import logging
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from operant_gpu.errors import InvalidConfig, OperantError, ProcessError, one_line
from operant_gpu.processes import watch
from operant_gpu.processes.alone import BEGINNING, PLACES, Processes
from operant_gpu.processes.watch import BEAT, Watch

T = TypeVar("T")

_log = logging.getLogger("operant_gpu")
# Bytes that gloo gathers at most. Its all-reduce sends as many bytes of each process, whatever their number, in more
# rounds.
_MOST_GATHERED = 2**22
# Of each process group by its name: how many `Group`s it has had here.
_made: dict[str, int] = {}


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
            return internals.ProcessGroupGloo(store(name), self.rank, self.size, timedelta(seconds=2 * watch.LIMIT))

        self._watch = Watch(store("watch"), self.rank, self.size)
        self._watch.start()
        # Whether something is sent or taken, or was when that failed.
        self._is_waiting = False
        # Two, since a process may be at a meeting while another is in an iteration.
        self._meetings, self._host = gloo("meetings"), gloo("numbers")
        # A program that ends without `distributed` waits for nobody.
        atexit.register(self._close)

    def __deepcopy__(self, memo: Any) -> Group:
        """Return itself: there is one of a process group."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the processes that are there where it is unpickled."""
        from operant_gpu.processes.joining import present

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
        """Begin to send one's own row to all others, and to take theirs, in one round."""
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
        own = 1 << PLACES.index(place)
        met = _word(own | word << len(PLACES))
        bits: Any = dist.AllreduceOptions()
        bits.reduceOp = dist.ReduceOp.BOR
        self._complete(lambda: [self._meetings.allreduce([met], bits)])
        found = int(met)
        here = [name for bit, name in enumerate(PLACES) if found >> bit & 1]
        if len(here) > 1:
            message = f"this process, rank {self.rank}, is at {place}, and others are at {_listed(here, place)}"
            raise ProcessError(f"{message}: every process has to make the same calls, in the same order")
        return found >> len(PLACES)

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

    def _close(self) -> None:
        """Stop looking, and close the connections while there is a Python to do so."""
        self._watch.stop()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._is_waiting:
            # To close a connection on which something is awaited waits for it: these stay until the process is over.
            for one in (self._meetings, self._host):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))
        self._meetings = self._host = None

    def leave(self) -> None:
        """Wait a while for the others to be done too, so that none is ended for the end of another."""
        atexit.unregister(self._close)
        self._watch.leave()
        self._disconnect()
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
        own = self._watch
        own.check()
        own.begun += 1
        self._is_waiting = True
        began, has_told = time.monotonic(), False
        try:
            works = begin()
            while not all(map(_is_over, works)):
                own.check()
                waited = time.monotonic() - began
                if waited > watch.LIMIT:
                    message = f"rank {self.rank} has waited {waited:.0f} s for {own.late()}"
                    raise ProcessError(f"{message}: every process has to make the same calls, in the same order")
                if waited > watch.PATIENCE and not has_told:
                    has_told = True
                    _log.warning(f"rank {self.rank} waits for {own.late()}")
        except RuntimeError as error:
            if isinstance(error, ProcessError):
                raise
            raise ProcessError(own.find_out(error)) from error
        self._is_waiting = False


def _is_over(work: Any) -> bool:
    """Wait a second for something that is sent or taken; return whether it is over."""
    try:
        work.wait(timedelta(seconds=BEAT))
    except RuntimeError:
        # The wait is over, or the collective has failed.
        if not work.is_completed():
            return False
        work.wait()
    return True


def _word(number: int = 0) -> Tensor:
    return torch.tensor([number], dtype=torch.int64, device="cpu")


def _packed(value: Any) -> Tensor:
    # On the CPU, whatever device is PyTorch's default.
    return torch.from_numpy(np.frombuffer(bytearray(pickle.dumps(value)), np.uint8))


def _unpacked(data: Tensor) -> Any:
    return pickle.loads(data.numpy().tobytes())


def _listed(places: list[str], own: str) -> str:
    return " and ".join(place for place in places if place != own)


def has_joined() -> bool:
    """Return whether this process has been one of several."""
    return bool(_made)


def _default_store() -> Any:
    internals: Any = dist.distributed_c10d
    return internals._get_default_store()
