"""`operant-gpu eval`, `record` and `export`: what is done with a trained policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from operant_gpu.cli.common import OfAnEnvironment, busy, load, plain_table, say, say_json
from operant_gpu.files import as_path
from operant_gpu.models import Evaluation, evaluate, export, record
from operant_gpu.models.evaluation import STEP_LIMIT
from operant_gpu.parameters import described
from operant_gpu.processes import present

_Checkpoint = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]


@dataclass
class Eval(OfAnEnvironment):
    """Let a policy play whole episodes, with its likeliest actions and with drawn ones, and print how good it is.

    The interval is a 95 % bootstrap interval of the interquartile mean. The environment has the parameters of the
    training, ranges too. `--env.NAME VALUE` replaces one of them.
    """

    checkpoint: _Checkpoint
    """A run's directory (for its newest checkpoint) or a checkpoint's file."""
    episodes: int = 100
    """Number of episodes of each kind, each in an environment of its own."""
    seed: int = 1_000_000
    """Seed of the environments and of the draws."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<index>."""
    env: str | None = None
    """FILE.py:NAME of an environment that is not one of the library's."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self, console: Console) -> int:
        """Evaluate; return the exit status."""
        learner = load(self.checkpoint, self.env, self.device)
        kinds = {
            name: evaluate(
                learner,
                self.episodes,
                deterministic=name == "deterministic",
                seed=self.seed,
                params=self.params,
                processes=present(),
            )
            for name in ("deterministic", "stochastic")
        }
        id = learner.env.environment.id
        if self.json:
            rows = {name: _numbers(evaluation) for name, evaluation in kinds.items()}
            params = {**learner.env.parameters(self.episodes), **self.params}
            played = described({**params, **learner.env.environment.make_params(params)._asdict()})
            say_json(console, {"env": id, "params": played, "timesteps": learner.timesteps, **rows})
            return 0
        other = "".join(f", {name}={text}" for name, text in self.params.items())
        title = f"{id}{other} after {learner.timesteps:,} steps: {self.episodes:,} episodes each"
        headings = ("actions", "mean return", "deviation", "interquartile mean", "95 % interval", "mean length")
        table = plain_table(*headings, title=title)
        for name, evaluation in kinds.items():
            low, high = evaluation.interval()
            numbers = (evaluation.mean, evaluation.std, evaluation.iqm)
            interval, length = f"{low:.4g} to {high:.4g}", f"{evaluation.lengths.mean():.4g}"
            table.add_row(name, *(f"{number:.4g}" for number in numbers), interval, length)
        console.print(table)
        if own := list(kinds["stochastic"].metrics):
            table = plain_table("metric", *kinds)
            for metric in own:
                table.add_row(metric, *(f"{kind.metrics[metric].mean():.4g}" for kind in kinds.values()))
            console.print(table)
        if cut := sum(evaluation.cut for evaluation in kinds.values()):
            say(console, f"{cut} episodes without an end were cut after {STEP_LIMIT:,} steps")
        return 0


@dataclass
class Record(OfAnEnvironment):
    """Record a policy as it plays, as a GIF or MP4.

    The environment has the parameters of the training. `--env.NAME VALUE` replaces one of them.
    """

    checkpoint: _Checkpoint
    """A run's directory (for its newest checkpoint) or a checkpoint's file."""
    out: Path
    """File to write, which ends in .gif or .mp4."""
    episodes: int = 1
    """Number of episodes, one after the other."""
    max_steps: int = 1000
    """Greatest number of steps in the video."""
    fps: int = 30
    """Steps per second."""
    stochastic: bool = False
    """Draw actions, instead of taking the likeliest ones."""
    seed: int = 1_000_000
    """Seed of the first episode and of the draws."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<index>."""
    env: str | None = None
    """FILE.py:NAME of an environment that is not one of the library's."""

    def run(self, console: Console) -> int:
        """Record; return the exit status."""
        learner, out = load(self.checkpoint, self.env, self.device), as_path("out", self.out)
        with busy(console, "recording"):
            made = record(
                learner,
                out,
                episodes=self.episodes,
                deterministic=not self.stochastic,
                seed=self.seed,
                max_steps=self.max_steps,
                fps=self.fps,
                params=self.params,
            )
        returns = ", ".join(f"{value:.4g}" for value in made.returns)
        size = out.stat().st_size / 1024
        say(console, f"{out}: {made.steps:,} steps, return {returns}, {size:,.0f} KiB")
        return 0


@dataclass
class Export:
    """Write a policy for other programs, as ONNX (.onnx) or PyTorch's exported program (.pt2), and check the file."""

    checkpoint: _Checkpoint
    """A run's directory (for its newest checkpoint) or a checkpoint's file."""
    out: Path
    """File to write, which ends in .onnx or .pt2."""
    env: str | None = None
    """FILE.py:NAME of an environment that is not one of the library's."""

    def run(self, console: Console) -> int:
        """Export; return the exit status."""
        learner, out = load(self.checkpoint, self.env, "cpu"), as_path("out", self.out)
        with busy(console, "exporting"):
            made = export(learner, out)
        say(
            console,
            f"{out}: {', '.join(made.inputs)} -> {', '.join(made.outputs)}; checked on {made.observations:,} "
            f"observations, greatest difference {made.error:.1g}",
        )
        return 0


def _numbers(evaluation: Evaluation) -> dict[str, Any]:
    metrics = evaluation.metrics
    return {
        "episodes": len(evaluation.returns),
        "mean": evaluation.mean,
        "std": evaluation.std,
        "iqm": evaluation.iqm,
        "iqm_interval_95": evaluation.interval(),
        "mean_length": float(evaluation.lengths.mean()),
        "cut": evaluation.cut,
        **({"metrics": {name: float(own.mean()) for name, own in metrics.items()}} if metrics else {}),
    }
