"""Where the metrics of a run go: lines of JSON, events of TensorBoard, Weights & Biases."""

from __future__ import annotations

import io
import json
import math
import os
import re
import secrets
import socket
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from operant_gpu.errors import BackendError, needed
from operant_gpu.monitor.view import Reading

_GROUPS = {
    "rollout": ("episodic_return", "episodic_length", "episodes"),
    "losses": ("policy_loss", "value_loss", "entropy", "explained_variance"),
    "update": ("approx_kl", "clip_frac", "grad_norm", "lr"),
    "time": ("iterations", "seconds", "sps", "env_sps", "learner_sps", "slow_paths"),
    "machine": ("cpu_percent", "ram_gib", "gpu_percent", "gpu_memory_gib", "gpu_temperature", "gpu_watts"),
}
_TAGS = {name: f"{group}/{name}" for group, names in _GROUPS.items() for name in names}
# When a file of events was begun, as its name says.
_STAMP = re.compile(r"events\.out\.tfevents\.(\d+\.\d+)")


class Writer(Protocol):
    """What a `Run` gives its metrics to."""

    def begin(self, folder: Path, settings: Mapping[str, Any], timesteps: int) -> None:
        """Make ready.

        Args:
            folder: The run's directory.
            settings: What the run was made with: the environment, its parameters, PPO's settings.
            timesteps: Those already learned from, for a run that goes on: later records are made anew.
        """

    def write(self, record: Reading) -> None:
        """Keep the metrics of one reading; `timesteps` says of when."""

    def close(self) -> None:
        """Leave everything on disk."""


class _Appender:
    """A file that grows. What a full disk does not take is kept for the next time: nothing is missing between."""

    def __init__(self, path: Path) -> None:
        self._file, self._unwritten = path.open("ab", buffering=0), b""

    def put(self, content: bytes) -> None:
        """Append with what comes next."""
        self._unwritten += content

    def append(self, content: bytes) -> None:
        """Append, at once.

        Raises:
            OSError: If that is not possible now.
        """
        self.put(content)
        while self._unwritten:
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

    def close(self) -> None:
        """Append what is left, and close."""
        with self._file:
            self.append(b"")


class JSONLines:
    """`metrics.jsonl`: one JSON object a reading, on disk at once; numbers that are not finite are null.

    The file only grows. Where a run goes on from a checkpoint, its timesteps go back, and what follows replaces what
    was there of later ones.
    """

    name = "metrics.jsonl"

    def begin(self, folder: Path, settings: Mapping[str, Any], timesteps: int) -> None:
        """Open the file, without half a line that a kill has left."""
        path = folder / self.name
        if path.exists():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        self._file = _Appender(path)

    def write(self, record: Reading) -> None:
        """Append a line."""
        line = {name: value if math.isfinite(value) else None for name, value in record.items()}
        self._file.append(json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Events for TensorBoard, in the run's folder `tensorboard`; each session has a file of its own."""

    def begin(self, folder: Path, settings: Mapping[str, Any], timesteps: int) -> None:
        """Open a new file."""
        # Here, since it takes a moment to import.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._protocol, self._summary, self._frame = event_pb2, summary_pb2.Summary, RecordWriter
        now, events = time.time(), folder / "tensorboard"
        events.mkdir(exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names: this one last, though the clock was set
        # back.
        before = (_STAMP.match(path.name) for path in events.iterdir())
        stamp = max([now, *(float(found[1]) + 1e-3 for found in before if found)])
        name = f"events.out.tfevents.{stamp:017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = _Appender(events / name)
        # With the first record: an error here would leave a file open.
        self._file.put(self._framed(wall_time=now, file_version="brain.Event:2"))
        if timesteps:
            # It then drops what older files have of later steps.
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._file.put(self._framed(wall_time=now, step=timesteps + 1, session_log=start))

    def write(self, record: Reading) -> None:
        """Append all numbers as one event."""
        values = [
            self._summary.Value(tag=tag, simple_value=value)
            for tag, value in _tagged(record).items()
            if math.isfinite(value)
        ]
        step, summary = int(record["timesteps"]), self._summary(value=values)
        self._file.append(self._framed(wall_time=record["time"], step=step, summary=summary))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _framed(self, **event: Any) -> bytes:
        # In memory: half a record on a full disk would end the file for its readers.
        record = io.BytesIO()
        self._frame(record).write(self._protocol.Event(**event).SerializeToString())
        return record.getvalue()


class WeightsAndBiases:
    """A run in Weights & Biases, which a run that is resumed goes on with.

    Args:
        project: Its project there.
        settings: Arguments of `wandb.init`.

    Raises:
        BackendError: If wandb is not installed.
    """

    def __init__(self, project: str, **settings: Any) -> None:
        self._wandb = needed("Weights & Biases", "wandb")
        self._arguments = {"project": project, **settings}

    def begin(self, folder: Path, settings: Mapping[str, Any], timesteps: int) -> None:
        """Begin a run, or go on with the one whose id is in the folder.

        Raises:
            BackendError: If the service refuses.
        """
        # One id for each directory, so that a run stays one there.
        kept = folder / "wandb-id"
        if not kept.exists():
            kept.write_text(secrets.token_hex(4))
        arguments = {"name": folder.name, "dir": str(folder), "config": dict(settings), **self._arguments}
        try:
            self._run = self._wandb.init(id=kept.read_text(), resume="allow", **arguments)
            # Its own steps cannot go back, as those of a run that goes on from an older checkpoint do.
            self._run.define_metric("*", step_metric="timesteps")
        except Exception as error:
            advice = "`wandb login`, or WANDB_MODE=offline to upload later"
            raise BackendError(f"Weights & Biases does not begin a run: {error}; {advice}") from error

    def write(self, record: Reading) -> None:
        """Log all numbers, by timesteps."""
        self._run.log({"timesteps": int(record["timesteps"]), **_tagged(record)})

    def close(self) -> None:
        """Upload what is left."""
        self._run.finish()


def _tagged(record: Reading) -> dict[str, float]:
    """Return the numbers of a reading by group and name: an environment's own metrics have their group already."""
    tags = {name: name if "/" in name else _TAGS.get(name) for name in record}
    return {tag: record[name] for name, tag in tags.items() if tag is not None}


class Patient:
    """A writer whose failures are warnings: training goes on.

    Args:
        writer: What to write to.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer, self._is_failing = writer, False
        self.begin = writer.begin

    def write(self, record: Reading) -> None:
        """Write, and warn of the first failure in a row."""
        self._try(lambda: self._writer.write(record))

    def close(self) -> None:
        """Close, and warn of a failure."""
        self._try(self._writer.close)

    def _try(self, function: Any) -> None:
        try:
            function()
        except Exception as error:
            if not self._is_failing:
                name = type(self._writer).__name__
                warnings.warn(f"{name} cannot write metrics: {error}. Training goes on", RuntimeWarning, stacklevel=4)
            self._is_failing = True
        else:
            self._is_failing = False
