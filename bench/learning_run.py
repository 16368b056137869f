"""Train one learner on one environment until it is solved: what the other benchmarks of learning list and start.

    python bench/learning_run.py --env CartPole-v1 --seed 3 [--contender sb3] [--cap 180] [--json FILE]

Solved: at least 100 episodes have ended, and the mean return of the last 100 reaches the goal. Seconds are those of
training, from the first step on; imports and construction are not among them.
"""

from __future__ import annotations

import functools
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from machine import command, write
from peers_sb3_settings import SETTINGS

import operant_gpu
from operant_gpu.envs import grid_walk
from operant_gpu.models import PPO, PPOConfig, evaluate
from operant_gpu.models.config import Size
from operant_gpu.registry import find

Contender = Literal["operant_gpu", "fused", "graph", "eager", "jax", "sb3"]
Rules = Literal["minatar", "gymnax"]
# Takes a seed, returns a mean return.
Evaluate = Callable[[int], float]

EPISODES = 100
# Of the best mean return of GridWalk that there is.
GRID_WALK_SHARE = 0.95
PENDULUM_GOAL = -200.0
COLUMNS = ("seconds", "timesteps", "episodes", "mean_return")
# A curve's point follows the one before by this part of the time since the start: as dense as a log axis shows.
SPACING = 0.02
LEAST_SPACING = 0.02
# MinAtar's own rules, and those of gymnax, which has no sticky actions and ends episodes after a thousand steps: of the
# environment, and of the preset. Where nothing is left to chance, a policy sure of itself plays one game only.
RULES: dict[Rules, tuple[dict[str, Any], dict[str, Any]]] = {
    "minatar": ({}, {}),
    "gymnax": ({"sticky_action_prob": 0.0, "max_episode_steps": 1000}, {"ent_coef": 0.03}),
}
# Far from those that train.
OTHER_SEED = 1_000_000
# A process that has not ended so long after its training should have is stuck.
GRACE_SECONDS = 120.0


@dataclass(frozen=True)
class Job:
    """Train one learner on one environment until it is solved."""

    env: str = "CartPole-v1"
    """Environment of operant_gpu."""
    seed: int = 0
    """Seed of the learner and its environments."""
    contender: Contender = "operant_gpu"
    """Whose PPO to train: this library's, with the preset's engine or another, that in JAX, or Stable-Baselines3's."""
    size: Size = "usual"
    """Preset of this library's PPO: the usual one, or that for thousands of environments."""
    rules: Rules = "minatar"
    """Rules of MinAtar's games."""
    device: str = "cpu"
    """Device of operant_gpu; Stable-Baselines3 runs on a CPU."""
    threads: int = 1
    """Threads on a CPU."""
    cap: float = 180.0
    """Seconds of training after which to give up."""
    goal: float | None = None
    """Mean return that counts as solved; the environment's if not given."""
    steps: int | None = None
    """Environment steps after which this library's PPO ends; the preset's if not given, or what the changes say."""
    changes: str = "{}"
    """Other changes to this library's preset, as JSON: {"gamma": 0.95, "lr": [1e-3, 0.0]}."""
    episodes: int = 0
    """Episodes that the policy plays afterwards, in other environments and with its likeliest actions."""
    policy: Path | None = None
    """Where to save this library's policy, if anywhere."""
    json: Path | None = None
    """Where to write what was measured, if anywhere."""


@dataclass
class Run:
    """What one training did.

    Attributes:
        outcome: "solved", "out of time", "out of steps" (the learner's own end), "failed" or "training".
        seconds: Seconds of training, until the goal if it is solved.
        mean_return: Mean over the last 100 episodes, or over all while there are fewer.
        cpu_seconds: Processor time in these seconds; less than they are if other work disturbed the run.
        construction_seconds: Before training, from the construction of environments on.
        process_seconds: From the start of the interpreter to its end.
        curve: Columns seconds, timesteps, episodes and mean_return.
        preset: Settings that are not the default.
        evaluation: Mean return of the episodes played afterwards.
        cut: How many of those were cut after 10,000 steps, because their environment has no limit.
        error: What it failed of.
    """

    contender: str
    env: str
    seed: int
    outcome: str = "training"
    seconds: float = 0.0
    timesteps: int = 0
    episodes: int = 0
    mean_return: float | None = None
    cpu_seconds: float = 0.0
    construction_seconds: float = 0.0
    process_seconds: float = 0.0
    curve: dict[str, list[float]] = field(default_factory=lambda: {column: [] for column in COLUMNS})
    preset: dict[str, Any] = field(default_factory=dict)
    evaluation: float | None = None
    cut: int = 0
    error: str = ""


