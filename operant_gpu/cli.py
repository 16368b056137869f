"""The command line: `operant-gpu train CartPole-v1`, `operant-gpu play MinAtar-Breakout-v1`."""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro
from gymnasium.vector import AutoresetMode
from rich.console import Console

from operant_gpu.errors import InvalidConfig, OperantError, TrainingError
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.models.checkpoint import check_writable
from operant_gpu.models.presets import PRESETS
from operant_gpu.models.telemetry import Metrics
from operant_gpu.play import play
from operant_gpu.progress import TrainingDisplay
from operant_gpu.registry import make
from operant_gpu.vector import VecEnv

_FAILED = 1
_USER_ERROR = 2
_INTERRUPTED = 130


@dataclass
class Train:
    """Train a policy with PPO until the environment counts as solved, and save it."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """Environment, such as CartPole-v1; its tuned settings are the defaults below."""
    config: Path | None = None
    """TOML file of settings, which replace tuned ones; options on the command line replace both."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<index>."""
    out: Path | None = None
    """Where to save the policy; runs/<env>.pt if not given."""
    ppo: tyro.conf.OmitArgPrefixes[PPOConfig] = field(default_factory=PPOConfig)

    def run(self, console: Console) -> int:
        """Train, report and save, also what was learned until an interruption; return the exit status."""
        env = make(self.env, self.ppo.num_envs, device=self.device)
        if env.device.type == "cpu":
            # Networks this small gain nothing from threads, and threads that wait for each other spin: on a machine
            # with other work that made training ten times slower.
            torch.set_num_threads(1)
        learner = PPO(env, self.ppo)
        out = self.out or Path("runs") / f"{self.env}.pt"
        check_writable("out", out)
        console.print(
            f"{self.env}: {self.ppo.num_envs} environments, {env.backend} backend on {env.device}; "
            f"engine: {learner.engine_reason}",
            highlight=False,
            soft_wrap=True,
        )
        started, status, reached = time.perf_counter(), 0, Metrics()
        try:
            self._train(learner, env, console, reached)
        except KeyboardInterrupt:
            status = _INTERRUPTED
        except TrainingError as error:
            # The policy is the last good one.
            Console(stderr=True).print(f"operant-gpu: {error}", markup=False, highlight=False, soft_wrap=True)
            status = _FAILED
        seconds = time.perf_counter() - started
        learner.save(out)
        report = _report(env, reached, seconds)
        console.print(report, f"Policy saved to {out}", sep="\n", soft_wrap=True, highlight=False)
        return status

    def _train(self, learner: PPO, env: VecEnv, console: Console, reached: Metrics) -> None:
        goal = env.environment.reward_threshold
        with TrainingDisplay(console, env.environment.id, self.ppo.total_timesteps, goal) as display:

            def after_iteration(metrics: Metrics) -> bool:
                reached.update(metrics)
                display.update(metrics)
                return not _solved(metrics, goal)

            learner.learn(callback=after_iteration)


@dataclass
class Play:
    """Play an environment in the terminal, with the arrow keys and the space bar."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """Environment, such as MinAtar-Breakout-v1."""
    fps: float = 8.0
    """Steps a second; environments without an action that does nothing wait for a key instead."""
    seed: int | None = None
    """Seed of the first episode; a random one if not given."""

    def run(self, console: Console) -> int:
        """Play until the user quits; return the exit status."""
        if not 0.1 <= self.fps <= 100:
            raise InvalidConfig("fps", f"expected 0.1 to 100 steps a second, got {self.fps}")
        env = make(self.env, device="cpu", render_mode="rgb_array", autoreset_mode=AutoresetMode.DISABLED)
        game = play(env, self.fps, self.seed, console)
        console.print(f"{self.env}: score {game.score:g} in {game.steps} steps", highlight=False)
        return 0


def _solved(metrics: Metrics, goal: float | None) -> bool:
    """Tell whether the last 100 episodes reach the goal; the first few to end are the shortest, and prove nothing."""
    return goal is not None and metrics["episodes"] >= 100 and metrics["episodic_return"] >= goal


def _report(env: VecEnv, reached: Metrics, seconds: float) -> str:
    goal, name = env.environment.reward_threshold, env.environment.id
    if not reached:
        return f"Stopped {name} before the first iteration was over"
    verdict = f"Solved {name}" if _solved(reached, goal) else f"Trained {name}"
    count = min(100, int(reached["episodes"]))
    score = (
        f"mean return {reached['episodic_return']:.4g} over the last {count} episodes"
        if count
        else "no episode finished"
    )
    target = "" if goal is None else f" (goal {goal:g})"
    return f"{verdict}: {score}{target}, {reached['timesteps']:,} steps in {seconds:.1f} s"


def _recommended(arguments: Sequence[str]) -> PPOConfig:
    """Return what the options are to differ from: the environment's tuned settings, and those of a settings file."""
    env = next((argument for argument in arguments if argument in PRESETS), None)
    settings = PPOConfig() if env is None else PPOConfig.for_env(env)
    reader = argparse.ArgumentParser("operant-gpu train", add_help=False, allow_abbrev=False)
    reader.add_argument("--config")
    file = reader.parse_known_args(arguments)[0].config
    return settings if file is None else PPOConfig.from_toml(file, settings)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0, or 1 if training failed, 2 for a user's mistake, 130 when interrupted.
    """
    console = Console()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        train = functools.partial(Train, ppo=_recommended(arguments))
        commands: dict[str, Callable[..., Train | Play]] = {"train": train, "play": Play}
        command: Train | Play = tyro.extras.subcommand_cli_from_dict(commands, prog="operant-gpu", args=arguments)
        return command.run(console)
    except OperantError as error:
        Console(stderr=True).print(f"operant-gpu: {error}", markup=False, highlight=False, soft_wrap=True)
        return _USER_ERROR
    except KeyboardInterrupt:
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
