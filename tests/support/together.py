"""Functions that several processes call together, as torchrun would have them do."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import psutil
import torch

from operant_gpu.models import distributed

# One process imports everything; those of tests are forks of it, which takes a tenth of the time.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["operant_gpu.models", "operant_gpu.monitor", "torch.distributed", "numba"])


class Outcome(NamedTuple):
    """How a process has ended.

    Attributes:
        result: What the function returned.
        error: What it raised, as text after the name of its class; nothing if it returned, or was killed.
        status: Exit status; that of a signal is negative.
        seconds: When it had ended, from the start of all on.
    """

    result: Any
    error: str
    status: int
    seconds: float


def together(
    function: Callable[..., Any], *arguments: Any, size: int = 2, limit: float = 60.0, joins: bool = True
) -> list[Outcome]:
    """Let processes call a function within `distributed()`; return how each has ended.

    What has been frozen is killed once all others have ended.

    Args:
        function: Of a module that processes can import.
        arguments: What it gets.
        size: How many processes.
        limit: Seconds until all have to be over.
        joins: Whether they join each other before.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes = [_context.Pipe(duplex=False) for _ in range(size)]
    began, outcomes = time.monotonic(), [Outcome(None, "", 0, 0.0)] * size
    processes = [
        _context.Process(target=_call, args=(rank, size, port, pipe, function, arguments, joins))
        for rank, (_, pipe) in enumerate(pipes)
    ]
    for process, (_, pipe) in zip(processes, pipes, strict=True):
        process.start()
        pipe.close()
    left, sent = dict(enumerate(processes)), dict(enumerate(pipe for pipe, _ in pipes))
    received = [(None, "")] * size
    try:
        while left:
            sentinels = [process.sentinel for process in left.values()]
            wait([*sentinels, *sent.values()], timeout=max(0.0, began + limit - time.monotonic()))
            assert time.monotonic() < began + limit, f"after {limit:g} s {sorted(left)} of {size} go on; {outcomes}"
            for rank, pipe in [*sent.items()]:
                if pipe.poll():
                    received[rank] = _received(pipe)
                    del sent[rank]
            for rank, process in [*left.items()]:
                if process.exitcode is not None and rank not in sent:
                    outcomes[rank] = Outcome(*received[rank], process.exitcode, time.monotonic() - began)
                    del left[rank]
            if all(_is_frozen(process.pid) for process in left.values()):
                for process in left.values():
                    process.kill()
    finally:
        for process in left.values():
            process.kill()
    return outcomes


def results(
    function: Callable[..., Any], *arguments: Any, size: int = 2, limit: float = 120.0, joins: bool = True
) -> list[Any]:
    """Return what a function returns in each process, where all is well."""
    outcomes = together(function, *arguments, size=size, limit=limit, joins=joins)
    assert all(outcome.error == "" and outcome.status == 0 for outcome in outcomes), outcomes
    return [outcome.result for outcome in outcomes]


def _is_frozen(pid: int | None) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


def _received(pipe: Connection) -> tuple[Any, str]:
    try:
        return pickle.loads(pipe.recv_bytes())
    except EOFError:
        # It was killed.
        return None, ""


def _call(
    rank: int,
    size: int,
    port: int,
    pipe: Any,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    joins: bool,
) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    try:
        with distributed() if joins else contextlib.nullcontext():
            sent = function(*arguments), ""
    except (Exception, KeyboardInterrupt) as error:
        sent = None, f"{type(error).__name__}: {error}"
    pipe.send_bytes(pickle.dumps(sent))