class Recorder:
    """Keep the curve of a run and tell when it is over."""

    def __init__(self, run: Run, goal: float, cap: float) -> None:
        self.run, self.goal, self.cap = run, goal, cap
        self.least_episodes, self.next_point = EPISODES, 0.0
        self.made = time.perf_counter()

    def start(self) -> None:
        """Start the clock."""
        self.started, self.cpu_started = time.perf_counter(), time.process_time()
        self.run.construction_seconds = self.started - self.made

    def add(self, timesteps: int, episodes: int, mean_return: float) -> bool:
        """Take in how far training is; return whether to go on."""
        run = self.run
        run.seconds = time.perf_counter() - self.started
        run.cpu_seconds = time.process_time() - self.cpu_started
        run.timesteps, run.episodes = timesteps, episodes
        if not math.isnan(mean_return):
            run.mean_return = mean_return
        if run.seconds > self.cap:
            run.outcome = "out of time"
        elif episodes >= self.least_episodes and mean_return >= self.goal:
            run.outcome = "solved"
        if run.outcome != "training" or run.seconds >= self.next_point:
            self._add_point()
        return run.outcome == "training"

    def end(self) -> None:
        """Take in that training is over, by itself if nothing else ended it."""
        if self.run.outcome == "training":
            self.run.outcome = "out of steps"
            self._add_point()

    def _add_point(self) -> None:
        run = self.run
        if run.mean_return is None or run.timesteps in run.curve["timesteps"][-1:]:
            return
        for name, column in run.curve.items():
            column.append(round(getattr(run, name), 4))
        self.next_point = run.seconds * (1 + SPACING) + LEAST_SPACING


def main(job: Job) -> None:
    """Train, write and say how it went."""
    if job.device == "cpu" or job.contender == "sb3" or not torch.cuda.is_available():
        torch.set_num_threads(job.threads)
    run = train(job)
    print(summary_of(run, goal_of(job)))


def in_process(job: Job, **variables: str) -> Run:
    """Train in a process of its own, with these variables; return what it measured, or a run that failed."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "run.json"
        options = [f"--{name}={value}" for name, value in vars(replace(job, json=result)).items() if value is not None]
        # Before torch is imported, so that no larger pool of threads is made at all.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(job.threads))
        timeout = None if math.isinf(job.cap) else job.cap + GRACE_SECONDS
        started = time.perf_counter()
        error = error_of([sys.executable, __file__, *options], {**threads, **variables}, timeout)
        seconds = time.perf_counter() - started
        if not error:
            return Run(**{**json.loads(result.read_text()), "process_seconds": seconds})
    print(f"{job.env} {job.contender} seed {job.seed}: failed, {error}")
    return Run(job.contender, job.env, job.seed, "failed", process_seconds=seconds, error=error)


def in_pool(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, Run]]:
    """Train so many at a time, each with one thread; yield them as they end, first what an earlier pool has written."""
    if processes < 1:
        raise SystemExit(f"--processes: expected at least 1, got {processes}")
    ended = {job: run for job in jobs if (run := stored(job))}
    yield from ended.items()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,))
    waiting = {pool.submit(train, job): job for job in jobs if job not in ended}
    try:
        for done in as_completed(waiting):
            job = waiting[done]
            if error := done.exception():
                yield job, Run(job.contender, job.env, job.seed, "failed", error=f"{type(error).__name__}: {error}")
            else:
                yield job, done.result()
    finally:
        # If the caller stops iterating, what has not begun is dropped.
        pool.shutdown(cancel_futures=True)


def stored(job: Job) -> Run | None:
    """Return what a training has written, if it has and was of the same preset."""
    if job.json is None or not job.json.exists():
        return None
    run = Run(**json.loads(job.json.read_text()))
    return run if json.dumps(run.preset) == json.dumps(preset_of(config_of(job))) else None


def error_of(command: list[str], variables: dict[str, str], timeout: float | None) -> str:
    """Run a command; return the last line of its complaint if it fails, else nothing."""
    try:
        done = subprocess.run(command, env=os.environ | variables, stderr=subprocess.PIPE, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"the process did not end within {timeout:g} s"
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return lines[-1] if done.returncode else ""


def goal_of(job: Job) -> float:
    """Return the mean return at which an environment counts as solved."""
    if job.goal is not None:
        return job.goal
    if job.env == "GridWalk-v0":
        return GRID_WALK_SHARE * grid_walk_optimum(grid_walk.Params().grid_size)
    threshold = find(job.env).reward_threshold
    return PENDULUM_GOAL if threshold is None else threshold


def grid_walk_optimum(size: int) -> float:
    """Return the mean return of the shortest walks, start and goal uniform over all pairs of different cells."""
    cells = [(x, y) for x in range(size) for y in range(size)]
    distances = [abs(x - goal_x) + abs(y - goal_y) for x, y in cells for goal_x, goal_y in cells]
    returns = [1.0 - 0.01 * (distance - 1) for distance in distances if distance]
    return sum(returns) / len(returns)


def train(job: Job) -> Run:
    """Train here, let the policy play and write, if that is asked for."""
    for name in ("steps", "changes"):
        if job.contender in ("jax", "sb3") and getattr(job, name) != getattr(Job, name):
            raise SystemExit(f"--{name}: it changes this library's preset, the contender is {job.contender}")
    run = Run(job.contender, job.env, job.seed)
    recorder = Recorder(run, goal_of(job), job.cap)
    evaluate = {"jax": train_jax, "sb3": train_sb3}.get(job.contender, train_ours)(job, recorder)
    recorder.end()
    if job.episodes:
        run.evaluation = evaluate(job.seed + OTHER_SEED + 1)
    if job.json:
        write(asdict(run), job.json)
    return run


def train_ours(job: Job, recorder: Recorder) -> Evaluate:
    """Train this library's PPO with its preset."""
    config = config_of(job)
    recorder.run.preset = preset_of(config)
    if job.size == "large":
        # Of thousands that begin together, the first hundred are the shortest.
        recorder.least_episodes = config.num_envs
    learner = PPO(operant_gpu.make(job.env, config.num_envs, device=job.device, **given_by(job)), config)
    recorder.start()
    learner.learn(
        callback=lambda now: recorder.add(int(now["timesteps"]), int(now["episodes"]), now["episodic_return"])
    )
    if job.policy:
        job.policy.parent.mkdir(parents=True, exist_ok=True)
        learner.save(job.policy)

    def play(seed: int) -> float:
        played = evaluate(learner, job.episodes, seed=seed)
        recorder.run.cut = played.cut
        return played.mean

    return play


