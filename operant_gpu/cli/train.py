"""`operant-gpu train`."""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console

from operant_gpu.backends.select import spelled
from operant_gpu.cli.common import (
    FAILED,
    INTERRUPTED,
    AnySize,
    AsGiven,
    OfAnEnvironment,
    Terminated,
    busy,
    complain,
    environment_id,
    preset_size,
    say,
    use_one_thread,
)
from operant_gpu.cli.options import whole_number
from operant_gpu.cli.seeds import PLAN, begun, resumed, train_all, usable_cores
from operant_gpu.cli.settings import Settings
from operant_gpu.errors import (
    CheckpointError,
    InvalidConfig,
    OperantError,
    ProcessError,
    TrainingError,
    called_here,
    difference,
    whole,
)
from operant_gpu.files import as_path
from operant_gpu.models import PPO, PPOConfig, record
from operant_gpu.models.config import GONE, unknown_setting
from operant_gpu.models.ppo import checkpoint
from operant_gpu.models.ppo.checkpoint import FOLDER, has_newer
from operant_gpu.models.presets import BY_SIZE, PRESETS
from operant_gpu.monitor.reader import read_description
from operant_gpu.monitor.run import FAULTS, Run, free_folder
from operant_gpu.monitor.writers import TensorBoard, WeightsAndBiases, Writer
from operant_gpu.processes import present
from operant_gpu.registry import find, list_envs, make

# What a run keeps, whatever it goes on with.
_FIXED = ("num_envs", "seed")
_VIDEO_STEPS = 500
_MOST_SEEDS = 10_000
# The policy as it was before a number that is not finite.
_BEFORE_FAULT = "before-fault.pt"


