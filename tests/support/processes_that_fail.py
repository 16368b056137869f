"""Trainings of several processes in which something happens to one of them; see tests/test_processes.py."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import operant_gpu
from operant_gpu import ProcessError, processes
from operant_gpu.envs import frozen_lake_map
from operant_gpu.models import PPO, PPOConfig, Processes, distributed
from operant_gpu.monitor import Run
from operant_gpu.processes import watch

SETTINGS = {"num_envs": 8, "n_steps": 16, "batch_size": 64, "total_timesteps": 10**9, "n_epochs": 2}


def train(folder: str, rank: int, what: str, after: int = 4, **settings: Any) -> dict[str, Any]:
    """Train in a run, until in one process something happens after so many iterations; return how it stands."""
    learner = PPO(operant_gpu.make("CartPole-v1", 8, device="cpu"), PPOConfig(**{**SETTINGS, **settings}))

    def callback(metrics: dict[str, float]) -> bool | None:
        run(metrics)
        if metrics["iterations"] == after and learner.processes.rank == rank:
            return HAPPENINGS[what](learner)
        return None

    with Run(learner, folder, writers=[]) as run:
        learner.learn(callback=callback)
    return {"timesteps": learner.timesteps, "signal": run.signal, "state": run.view.state}


def train_a_while(folder: str, rank: int, what: str) -> dict[str, Any]:
    """Train for a number of steps."""
    return train(folder, rank, what, total_timesteps=4096)


def train_with(folder: str, rank: int, what: str, engine: str) -> dict[str, Any]:
    """Train with an engine."""
    return train(folder, rank, what, engine=engine)


def wait_for_one_that_rests(rank: int, limit: float) -> tuple[list[str], str]:
    """Let one process rest for five seconds; return what the log says, and what is raised."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("operant_gpu").addHandler(handler)
    logging.getLogger("operant_gpu").setLevel(logging.INFO)
    group = processes.present()
    watch.PATIENCE, watch.LIMIT = 1.5, limit
    try:
        group.meet(processes.EVALUATION)
        if group.rank == rank:
            time.sleep(5.0)
        group.meet(processes.EVALUATION)
    except ProcessError as error:
        return lines, str(error)
    return lines, ""


def _raise(learner: PPO) -> None:
    raise LookupError("no such thing")


def _break(learner: PPO) -> None:
    """Have the next iteration raise."""

    def refuse(*_: Any) -> None:
        raise MemoryError("nothing is left")

    learner._loop.update.collect = refuse


def _spoil(learner: PPO) -> None:
    """Give an environment a state that is not finite."""
    learner.env.state.x[3] = float("nan")


def _overflow(learner: PPO) -> None:
    """Have the next iteration end in losses that are not finite, from rollouts that are."""
    estimate = learner._loop.update.estimate
    learner._loop.update.estimate = lambda *arguments: estimate(*arguments) * 1e30


def _differ(learner: PPO) -> None:
    """Change a bit of what is learned."""
    with torch.no_grad():
        next(iter(learner.policy.parameters())).view(-1)[0].mul_(1.0 + 2.0**-20)


def _stop(learner: PPO) -> bool:
    return False


def _save_alone(learner: PPO) -> None:
    learner.save(Path("alone.pt"))


HAPPENINGS = {
    "kill": lambda learner: os.kill(os.getpid(), signal.SIGKILL),
    "freeze": lambda learner: os.kill(os.getpid(), signal.SIGSTOP),
    "exit": lambda learner: os._exit(3),
    "terminate": lambda learner: os.kill(os.getpid(), signal.SIGTERM),
    "interrupt": lambda learner: os.kill(os.getpid(), signal.SIGINT),
    "raise": _raise,
    "break": _break,
    "spoil": _spoil,
    "overflow": _overflow,
    "differ": _differ,
    "stop": _stop,
    "rest": lambda learner: time.sleep(5.0),
    "save alone": _save_alone,
}


def train_unlike(rank: int, name: str, value: Any) -> None:
    """Make a learner with a setting that one process has otherwise."""
    own = {name: value} if dist.get_rank() == rank else {}
    PPO(operant_gpu.make("CartPole-v1", 8, device="cpu"), PPOConfig(**{**SETTINGS, **own}))


def train_for(rank: int, steps: int) -> None:
    """Train, in one process for fewer steps."""
    learner = PPO(operant_gpu.make("CartPole-v1", 8, device="cpu"), PPOConfig(**SETTINGS))
    learner.learn(steps if learner.processes.rank == rank else 2 * steps)


def make_with_ids(*first: int) -> int:
    """Make a learner of environments whose ids begin so."""
    env = operant_gpu.make("CartPole-v1", 8, device="cpu", first_env_id=first[dist.get_rank()])
    PPO(env, PPOConfig(**SETTINGS))
    return env.first_env_id


def train_on_maps(*maps: str) -> None:
    """Make a learner whose environments have another map in each process."""
    tables = frozen_lake_map(maps[dist.get_rank()].split())
    PPO(operant_gpu.make("FrozenLake-v1", 8, device="cpu", **tables), PPOConfig(**SETTINGS))


def train_in_a_part() -> int:
    """Train in two of three processes, then in all."""
    own = dist.new_group([0, 1])
    if dist.get_rank() < 2:
        PPO(operant_gpu.make("CartPole-v1", 8, device="cpu"), PPOConfig(**SETTINGS), processes=own).learn(256)
    learner = PPO(operant_gpu.make("CartPole-v1", 8, device="cpu"), PPOConfig(**SETTINGS))
    learner.learn(384)
    return learner.timesteps


def join_twice() -> list[int]:
    """Join the others, leave them, and join them again."""
    steps = []
    for _ in range(2):
        with distributed():
            learner = PPO(operant_gpu.make("CartPole-v1", 8, device="cpu"), PPOConfig(**SETTINGS))
            steps.append(learner.learn(512).timesteps)
    return steps


def leave_early(rank: int) -> None:
    """Train, but in one process, which returns."""
    learner = PPO(operant_gpu.make("CartPole-v1", 8, device="cpu"), PPOConfig(**SETTINGS))
    if learner.processes.rank != rank:
        learner.learn(4096)


def begin_alone(rank: int) -> None:
    """Fail in one process before the others have a learner."""
    if dist.get_rank() == rank:
        raise LookupError("no such thing")
    PPO(operant_gpu.make("CartPole-v1", 8, device="cpu"), PPOConfig(**SETTINGS))


def average_in_rows(numbers: int, size: int) -> tuple[Any, Any]:
    """Average random numbers, and gather them, in messages of any size."""
    group = operant_gpu.models.PPO(operant_gpu.make("CartPole-v1", 8, device="cpu"), PPOConfig(**SETTINGS)).processes
    own = torch.randn(numbers, generator=torch.Generator().manual_seed(group.rank))
    rows = group.gather(own)
    first, rest = own.clone().split([numbers // 3, numbers - numbers // 3])
    group.average(first, rest)
    return torch.cat([first, rest]), rows


def alone_within() -> tuple[int, int]:
    """Make a learner of this process alone."""
    learner = PPO(operant_gpu.make("CartPole-v1", 8, device="cpu"), PPOConfig(**SETTINGS), processes=Processes())
    learner.learn(256)
    return learner.processes.size, learner.timesteps
