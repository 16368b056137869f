"""Which processes train together: those of a process group, or those that torchrun has started."""

from __future__ import annotations

import atexit
import contextlib
import os
import warnings
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from operant_gpu.errors import InvalidConfig, ProcessError, one_line
from operant_gpu.processes.alone import ALONE, Processes
from operant_gpu.processes.group import Group, has_joined
from operant_gpu.processes.watch import LIMIT

# Of each process group by its name: making one takes all processes.
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
            if _started() > 1 and not has_joined():
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
            _join(has_gpus=gpus > 0)
        processes = present()
    except (RuntimeError, ValueError) as error:
        raise ProcessError(f"the {_started()} processes cannot be joined: {one_line(error)}") from error
    try:
        with processes.announcing():
            yield processes
    finally:
        if isinstance(processes, Group):
            processes.leave()
            _groups.clear()


def _join(has_gpus: bool) -> None:
    """Make the process group of PyTorch from what torchrun has set."""
    limit = timedelta(seconds=LIMIT)
    internals: Any = dist.distributed_c10d
    store, rank, size = next(internals.rendezvous("env://", timeout=limit))
    # torchrun's store outlives the processes that it starts again, which would take the words of those before.
    own = internals.PrefixStore(f"operant_gpu/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    backend = "cpu:gloo,cuda:nccl" if has_gpus else "gloo"
    dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=limit)
    if not has_gpus:
        # To destroy NCCL's would wait for graphs that learners have captured.
        atexit.register(dist.destroy_process_group)


def _is_started() -> bool:
    """Tell whether this is one of several processes that were started together, and check what says so."""
    size, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
    if not size.isdecimal() or not rank.isdecimal() or int(rank) >= int(size):
        message = f"expected numbers of processes as torchrun sets them, got WORLD_SIZE={size!r} and RANK={rank!r}"
        raise InvalidConfig("WORLD_SIZE", message)
    return int(size) > 1
