"""The command line: `operant-gpu train CartPole-v1`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.console import Console

from operant_gpu.errors import OperantError
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.models.ppo import Metrics
from operant_gpu.progress import TrainingDisplay
from operant_gpu.registry import make
from operant_gpu.vector import VecEnv

_USER_ERROR = 2
_INTERRUPTED = 130


@dataclass
class Train:
    """Train a policy with PPO until the environment counts as solved, and save it."""

    env: tyro.conf.Positional[str]
    """Environment, such as CartPole-v1."""
    num_envs: int = 128
    """How many environments to step together."""
    total_timesteps: int = 500_000
    """Environment steps after which training stops, solved or not."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<index>."""
    out: Path | None = None
    """Where to save the policy; runs/<env>.pt if not given."""
    ppo: tyro.conf.OmitArgPrefixes[PPOConfig] = field(default_factory=PPOConfig)

    def run(self, console: Console) -> None:
        """Train, report and save."""
        env = make(self.env, self.num_envs, device=self.device)
        learner = PPO(env, self.ppo)
        out = self.out or Path("runs") / f"{self.env}.pt"
        started = time.perf_counter()
        reached = self._train(learner, env, console)
        seconds = time.perf_counter() - started
        learner.save(out)
        console.print(_report(env, reached, seconds), f"Policy saved to {out}", sep="\n", soft_wrap=True)

    def _train(self, learner: PPO, env: VecEnv, console: Console) -> Metrics:
        latest: Metrics = {}
        goal = env.environment.reward_threshold
        with TrainingDisplay(console, env.environment.id, self.total_timesteps, goal) as display:

            def after_iteration(metrics: Metrics) -> bool:
                latest.update(metrics)
                display.update(metrics)
                return goal is None or not metrics["mean_reward"] >= goal

            learner.learn(self.total_timesteps, after_iteration)
        return latest


def _report(env: VecEnv, reached: Metrics, seconds: float) -> str:
    goal = env.environment.reward_threshold
    solved = goal is not None and reached["mean_reward"] >= goal
    verdict = f"Solved {env.environment.id}" if solved else f"Trained {env.environment.id}"
    score = f"mean return {reached['mean_reward']:.1f} over the last 100 episodes"
    target = "" if goal is None else f" (goal {goal:g})"
    return f"{verdict}: {score}{target}, {reached['timesteps']:,} steps in {seconds:.1f} s"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, or 2 for a user's mistake, or 130 when interrupted."""
    console = Console()
    command: Train = tyro.extras.subcommand_cli_from_dict({"train": Train}, prog="operant-gpu", args=arguments)
    try:
        command.run(console)
    except OperantError as error:
        Console(stderr=True).print(f"operant-gpu: {error}", markup=False, highlight=False, soft_wrap=True)
        return _USER_ERROR
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