def given_by(job: Job) -> dict[str, Any]:
    """Return the parameters of the environment."""
    given = dict(RULES[job.rules][0])
    if job.env == "MinAtar-Freeway-v1":
        # A game ends by itself after 2,500 steps, and gymnax leaves it at that.
        given.pop("max_episode_steps", None)
    return given


def config_of(job: Job) -> PPOConfig:
    """Return this library's preset with all that a job changes of it."""
    changes = dict(RULES[job.rules][1])
    if job.contender != "operant_gpu":
        changes["engine"] = job.contender
    if job.steps is not None:
        changes["total_timesteps"] = job.steps
    return PPOConfig.for_env(job.env, size=job.size, seed=job.seed, **{**changes, **as_changes(job.changes)})


def as_changes(text: str) -> dict[str, Any]:
    """Return changes to a preset."""
    try:
        changes = json.loads(text)
        if not isinstance(changes, dict) or "seed" in changes:
            raise TypeError
    except (json.JSONDecodeError, TypeError):
        expected = 'JSON such as {"gamma": 0.95}, without the seed'
        raise SystemExit(f"changes to the preset: expected {expected}, got {text!r}") from None
    return changes


def preset_of(config: PPOConfig) -> dict[str, Any]:
    """Return the fields of a configuration that are not the default."""
    default = vars(PPOConfig(seed=config.seed))
    return {name: value for name, value in vars(config).items() if value != default[name]}


def train_jax(job: Job, recorder: Recorder) -> Evaluate:
    """Train the PPO in JAX."""
    program = jax_program(job.env)
    recorder.start()
    progress = program.learn(job.seed, recorder.add, EPISODES)
    return lambda seed: float(program.evaluate(progress.parameters, seed, job.episodes))


@functools.cache
def jax_program(env: str) -> Any:
    """Return the compiled program for an environment's preset."""
    import peers_jax

    return peers_jax.JaxPPO(env, PPOConfig.for_env(env))


def train_sb3(job: Job, recorder: Recorder) -> Evaluate:
    """Train Stable-Baselines3's PPO."""
    # Not everyone who measures this library alone has it.
    import peers_sb3
    from stable_baselines3.common.evaluation import evaluate_policy

    recorder.run.preset = SETTINGS[job.env]
    learner = peers_sb3.make_learner(job.env, job.seed)
    recorder.start()
    peers_sb3.learn(learner, job.env, recorder.add, EPISODES)

    def evaluate(seed: int) -> float:
        learner.env.seed(seed)
        return float(evaluate_policy(learner, learner.env, job.episodes)[0])

    return evaluate


def summary_of(run: Run, goal: float) -> str:
    """Return a run in one line."""
    mean = "no episode ended" if run.mean_return is None else f"mean return {run.mean_return:.4g}"
    result = run.error or f"{mean} (goal {goal:.4g}), {run.timesteps:,} steps, {run.seconds:.1f} s of training"
    return f"{run.env} {run.contender} seed {run.seed}: {run.outcome}, {result}"


if __name__ == "__main__":
    command(main, Job)
