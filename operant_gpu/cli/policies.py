"""`operant-gpu eval`, `record` and `export`: what is done with a trained policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.text import Text

from operant_gpu.cli.common import OfAnEnvironment, busy, load, say, say_json
from operant_gpu.errors import InvalidConfig
from operant_gpu.files import as_path
from operant_gpu.models import Evaluation, evaluate, export, record
from operant_gpu.models.evaluation import STEP_LIMIT
from operant_gpu.models.statistics import bootstrap, interquartile_mean
from operant_gpu.monitor.reader import FILE, each_once, runs_in
from operant_gpu.monitor.table import PlainTable
from operant_gpu.parameters import described
from operant_gpu.processes import present

_Checkpoint = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]


@dataclass
class Eval(OfAnEnvironment):
    """Let policies play whole episodes, with their likeliest actions and with drawn ones, and print how good they are.

    The interval is a 95 % bootstrap interval of the interquartile mean: over the episodes of one policy, or over
    several runs, such as those of several seeds. The environment has the parameters of the training, ranges too; an
    option `--env.NAME VALUE` replaces one of them.
    """

    checkpoints: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="CHECKPOINT")]
    """Directories of runs (for the newest checkpoint) or of several seeds, or checkpoints' files."""
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
        paths = each_once("eval", [run for path in self.checkpoints for run in _policies_in(path)])
        if not paths:
            raise InvalidConfig("eval", "expected directories of runs or checkpoints' files, got none")
        found = [self._play(path) for path in paths]
        if self.json:
            say_json(console, _as_json(found))
            return 0
        other = "".join(f", {name}={text}" for name, text in self.params.items())
        if len(found) == 1:
            _show_one(found[0], other, console)
        else:
            for played in _by_env(found).values():
                _show_several(played, other, console)
        if cut := sum(kind.cut for one in found for kind in one.kinds.values()):
            say(console, f"{cut} episodes without an end were cut after {STEP_LIMIT:,} steps")
        return 0

    def _play(self, path: Path) -> _Played:
        learner = load(path, self.env, self.device)
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
        params = {**learner.env.parameters(self.episodes), **self.params}
        played = described({**params, **learner.env.environment.make_params(params)._asdict()})
        return _Played(path, learner.env.environment.id, played, learner.timesteps, kinds)


@dataclass(frozen=True)
class _Played:
    """The episodes of a policy, with its likeliest actions and with drawn ones."""

    path: Path
    env: str
    params: dict[str, Any]
    timesteps: int
    kinds: dict[str, Evaluation]

    def numbers(self) -> dict[str, Any]:
        """Return all of it in a form fit for JSON."""
        kinds = {name: _numbers(evaluation) for name, evaluation in self.kinds.items()}
        return {"env": self.env, "params": self.params, "timesteps": self.timesteps, **kinds}


def _policies_in(path: Path) -> list[Path]:
    """Return a checkpoint or a run by itself, or the runs in a directory of several."""
    return runs_in(path) if any(as_path("path", path).glob(f"*/{FILE}")) else [path]


def _as_json(found: list[_Played]) -> dict[str, Any]:
    """Return one policy's numbers; of several, those of each, and the interquartile means over them by environment."""
    if len(found) == 1:
        return found[0].numbers()
    names = "iqm", "iqm_interval_95"
    over = {
        env: {kind: dict(zip(names, _over_runs(played, kind), strict=True)) for kind in played[0].kinds}
        for env, played in _by_env(found).items()
    }
    return {"runs": [{"run": str(one.path), **one.numbers()} for one in found], "over_runs": over}


def _by_env(found: list[_Played]) -> dict[str, list[_Played]]:
    return {env: [one for one in found if one.env == env] for env in dict.fromkeys(one.env for one in found)}


def _over_runs(played: list[_Played], kind: str) -> tuple[float, tuple[float, float]]:
    """Return the interquartile mean over policies of their mean returns, and its 95 % interval."""
    means = np.array([one.kinds[kind].mean for one in played])
    low, high = bootstrap([means], interquartile_mean)
    return float(interquartile_mean(means)), (float(low), float(high))


def _show_one(played: _Played, other: str, console: Console) -> None:
    kinds = played.kinds
    episodes = len(kinds["deterministic"].returns)
    title = f"{played.env}{other} after {played.timesteps:,} steps: {episodes:,} episodes each"
    headings = ("actions", "mean return", "deviation", "interquartile mean", "95 % interval", "mean length")
    table = PlainTable(*headings, title=title)
    for name, evaluation in kinds.items():
        low, high = evaluation.interval()
        numbers = (evaluation.mean, evaluation.std, evaluation.iqm)
        interval, length = f"{low:.4g} to {high:.4g}", f"{evaluation.lengths.mean():.4g}"
        table.add_row(name, *(f"{number:.4g}" for number in numbers), interval, length)
    console.print(table)
    if own := list(kinds["stochastic"].metrics):
        table = PlainTable("metric", *kinds)
        for metric in own:
            table.add_row(metric, *(f"{kind.metrics[metric].mean():.4g}" for kind in kinds.values()))
        console.print(table)


def _show_several(played: list[_Played], other: str, console: Console) -> None:
    kinds = list(played[0].kinds)
    episodes = len(played[0].kinds[kinds[0]].returns)
    title = f"{played[0].env}{other}: mean returns of {episodes:,} episodes each"
    table = PlainTable("run", "steps", *kinds, title=title)
    for one in played:
        table.add_row(Text(str(one.path)), f"{one.timesteps:,}", *(f"{one.kinds[kind].mean:.4g}" for kind in kinds))
    console.print(table)
    for kind in kinds:
        value, (low, high) = _over_runs(played, kind)
        interval = f"(95 % interval {low:.4g} to {high:.4g})"
        say(console, f"{kind}: interquartile mean over {len(played)} runs {value:.4g} {interval}")


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
