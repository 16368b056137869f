"""`operant-gpu envs`, `bench` and `doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.text import Text

from operant_gpu.cli.benchmark import measure
from operant_gpu.cli.common import (
    FAILED,
    INCOMPLETE,
    OfAnEnvironment,
    busy,
    environment_id,
    say,
    say_json,
    use_one_thread,
)
from operant_gpu.cli.doctor import examine, verdict
from operant_gpu.cli.telling import show_environment
from operant_gpu.errors import InvalidConfig
from operant_gpu.facts import described, facts_of, spaces_of
from operant_gpu.models.presets import LEVELS
from operant_gpu.monitor.dashboard import short
from operant_gpu.monitor.table import PlainTable
from operant_gpu.processes import present
from operant_gpu.registry import find, list_envs
from operant_gpu.verification import verify

_COLORS = {"ok": "green", "missing": "yellow", "optional": "", "broken": "red"}


@dataclass
class Envs:
    """List the environments, or tell what there is to say about one: observations, actions, parameters and more."""

    env: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="ENV")] = None
    """Environment to describe, such as CartPole-v1, or FILE.py:NAME; all in a table if not given."""

    def run(self, console: Console) -> int:
        """Print a table; return the exit status."""
        if self.env is not None:
            show_environment(console, facts_of(find(environment_id(self.env))))
            return 0
        table = PlainTable(
            *("environment", "actions", "observations", "limit", "solved at", "written in"),
            least=("written in", "observations", "actions", "limit"),
        )
        for id in list_envs():
            definition = find(id)
            observation, action = (described(space) or "-" for space in spaces_of(definition))
            limit, goal = definition.max_episode_steps, definition.reward_threshold
            table.add_row(
                id,
                action + (", masked" if definition.has_action_mask else ""),
                observation,
                "" if limit is None else f"{limit:,}",
                "" if goal is None else f"{goal:g}",
                "CUDA C++" if type(definition).__name__ == "CudaEnvironment" else "Triton",
            )
        console.print(table)
        title = "what the usual presets of PPO learn (± half of the 95 % interval)"
        learned = PlainTable(
            *("preset", "mean return", "steps", "seconds, one core", "seeds"),
            title=title,
            least=("seeds", "seconds, one core", "steps"),
        )
        for id, level in LEVELS.items():
            learned.add_row(id, level.said, f"{level.steps:,}", f"{level.seconds:,.0f}", str(level.seeds))
        console.print(learned)
        return 0


@dataclass
class Bench(OfAnEnvironment):
    """Measure how fast an environment and its training are here, beside Gymnasium's vector environment."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")] = "CartPole-v1"
    """Environment, such as CartPole-v1, or FILE.py:NAME."""
    num_envs: int = 65_536 if torch.cuda.is_available() else 4_096
    """Number of environments."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<index>."""
    seconds: float = 0.3
    """Seconds that each of five repeats takes, about."""

    def run(self, console: Console) -> int:
        """Measure, and print a table; return the exit status."""
        use_one_thread(torch.device("cpu"))
        with busy(console, "measuring"):
            env, speeds = measure(environment_id(self.env), self.num_envs, self.device, self.seconds, self.params)
        several = "" if (size := present().size) == 1 else f" in each of {size} processes, whose speeds are summed up"
        spread = "slowest - fastest of five"
        table = PlainTable("", "steps/s", spread, title=f"{env}{several}", least=(spread,))
        peer = next((speed.sps for speed in speeds if speed.name.startswith("Gymnasium")), None)
        if peer is not None:
            table.add_column("times Gymnasium")
        for speed in speeds:
            # Training does more than step.
            is_alike = peer is not None and not speed.name.startswith("training")
            ratio = [f"{speed.sps / peer:.3g}"] if is_alike and peer is not None else []
            table.add_row(speed.name, short(speed.sps), f"{short(speed.low)} - {short(speed.high)}", *ratio)
        console.print(table)
        return 0


@dataclass
class Doctor:
    """Tell what works on this machine, what is missing, and what to install; or verify what the kernels compute."""

    env: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="ENV")] = None
    """With --verify: the environment, such as CartPole-v1, or FILE.py:NAME; one of each kind if not given."""
    verify: bool = False
    """Compare steps, rollouts, gradients and trainings with their references."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self, console: Console) -> int:
        """Look, and print what was found.

        Returns:
            The exit status: 1 if something is broken or wrong; 2 if not everything could be verified.
        """
        if self.verify:
            return self._verify(console)
        if self.env is not None:
            raise InvalidConfig("env", f"doctor looks at the machine; to verify {self.env!r} here, add --verify")
        with busy(console, "looking, and compiling what is tried for the first time"):
            findings = list(examine())
        if self.json:
            say_json(console, [finding._asdict() for finding in findings])
        else:
            table = PlainTable("", "", "found", "what to do")
            for finding in findings:
                state = Text(finding.state, _COLORS[finding.state])
                table.add_row(finding.name, state, finding.text, finding.advice)
            console.print(table)
            console.print(Text(verdict(findings)))
        return FAILED if any(finding.state == "broken" for finding in findings) else 0

    def _verify(self, console: Console) -> int:
        with busy(console, "comparing, and compiling what is compared for the first time"):
            report = verify(None if self.env is None else environment_id(self.env))
        if self.json:
            checks = [check._asdict() for check in report.checks]
            say_json(console, {**vars(report), "checks": checks})
        else:
            say(console, str(report))
        return FAILED if not report.passed else 0 if report.complete else INCOMPLETE