@dataclass
class Train(OfAnEnvironment, AsGiven):
    """Train a policy with PPO until the environment counts as solved, in a directory that keeps everything.

    After Ctrl-C or SIGTERM the current iteration finishes and is saved. `--resume RUN` goes on from there.

    The option `--env.NAME VALUE` sets a parameter of the environment: a number, or a range from which each episode
    draws (5..15, log:0.1..10, normal:10,2 or 0.4,0.5,0.6). `train ENV --help` ends with a list of the parameters.
    """

    env: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="ENV")] = None
    """Environment, such as CartPole-v1, or FILE.py:NAME; before all options."""
    resume: Path | None = None
    """Directory of a run, or of several seeds, to go on with, with their settings."""
    seeds: int | None = None
    """Number of seeds to train, from --seed on, each in a process of its own. --run is then the directory of all."""
    run_dir: Annotated[Path | None, tyro.conf.arg(name="run", aliases=("--run-dir",))] = None
    """Directory of the run; the next free one, such as runs/CartPole-v1-1, if not given. torchrun needs --run-dir."""
    size: AnySize = "auto"
    """Tuned settings of ENV: usual, or large for thousands of environments. auto takes large on a GPU."""
    config: Path | None = None
    """TOML file of settings, which replace the tuned ones. Options replace both."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<index>."""
    goal: float | None = None
    """Mean return of 100 episodes at which training ends; the environment's goal if not given, inf for none."""
    video: bool = True
    """Record an episode at the end, if the environment can draw itself."""
    wandb: str | None = None
    """Project of Weights & Biases, to which metrics are also logged."""
    verbose: Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(aliases=("-v",))] = False
    """Say which engine trains and why, and what runs slower than it could."""
    ppo: Annotated[tyro.conf.OmitArgPrefixes[Settings], tyro.conf.arg(name="")] = field(default_factory=Settings)

    def run(self, console: Console) -> int:
        """Train, report and save, also what was learned until an interruption; return the exit status."""
        if self.seeds is not None or (self.resume is not None and _are_several(self.resume)):
            return self._several(console)
        config = self._checked()
        if self.verbose and not present().rank:
            logging.getLogger("operant_gpu").setLevel(logging.DEBUG)
        others = [] if self.wandb is None else [WeightsAndBiases(self.wandb)]
        writers: list[Writer] = [TensorBoard(), *others]
        settings = None
        if self.resume is None:
            if (env := self.env or "") in PRESETS:
                size, reason = preset_size(env, self.device, self.size, config.num_envs)
                file = "" if self.config is None else f", and {self.config} over it"
                settings = f"Settings: the {size} preset{file}; {reason}"
                config = config.begun(BY_SIZE[size][env])
            learner, goal, folder = self._new(config)
        else:
            learner, goal, folder = self._resumed(as_path("resume", self.resume), config)
            if done := _already_done(folder, learner, goal, self.goal is not None):
                say(console, done)
                return 0
        if settings is not None:
            say(console, settings)
        run = Run(learner, folder, goal=goal, writers=writers)
        status = self._train(run, console)
        self._record(run, console, status)
        say(console, *_account(run, self.env))
        return status

    def _checked(self) -> PPOConfig:
        """Return the settings, if they and the goal make sense."""
        config = PPOConfig(**{setting.name: getattr(self.ppo, setting.name) for setting in fields(PPOConfig)})
        if config.checkpoint_dir is not None:
            raise InvalidConfig("checkpoint_dir", "a run keeps its checkpoints itself: leave it out, and give --run")
        if self.goal is not None and not self.goal > -math.inf:
            raise InvalidConfig("goal", f"expected a number, or inf for no goal, got {self.goal}")
        return config

    def _several(self, console: Console) -> int:
        """Train with several seeds; return the exit status."""
        if present().size > 1:
            raise InvalidConfig(
                "seeds", "torchrun's processes train in one run together: leave --seeds out, or torchrun"
            )
        if self.resume is not None:
            if self.seeds is not None or self.run_dir is not None:
                name = "seeds" if self.seeds is not None else "run"
                raise InvalidConfig(name, f"runs go on with their seeds, in their directories: leave --{name} out")
            trainings = resumed(self.given, as_path("resume", self.resume), self.env)
        else:
            count = whole("seeds", self.seeds, 1, _MOST_SEEDS)
            # Of the last one too.
            whole("seed", self.ppo.seed, 0, 2**63 - count)
            if self.env is None:
                raise InvalidConfig("env", "expected an environment, such as CartPole-v1, before --seeds, got none")
            self._checked()
            id = environment_id(self.env)
            folder = free_folder(id) if self.run_dir is None else as_path("run", self.run_dir)
            trainings = begun(self.given, folder, range(self.ppo.seed, self.ppo.seed + count))
        # Trainings that share a GPU only wait for each other.
        on_gpu = torch.cuda.is_available() if spelled(self.device) == "auto" else spelled(self.device) != "cpu"
        at_once = 1 if on_gpu else min(usable_cores(), len(trainings))
        several = f", {at_once} at once" if at_once > 1 else ", one after the other"
        say(console, f"{len(trainings)} seeds in {trainings[0].folder.parent}{several}")
        return train_all(trainings, at_once, console)

    def _new(self, config: PPOConfig) -> tuple[PPO, float | None, Path]:
        """Return a new learner, the goal of its training, and the run's directory."""
        if self.env is None:
            raise InvalidConfig("env", "expected an environment, such as CartPole-v1, or --resume RUN, got neither")
        id = environment_id(self.env)
        if self.size != "auto" and self.env not in PRESETS:
            raise InvalidConfig("size", f"{self.env} has no presets: leave --size out")
        debug = False if config.on_fault is None else "faults"
        env = make(id, config.num_envs, device=self.device, params=self.params, debug=debug)
        use_one_thread(env.device)
        goal = env.environment.reward_threshold if self.goal is None else self.goal
        learner = PPO(env, config)
        return learner, _finite(goal), self.run_dir or learner.processes.first(lambda: free_folder(id))

    def _resumed(self, folder: Path, config: PPOConfig) -> tuple[PPO, float | None, Path]:
        """Return the learner of a run, the goal of its training, and the run's directory."""
        if self.run_dir is not None:
            raise InvalidConfig("run", "a run that is resumed stays in its directory: leave --run out")
        if self.size != "auto":
            raise InvalidConfig("size", "a run goes on with its own settings: leave --size out")
        if self.params:
            name = next(iter(self.params))
            raise InvalidConfig(f"--env.{name}", "a run goes on with the parameters that it began with: leave it out")
        description, saved = _description_of(folder), _settings_of(folder)
        if self.env is not None and environment_id(self.env) != description["env"]:
            raise InvalidConfig(
                "env", f"{str(folder)!r} is a run of {description['env']}, got {self.env}: leave ENV out"
            )
        for name in _FIXED:
            if getattr(config, name) != getattr(saved, name):
                raise InvalidConfig(name, f"a run goes on with the {getattr(saved, name)} that it began with")
        # Unless they are others, the checkpoint's: it knows what fits on another device.
        learner = PPO.load(folder, config=None if config == saved else config, device=self.device)
        use_one_thread(learner.env.device)
        if config.total_timesteps != saved.total_timesteps:
            learner.target = learner.start + config.total_timesteps
        return learner, _finite(description["goal"] if self.goal is None else self.goal), folder

    def _train(self, run: Run, console: Console) -> int:
        """Train, and return the exit status."""
        learner, env = run.learner, run.learner.env
        try:
            with run:
                begun = f", going on from {learner.timesteps:,} steps" if self.resume is not None else ""
                several = "" if learner.processes.size == 1 else f"{learner.processes.size} processes of "
                machine = f"{several}{env.num_envs:,} environments on {env.device} ({env.backend})"
                say(console, f"{env.environment.id} in {run.folder}: {machine}{begun}")
                steps, first = learner.timesteps, learner.processes.first
                if self.resume is not None and first(lambda: has_newer(run.folder / FOLDER, steps)):
                    # Between reading it and locking the run.
                    raise InvalidConfig("resume", f"another process has gone on with {run.folder}: try again")
                go = learner.learn if self.resume is None else learner.resume
                go(callback=run, progress=True)
        except (KeyboardInterrupt, Terminated):
            return INTERRUPTED if run.signal is None else 128 + run.signal
        except (TrainingError, CheckpointError, ProcessError) as error:
            # All processes have the first two, of which one is enough.
            if learner.processes.rank == 0 or isinstance(error, ProcessError):
                complain(error)
            if isinstance(error, TrainingError):
                learner.save(run.folder / _BEFORE_FAULT)
            return FAILED
        # Another process was asked to stop.
        return INTERRUPTED if run.view.state == "stopped" and learner.processes.size > 1 else 0

    def _record(self, run: Run, console: Console, status: int) -> None:
        """Record an episode, if one is wanted and can be had."""
        if not self.video or status or run.learner.env.environment.draw is None or run.learner.processes.rank:
            return
        try:
            with busy(console, "recording an episode"):
                record(run.learner, run.folder / "video.gif", max_steps=_VIDEO_STEPS)
        except Exception as error:
            # Whatever the environment's own drawing does: the training is saved.
            say(console, f"No video: {error if isinstance(error, OperantError) else repr(error)}")


