"""Train other libraries' trainers through the adapters, and with the same settings on Gymnasium's environments.

    python bench/adapters.py [--only sb3-ppo ...] [--seeds 1] [--cap 120]
    python bench/adapters.py --render-only

Each training has a fresh interpreter, one thread and the machine for itself. Solved: the policy's likeliest actions
have a mean return that reaches the goal over 20 new episodes of this library's environment, for either side. Seconds
are those of training, without imports, construction and evaluations. Writes bench/results/adapters.json and the page
docs/migration/results.md.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from machine import RESULTS, describe, write
from page import header, table

import operant_gpu

GOALS = {"CartPole-v1": 475.0, "Pendulum-v1": -200.0}
EPISODES = 20
# Far from those that train.
OTHER_SEED = 1_000_000
NAME = "adapters"
PAGE = Path(__file__).parents[1] / "docs" / "migration" / "results.md"
ABOUT = """\
This page is for users of another trainer who ask what its [adapter](../migration.md) changes. Each trainer learns twice
with the same settings: on this library's environments through the adapter, and on Gymnasium's environments.

- **Solved** means that the policy's likeliest actions have a mean return of 475 (CartPole-v1) or -200 (Pendulum-v1)
  over 20 new episodes. The policy is judged every 500 to 4,000 steps. The training ends when it has solved the
  environment.
- **Seconds** are those of the training alone. Seconds and steps are partly luck: on CartPole a policy may go from 20 to
  500 between two judgements.
- **Microseconds a step** are processor time, of the trainer and of the environments. Luck hardly changes them.

Each cell shows this library's environments / Gymnasium's. Seconds and steps are medians over the seeds, and
microseconds are the mean over all steps of all seeds. The trainers step Gymnasium's environments one after the other in
one process. The exception is skrl on CartPole-v1, where Gymnasium steps all of them at once with NumPy."""
OURS, GYMNASIUM = "ours", "gymnasium"
PACKAGES = ("torch", "numpy", "gymnasium", "stable-baselines3", "skrl", "torchrl", "rsl-rl-lib", "rl-games")


@dataclass(frozen=True)
class Settings:
    """Train other libraries' trainers through the adapters, and on Gymnasium's environments."""

    only: tuple[str, ...] = ()
    """Trainers; all if none are given."""
    envs: tuple[str, ...] = tuple(GOALS)
    """Environments."""
    seeds: int = 1
    """Seeds of each training."""
    cap: float = 120.0
    """Seconds of training after which it counts as not solved."""
    json: Path | None = None
    """Raw data; bench/results/adapters.json if not given."""
    render_only: bool = False
    """Write the table from the raw data without training."""


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        trainer: Key of `adapters_trainers.TRAINERS`.
        side: Whose environments.
    """

    trainer: str
    env: str
    side: str
    seed: int
    cap: float


class Watch:
    """The clock of one training, which stands still while the policy is evaluated, and its end.

    Args:
        env: Id of the environment.
        every: Steps from one evaluation to the next.
        cap: Seconds after which training is over.

    Attributes:
        seconds: Of training.
        cpu_seconds: Processor time in these seconds; less than they are if other work disturbed the training.
        steps: Of environments.
        returns: Mean returns of the evaluations.
        solved: Whether the last of them reached the goal.
    """

    def __init__(self, env: str, every: int, cap: float) -> None:
        self.env, self.every, self.cap = env, every, cap
        self.seconds, self.cpu_seconds, self.steps, self.solved = 0.0, 0.0, 0, False
        self.returns: list[float] = []
        self._next = every

    def start(self) -> None:
        """Start the clock."""
        self._since, self._cpu_since = time.perf_counter(), time.process_time()

    def __call__(self, steps: int, act: Callable[[torch.Tensor], Any]) -> bool:
        """Return whether to go on after so many steps."""
        if steps < self._next:
            return True
        self.seconds += time.perf_counter() - self._since
        self.cpu_seconds += time.process_time() - self._cpu_since
        self.steps = steps
        self._next = steps + self.every
        self.returns.append(evaluate(self.env, act, OTHER_SEED + len(self.returns)))
        self.solved = self.returns[-1] >= GOALS[self.env]
        self._since, self._cpu_since = time.perf_counter(), time.process_time()
        return not self.solved and self.seconds < self.cap


