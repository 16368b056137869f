"""Train in processes that are killed at random moments, each going on where the last one was; print what was lost.

Usage, in this folder: python -m killed FOLDER KILLS
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import torch

import operant_gpu
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.monitor import Run, RunReader

ITERATION, TOTAL = 128, 1_000_000
CONFIG = PPOConfig(n_steps=8, batch_size=32, n_epochs=1, hidden_sizes=(8,), checkpoint_interval=1)


def learner_of(folder: Path) -> PPO:
    if (folder / "checkpoints").exists():
        return PPO.load(folder, device="cpu")
    return PPO(operant_gpu.make("CartPole-v1", 16, device="cpu"), CONFIG)


def train(folder: Path, last: int = TOTAL) -> PPO:
    """Train, or go on, until so many timesteps."""
    learner = learner_of(folder)
    with Run(learner, folder) as run:

        def callback(metrics: dict[str, float]) -> bool:
            return run(metrics) and metrics["timesteps"] < last

        learner.resume(callback=callback) if learner.target else learner.learn(TOTAL, callback)
    return learner


def wait_for_change(folder: Path) -> None:
    """Wait until another checkpoint is there."""

    def newest() -> str:
        return max((path.name for path in folder.glob("step-*.pt")), default="")

    before, until = newest(), time.monotonic() + 30
    while newest() == before and time.monotonic() < until:
        time.sleep(0.001)


def digest(learner: PPO) -> str:
    flat = torch.nn.utils.parameters_to_vector(learner.policy.parameters()).detach()
    state = torch.cat([column.double().flatten() for column in learner.env.state])
    return hashlib.sha256(flat.numpy().tobytes() + state.numpy().tobytes()).hexdigest()


def main(folder: Path, kills: int) -> None:
    torch.set_num_threads(1)
    # What is read lazily is read once, here.
    train(folder / "warm", ITERATION)
    run, rng, lost, damaged, halves = folder / "run", random.Random(5), [], [], 0
    for _ in range(kills):
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                train(run)
            os._exit(1)
        # Most in the middle of training, however busy the machine is; some while they begin.
        if rng.random() < 0.75:
            wait_for_change(run / "checkpoints")
        time.sleep(rng.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if not (run / "checkpoints").exists() or not any((run / "checkpoints").iterdir()):
            continue
        halves += len(list((run / "checkpoints").glob(".*.partial")))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            saved = PPO.load(run, device="cpu").timesteps
        damaged += [str(warning.message) for warning in caught]
        seen = RunReader(run).refresh() if (run / "run.json").exists() else None
        lost.append(max(0, int(seen.latest["timesteps"]) - saved) // ITERATION if seen and seen.latest else 0)
        state = seen.state if seen else "killed"
        assert state == "killed", state
    reached = PPO.load(run, device="cpu").timesteps + ITERATION
    resumed = digest(train(run, reached))
    whole = PPO(operant_gpu.make("CartPole-v1", 16, device="cpu"), CONFIG)
    whole.learn(TOTAL, callback=lambda metrics: metrics["timesteps"] < reached)
    partials = [path.name for path in run.rglob(".*.partial")]
    report = {"lost": lost, "damaged": damaged, "halves": halves, "partials": partials, "reached": reached}
    print(json.dumps({**report, "same": resumed == digest(whole)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