def _already_done(folder: Path, learner: PPO, goal: float | None, is_new_goal: bool) -> str | None:
    """Return why there is nothing to go on with; None if there is."""
    if learner.timesteps >= learner.target:
        steps = f"{learner.timesteps:,} of {learner.target:,} steps"
        return f"{folder} is at its end, {steps}: raise --total-timesteps to train on"
    if _description_of(folder)["state"] == "solved" and not is_new_goal:
        return f"{folder} is solved, its goal was {goal:g}: give a higher --goal, or --goal inf to train to the end"
    return None


def _account(run: Run, env: str | None) -> list[str]:
    """Return what a training came to, and what to do next, in lines."""
    view, learner, folder = run.view, run.learner, run.folder
    verb = {"solved": "Solved", "finished": "Trained", "failed": "Failed at"}.get(view.state, "Stopped")
    # As a shell takes them, and with the definition, if it is not one of the library's.
    name, own = shlex.quote(str(folder)), env if env is not None and ":" in env else None
    definition = "" if own is None else f" --env {shlex.quote(own)}"
    replay = [f"  operant-gpu replay {name}{definition}"] if any(folder.glob(FAULTS)) else []
    if not view.latest:
        return [f"{verb} {view.title} before the first iteration was over", f"Run: {folder}", *replay]
    count = min(100, int(view.latest["episodes"]))
    score = f"mean return {view.latest['episodic_return']:.4g} over the last {count} episodes"
    target = "" if view.goal is None else f" (goal {view.goal:g})"
    steps = f"{learner.timesteps:,} steps in {learner.seconds:.1f} s"
    lines = [f"{verb} {view.title}: {score if count else 'no episode finished'}{target}, {steps}", f"Run: {folder}"]
    if view.state in ("solved", "finished"):
        video = shlex.quote(f"{view.title}.gif")
        lines.append(f"  operant-gpu eval {name}{definition}")
        if learner.env.environment.draw is not None:
            lines.append(f"  operant-gpu record {name}{definition} --out {video}")
    elif view.state == "stopped" or (view.state == "failed" and learner.processes.size > 1):
        lines.append(f"  operant-gpu train {'' if own is None else f'{shlex.quote(own)} '}--resume {name}")
    return lines + replay


def _finite(goal: float | None) -> float | None:
    return None if goal is None or math.isinf(goal) else goal


def _description_of(folder: Path) -> dict[str, Any]:
    """Return what a run says of itself, as the first of several processes reads it."""
    return present().first(lambda: read_description(folder))


def _are_several(folder: str | Path) -> bool:
    """Tell whether a directory is one of several seeds."""
    return (as_path("resume", folder) / PLAN).exists()