@torch.no_grad()
def evaluate(env: str, act: Callable[[torch.Tensor], Any], seed: int) -> float:
    """Return the mean return of new episodes, one in each environment."""
    envs = operant_gpu.make(env, EPISODES, device="cpu")
    obs, _ = envs.reset(seed=seed)
    running, total = torch.ones(EPISODES, dtype=torch.bool), torch.zeros(EPISODES)
    while running.any():
        obs, reward, terminated, truncated, _ = envs.step(torch.as_tensor(act(obs)))
        total += reward * running
        running &= ~(terminated | truncated)
    return float(total.mean())


def train(job: Job) -> dict[str, Any]:
    """Train, in a process of its own."""
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    warnings.simplefilter("ignore")
    # Some trainers print a page for each iteration.
    with contextlib.redirect_stdout(io.StringIO()):
        from adapters_trainers import TRAINERS

        trainer = TRAINERS[job.trainer]
        watch = Watch(job.env, trainer.every[job.env], job.cap)
        trainer.train(job.env, job.side == OURS, job.seed, watch)
    return {
        "title": trainer.title,
        **asdict(job),
        "solved": watch.solved,
        "seconds": watch.seconds,
        "cpu_seconds": watch.cpu_seconds,
        "steps": watch.steps,
        "returns": [round(one, 1) for one in watch.returns],
    }


def main(settings: Settings) -> None:
    """Train, write the raw data after each training, and write the table."""
    path = settings.json or RESULTS / f"{NAME}.json"
    report = json.loads(path.read_text()) if settings.render_only else {**describe(PACKAGES), "runs": []}
    if not settings.render_only:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for run in pool.imap(train, jobs_of(settings)):
                report["runs"].append(run)
                write(report, path, NAME)
                print(
                    f"{run['trainer']} {run['env']} {run['side']} seed {run['seed']}: solved {run['solved']}, "
                    f"{run['seconds']:.1f} s, {run['steps']:,} steps, {run['returns'][-5:]}",
                    flush=True,
                )
    PAGE.write_text(page_of(report))
    print(f"written to {path} and {PAGE}")


def jobs_of(settings: Settings) -> list[Job]:
    """Return what is to be trained, the two sides in turn."""
    from adapters_trainers import TRAINERS

    return [
        Job(name, env, side, seed, settings.cap)
        for seed in range(settings.seeds)
        for name in settings.only or TRAINERS
        for env in TRAINERS[name].every
        if env in settings.envs
        for side in (OURS, GYMNASIUM)
    ]


def page_of(report: dict[str, Any]) -> str:
    """Return the page with the table."""
    rows: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for run in report["runs"]:
        rows.setdefault((run["title"], run["env"]), {OURS: [], GYMNASIUM: []})[run["side"]].append(run)
    cells = [
        (title, env, *(f"{own} / {peer}" for own, peer in zip(*map(cells_of, sides.values()), strict=True)))
        for (title, env), sides in rows.items()
        if all(sides.values())
    ]
    names = ("solved", "seconds", "steps", "microseconds a step")
    title, machine = header("Trainers side by side", report).split("\n\n", 1)
    results = table(("trainer", "environment", *names), cells, left=2)
    texts = ("---\nhide: [toc]\n---", title, ABOUT, results, f"Measured with {machine}")
    return "\n\n".join(texts) + "\n"


def cells_of(runs: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return in how many trainings a side solved an environment, in which time and steps, and what a step took."""
    seconds, steps = (statistics.median(run[name] for run in runs) for name in ("seconds", "steps"))
    # Neither other work on the machine nor luck in learning changes it much.
    step = sum(run["cpu_seconds"] for run in runs) / sum(run["steps"] for run in runs)
    return (
        f"{sum(run['solved'] for run in runs)} of {len(runs)}",
        f"{seconds:.1f}",
        f"{steps:,.0f}",
        f"{step * 1e6:.0f}",
    )


if __name__ == "__main__":
    main(tyro.cli(Settings))
