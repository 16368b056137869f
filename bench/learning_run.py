"""Train one learner on one environment until it is solved: what `bench/learning.py` starts for every seed.

    python bench/learning_run.py --env CartPole-v1 --seed 3 [--contender sb3] [--cap 180] [--json FILE]

Solved: at least 100 episodes have ended, and the mean return of the last 100 reaches the goal. Seconds are those of
training, from the first step on; imports and construction are not among them.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from peers_sb3_settings import SETTINGS

import operant_gpu
from operant_gpu.envs import grid_walk
from operant_gpu.models import PPO, PPOConfig

Contender = Literal["operant_gpu", "sb3"]

EPISODES = 100
# Of the best mean return of GridWalk that there is.
GRID_WALK_SHARE = 0.95
PENDULUM_GOAL = -200.0
# A curve's point follows the one before by this part of the time since the start: as dense as a log axis shows.
SPACING = 0.02
LEAST_SPACING = 0.02


@dataclass(frozen=True)
class Settings:
    """Train one learner on one environment until it is solved."""

    env: str = "CartPole-v1"
    """Environment of operant_gpu."""
    seed: int = 0
    """Seed of the learner and its environments."""
    contender: Contender = "operant_gpu"
    """Whose PPO to train."""
    device: str = "cpu"
    """Device of operant_gpu; Stable-Baselines3 runs on a CPU."""
    cap: float = 180.0
    """Seconds of training after which to give up."""
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
        process_seconds: From the start of the interpreter to its end.
        curve: Columns seconds, timesteps and mean_return.
        preset: Settings that are not the default.
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
    process_seconds: float = 0.0
    curve: dict[str, list[float]] = field(default_factory=lambda: {"seconds": [], "timesteps": [], "mean_return": []})
    preset: dict[str, Any] = field(default_factory=dict)
    error: str = ""


class Recorder:
    """Keep the curve of a run and tell when it is over."""

    def __init__(self, run: Run, goal: float, cap: float) -> None:
        self.run, self.goal, self.cap = run, goal, cap
        self.next_point = 0.0
        self.start()

    def start(self) -> None:
        """Start the clock."""
        self.started, self.cpu_started = time.perf_counter(), time.process_time()

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
        elif episodes >= EPISODES and mean_return >= self.goal:
            run.outcome = "solved"
        if run.mean_return is not None and (run.outcome != "training" or run.seconds >= self.next_point):
            self._add_point(run.mean_return)
        return run.outcome == "training"

    def _add_point(self, mean_return: float) -> None:
        point = {
            "seconds": round(self.run.seconds, 4),
            "timesteps": self.run.timesteps,
            "mean_return": round(mean_return, 4),
        }
        for name, value in point.items():
            self.run.curve[name].append(value)
        self.next_point = self.run.seconds * (1 + SPACING) + LEAST_SPACING


def main(settings: Settings) -> None:
    """Train, write and say how it went."""
    if settings.device == "cpu" or settings.contender == "sb3":
        torch.set_num_threads(1)
    goal = goal_of(settings.env)
    run = Run(settings.contender, settings.env, settings.seed)
    recorder = Recorder(run, goal, settings.cap)
    train = train_sb3 if settings.contender == "sb3" else train_ours
    train(settings, recorder)
    if run.outcome == "training":
        run.outcome = "out of steps"
    if settings.json:
        settings.json.write_text(json.dumps(asdict(run)))
    print(summary_of(run, goal))


def goal_of(env: str) -> float:
    """Return the mean return at which an environment counts as solved."""
    if env == "GridWalk-v0":
        return GRID_WALK_SHARE * grid_walk_optimum(grid_walk.Params().grid_size)
    threshold = operant_gpu.make(env, 1, device="cpu").environment.reward_threshold
    return PENDULUM_GOAL if threshold is None else threshold


def grid_walk_optimum(size: int) -> float:
    """Return the mean return of the shortest walks, start and goal uniform over all pairs of different cells."""
    cells = [(x, y) for x in range(size) for y in range(size)]
    distances = [abs(x - goal_x) + abs(y - goal_y) for x, y in cells for goal_x, goal_y in cells]
    returns = [1.0 - 0.01 * (distance - 1) for distance in distances if distance]
    return sum(returns) / len(returns)


def train_ours(settings: Settings, recorder: Recorder) -> None:
    """Train this library's PPO with its preset."""
    config = PPOConfig.for_env(settings.env, seed=settings.seed)
    recorder.run.preset = preset_of(config)
    env = operant_gpu.make(settings.env, config.num_envs, device=settings.device)
    learner = PPO(env, config)
    recorder.start()
    learner.learn(
        callback=lambda now: recorder.add(int(now["timesteps"]), int(now["episodes"]), now["episodic_return"])
    )


def preset_of(config: PPOConfig) -> dict[str, Any]:
    """Return the fields of a configuration that are not the default."""
    default = PPOConfig(seed=config.seed)
    names = [setting.name for setting in fields(config)]
    return {name: getattr(config, name) for name in names if getattr(config, name) != getattr(default, name)}


def train_sb3(settings: Settings, recorder: Recorder) -> None:
    """Train Stable-Baselines3's PPO."""
    # Not everyone who measures this library alone has it.
    import peers_sb3

    recorder.run.preset = SETTINGS[settings.env]
    learner = peers_sb3.make_learner(settings.env, settings.seed)
    recorder.start()
    peers_sb3.learn(learner, settings.env, recorder.add, EPISODES)


def summary_of(run: Run, goal: float) -> str:
    """Return a run in one line."""
    mean = "no episode ended" if run.mean_return is None else f"mean return {run.mean_return:.4g}"
    result = run.error or f"{mean} (goal {goal:.4g}), {run.timesteps:,} steps, {run.seconds:.1f} s of training"
    return f"{run.env} {run.contender} seed {run.seed}: {run.outcome}, {result}"


if __name__ == "__main__":
    main(tyro.cli(Settings))
