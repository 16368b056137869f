"""Runs made by hand, file by file, for tests of what reads them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from records import RECORD

from operant_gpu.machine import process_since
from operant_gpu.models import PPOConfig


def make_run(
    folder: Path,
    curve: Sequence[tuple[float, float]],
    *,
    env: str = "CartPole-v1",
    goal: float | None = None,
    state: str = "finished",
    machine: str = "a CPU",
    params: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """Write a run with one reading for each pair of timesteps and mean return; seconds are timesteps / 100."""
    folder.mkdir(parents=True)
    pid = os.getpid()
    session = {"host": socket.gethostname(), "pid": pid, "pid_since": process_since(pid), "machine": machine}
    description = {
        "format": 1,
        "env": env,
        "params": params or {},
        "details": "",
        "goal": goal,
        "start": 0,
        "target": 10_000,
        "state": state,
        "message": "",
        "sessions": [session],
    }
    (folder / "run.json").write_text(json.dumps(description))
    PPOConfig(num_envs=8, **settings).to_toml(folder / "config.toml")
    with (folder / "metrics.jsonl").open("w") as file:
        for steps, value in curve:
            reading = {"timesteps": steps, "episodic_return": value, "episodes": steps, "seconds": steps / 100}
            file.write(json.dumps({**RECORD, **reading}) + "\n")
    return folder