def _settings_of(folder: Path) -> PPOConfig:
    """Return the settings of a run: those of its newest checkpoint, which knows what it was trained with."""
    _description_of(folder)
    with warnings.catch_warnings():
        # Whoever loads it tells.
        warnings.simplefilter("ignore")
        return checkpoint.settings(folder)


def _check_names(arguments: Sequence[str]) -> None:
    """Refuse an option that other libraries have by another name; of all others tyro tells."""
    known = {one.name: one.default for kind in (Train, PPOConfig) for one in fields(kind)}
    for option in (word.partition("=")[0] for word in arguments if word.startswith("--")):
        word = option.removeprefix("--").replace("-", "_")
        name = word.removeprefix("no_")
        if name in GONE:
            raise InvalidConfig(option, unknown_setting(name))
        if name in _params_of("".join(arguments[1:2])):
            raise InvalidConfig(option, f"it is a parameter of the environment: write --env.{name}")
        here = name if name in known else called_here(name, known)
        if here == "env":
            raise InvalidConfig(option, "train has no such option: write `operant-gpu train ENV [options]`")
        if here in known and here != name:
            negation = "no-" if word != name and isinstance(known[here], bool) else ""
            meant = f"--{negation}{here.replace('_', '-')}{difference(name)}"
            raise InvalidConfig(option, f"train has no such option; did you mean {meant}?")


def _params_of(env: str) -> tuple[str, ...]:
    """Return the parameters of an environment of the library; none of another."""
    return find(env).params._fields if env in list_envs() else ()


def _check_order(arguments: Sequence[str]) -> None:
    """Refuse an environment that stands after options: it might be taken for the end of a setting's line."""
    paths = ("--run", "--run-dir", "--resume", "--config")
    late = [word for before, word in itertools.pairwise(arguments[1:]) if before not in paths and _is_env(word)]
    if late and arguments[1].startswith("-"):
        message = f"expected ENV before all options, got {late[0]} after them"
        raise InvalidConfig("env", f"{message}: write `operant-gpu train {late[0]} [options]`")


def _is_env(word: str) -> bool:
    return word in list_envs() or ".py:" in word


def _reader() -> argparse.ArgumentParser:
    """Return what finds the options that decide about the defaults of others."""
    reader = argparse.ArgumentParser("operant-gpu train", add_help=False, allow_abbrev=False)
    reader.add_argument("--config")
    reader.add_argument("--resume")
    reader.add_argument("--device", default="auto")
    reader.add_argument("--size", default="auto")
    reader.add_argument("--num-envs", "--num_envs", type=whole_number)
    return reader


def recommended(arguments: Sequence[str]) -> PPOConfig:
    """Return what options are to differ from: an environment's or a run's settings, and those of a settings file."""
    if not arguments or arguments[0] != "train":
        return PPOConfig()
    _check_names(arguments)
    _check_order(arguments)
    known = _reader().parse_known_args(arguments)[0]
    if known.resume is not None:
        # Each of several runs has its own.
        several = _are_several(known.resume)
        return PPOConfig() if several else _with_file(_settings_of(as_path("resume", known.resume)), known.config)
    # Of one that comes later, `main` complains.
    env = "".join(arguments[1:2])
    if env not in PRESETS:
        return _with_file(PPOConfig(), known.config)

    def tuned(num_envs: int | None) -> PPOConfig:
        size, _ = preset_size(env, known.device, known.size, num_envs)
        return _with_file(PPOConfig.for_env(env, size=size), known.config)

    # A file may name fewer environments than a large preset is for.
    return tuned(known.num_envs or tuned(known.num_envs).num_envs)


def told_of_defaults(arguments: Sequence[str]) -> str:
    """Return what the defaults in the help are, for the arguments that `recommended` takes."""
    known, env = _reader().parse_known_args(arguments)[0], "".join(arguments[1:2])
    over = "" if known.config is None else f", and {known.config} over them"
    if known.resume is not None and _are_several(known.resume):
        return f"The runs in {known.resume} go on with their own settings."
    if known.resume is not None:
        return f"The defaults of the settings are those of the run {known.resume}{over}."
    if env not in PRESETS:
        return f"The defaults of the settings are tuned for no environment{over}: `train ENV --help` shows ENV's own."
    size, reason = preset_size(env, known.device, known.size, known.num_envs)
    return f"The defaults of the settings are tuned for {env} (the {size} preset: {reason}){over}."


def _with_file(settings: PPOConfig, path: str | None) -> PPOConfig:
    """Return settings with those of a file over them, if there is one."""
    return settings if path is None else PPOConfig.from_toml(path, settings)
