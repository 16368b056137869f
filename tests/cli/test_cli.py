"""The command line as a user meets it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tyro
from here import ROOT

import operant_gpu
from operant_gpu import cli
from operant_gpu.cli import doctor, machine, main
from operant_gpu.cli.common import preset_size
from operant_gpu.cli.options import OPTIONS
from operant_gpu.cli.settings import Settings, groups
from operant_gpu.cli.train import Train, recommended
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.models.presets import LEVELS, PRESETS, Level
from operant_gpu.monitor import Run
from operant_gpu.monitor.reader import read_description
from operant_gpu.verification.report import Check, Report

QUICK = ["--num-envs", "16", "--total-timesteps", "512", "--n-steps", "8", "--batch-size", "32"]
SMALL = PPOConfig(num_envs=16, total_timesteps=512, n_steps=8, batch_size=32, gamma=0.5)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


def train(*arguments: str) -> int:
    return main(["train", *arguments, "--device", "cpu", "--no-video"])


@pytest.mark.quick
def test_train_reports_what_it_reached_and_leaves_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("CartPole-v1", *QUICK) == 0
    printed = capsys.readouterr().out
    assert "Trained CartPole-v1: mean return" in printed
    assert "512 steps in" in printed
    assert "Run: runs/CartPole-v1-1\n  operant-gpu eval runs/CartPole-v1-1\n" in printed
    run = Path("runs/CartPole-v1-1")
    assert {path.name for path in run.iterdir()} == {
        *("checkpoints", "config.toml", "curve.png", "lock", "metrics.jsonl", "run.json", "tensorboard")
    }
    assert PPO.load(run).timesteps == 512
    assert train("CartPole-v1", *QUICK) == 0
    assert Path("runs/CartPole-v1-2").is_dir()


def test_a_run_ends_with_a_video_of_an_episode() -> None:
    assert main(["train", "GridWalk-v0", "--device", "cpu", "--run", "walk", *QUICK]) == 0
    assert Path("walk/video.gif").read_bytes().startswith(b"GIF89a")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "CartPol-v1"], "did you mean 'CartPole-v1'"),
        (["train", "CartPole-v1", "--num-envs", "0"], "num_envs: expected an integer of at least 1, got 0"),
        (["train", "CartPole-v1", "--gamma", "2"], "gamma: expected a number in [0, 1]"),
        (["train", "CartPole-v1", "--device", "abacus"], "device: expected 'auto'"),
        (["train"], "env: expected an environment, such as CartPole-v1, or --resume RUN, got neither"),
        (["train", "--lr", "1e-3", "CartPole-v1"], "env: expected ENV before all options, got CartPole-v1 after them"),
        (["train", "CartPole-v1", "--run", "/dev/null/run"], "run: cannot write in the folder '/dev/null/run'"),
        (["train", "CartPole-v1", "--config", "folder.toml"], "checkpoint_dir: a run keeps its checkpoints itself"),
        (["train", "walk.py"], "env: expected FILE.py:NAME, with the name of an Environment in the file"),
        (["train", "--resume", "missing"], "run: 'missing' is not a run's directory: it is not there"),
        (["train", "--resume", "."], "run: '.' is not a run's directory: it has no run.json"),
        (["train", "missing.py:Walk"], "env: cannot import 'missing.py': FileNotFoundError"),
        (["train", "operant_gpu.envs:Walk"], "'operant_gpu.envs' has no environment 'Walk'; it has Acrobot"),
        (["eval", "missing.pt"], "path: there is no file 'missing.pt'"),
        (["eval", "."], "path: there are no checkpoints (step-*.pt) in the folder '.'"),
        (["record", "missing.pt", "--out", "x.gif"], "there is no file 'missing.pt'"),
        (["export", "missing.pt", "--out", "x.onnx"], "there is no file 'missing.pt'"),
        (["monitor"], "monitor: expected directories of runs, or --latest, got neither"),
        (["monitor", "--latest"], "run: there is no run below 'runs': `operant-gpu train ENV` makes one"),
        (["monitor", "missing"], "run: 'missing' is not a run's directory: it is not there"),
        (["monitor", "/dev/null"], "run: '/dev/null' is not a run's directory: it is a file"),
        (["monitor", "missing", "--curve", "curve.pdf"], "curve: expected a file that ends in .png, got 'curve.pdf'"),
        (["train", "CartPole-v1", "--goal", "nan"], "goal: expected a number, or inf for no goal, got nan"),
        (["train", "CartPole-v1", "--total-timesteps", "9" * 20], "expected an integer below 2**63"),
        (["train", "leaves.py:X"], "env: cannot import 'leaves.py': SystemExit: 0"),
        (
            ["train", "CartPole-v1", "--total-timesteps", "1.5"],
            "expected a whole number, such as 1000000 or 1e6, got '1.5'",
        ),
        (["train", "CartPole-v1", "--seed", "nan"], "expected a whole number, such as 1000000 or 1e6, got 'nan'"),
        (["eval", "missing.pt", "--episodes", "ten"], "expected a whole number, such as 1000000 or 1e6, got 'ten'"),
        (
            ["train", "CartPole-v1", "--engine", "fusd"],
            "engine: expected 'auto', 'fused', 'graph' or 'eager', got 'fusd'; did",
        ),
        (
            ["train", "CartPole-v1", "--learning-rate=1"],
            "--learning-rate: train has no such option; did you mean --lr?",
        ),
        (["train", "CartPole-v1", "--learning_rate", "1e-3"], "did you mean --lr?"),
        (["train", "CartPole-v1", "--n-envs", "8"], "did you mean --num-envs?"),
        (["train", "CartPole-v1", "--clip-range", "0.1"], "did you mean --clip-eps?"),
        (["train", "CartPole-v1", "--num-steps", "128"], "did you mean --n-steps?"),
        (["train", "CartPole-v1", "--update-epochs", "4"], "did you mean --n-epochs?"),
        (
            ["train", "CartPole-v1", "--num-minibatches", "4"],
            "did you mean --batch-size (the steps in a minibatch, not the number of minibatches)?",
        ),
        (["train", "CartPole-v1", "--normalize-advantage"], "did you mean --normalize-advantages?"),
        (["train", "CartPole-v1", "--no-norm-adv"], "did you mean --no-normalize-advantages?"),
        (["train", "CartPole-v1", "--tensorboard-log", "logs"], "did you mean --run-dir?"),
        (["train", "CartPole-v1", "--track"], "did you mean --wandb?"),
        (["train", "CartPole-v1", "--no-cuda"], "did you mean --device?"),
        (["train", "--env", "CartPole-v1"], "--env: train has no such option: write `operant-gpu train ENV [options]`"),
        (["train", "--env-id=CartPole-v1"], "--env-id: train has no such option: write `operant-gpu train ENV"),
        (
            ["train", "CartPole-v1", "--device", "cuda:99"],
            'use device="cpu" (on the command line: --device cpu), or run `operant-gpu doctor` to see why',
        ),
        (["train", "CartPole-v1", "--no-anneal-lr"], "--no-anneal-lr: it is no setting any more: lr=0.004 is constant"),
        (["train", "CartPole-v1", "--lr", "4e-3..0"], "lr: expected a number, 'linear' or (start, end), got '4e-3..0'"),
        (["train", "CartPole-v1", "--ent-coef", "linear"], "ent_coef: 'linear' falls from the usual value to 0, and"),
        (["train", "CartPole-v1", "--size", "huge"], "size: expected 'auto', 'usual' or 'large', got 'huge'"),
        (["train", "Snake-v0", "--size", "large"], "size: Snake-v0 has no large preset, only the usual one"),
        (["train", "CartPole-v1", "--num-envs", "many"], "whole_number value: 'many'"),
        (["eval", "missing.pt", "--seed", "9" * 20], "there is no file"),
        (["bench", "--seconds", "inf"], "seconds: expected a number above 0, at most 3600, got inf"),
        (["bench", "CartPol-v1"], "did you mean 'CartPole-v1'"),
        (["bench", "--seconds", "0"], "seconds: expected a number above 0, at most 3600, got 0"),
        (["play", "CartPol-v1"], "did you mean 'CartPole-v1'"),
        (
            ["train", "CartPole-v1", "--gravity", "3"],
            "--gravity: it is a parameter of the environment: write --env.grav",
        ),
        (["fly"], "fly: unknown command; commands: train, "),
        (["train", "CartPole-v1", "--config", "missing.toml"], "config: cannot read settings from 'missing.toml'"),
        (["train", "CartPole-v1", "--gru-size", "8", "--n-steps", "1"], "n_steps: a GRU learns nothing"),
    ],
)
def test_a_mistake_gets_its_reason_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("leaves.py").write_text("import sys; sys.exit(0)")
    Path("folder.toml").write_text('checkpoint_dir = "x"')
    with pytest.raises(SystemExit) as caught:
        sys.exit(main(arguments))
    assert caught.value.code == 2
    # Some messages come in a frame, broken into lines.
    error = " ".join(re.sub("[─-╿]", " ", capsys.readouterr().err).split())
    assert message in error
    assert "Traceback" not in error


def test_a_settings_file_replaces_the_tuned_settings_and_options_replace_both() -> None:
    SMALL.to_toml("small.toml")
    for name, arguments in (("file", []), ("option", ["--gamma", "0.75", "--hidden-sizes", "8", "8", "8"])):
        assert train("Pendulum-v1", "--config", "small.toml", "--run", name, *arguments) == 0
    assert PPO.load("file").config == SMALL
    changed = PPO.load("option").config
    assert (changed.gamma, changed.hidden_sizes, changed.num_envs) == (0.75, (8, 8, 8), 16)


def test_whole_numbers_and_names_are_taken_as_people_write_them() -> None:
    options = ["--num-envs", "16.0", "--total-timesteps", "5_1_2", "--n-steps", "8", "--batch-size", "3.2e1"]
    assert train("CartPole-v1", "--run", "run", *options, "--hidden-sizes", "8.0", "--engine", "Eager") == 0
    config = PPO.load("run").config
    assert config == replace(
        PPOConfig.for_env("CartPole-v1"),
        num_envs=16,
        total_timesteps=512,
        n_steps=8,
        batch_size=32,
        hidden_sizes=(8,),
        engine="eager",
    )


def test_the_tuned_settings_of_the_environment_are_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    printed = {}
    for env in ("Pendulum-v1", "CartPole-v1"):
        with pytest.raises(SystemExit):
            main(["train", env, "--help"])
        printed[env] = capsys.readouterr().out
        assert f"(default: {PPOConfig.for_env(env).gamma:g})" in " ".join(printed[env].split())
    assert printed["Pendulum-v1"] != printed["CartPole-v1"]


def test_a_training_that_fails_keeps_the_last_good_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("CartPole-v1", "--run", "run", "--lr", "1e30", *QUICK) == 1
    assert "a number is not finite" in capsys.readouterr().err
    assert read_description(Path("run"))["state"] == "failed"
    learner = PPO.load("run/before-fault.pt")
    assert all(parameter.isfinite().all() for parameter in learner.policy.parameters())


def test_our_own_presets_run_as_they_are_meant_to_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    """The engine is in the dashboard; why it is no other is said to those who ask."""
    assert train("Snake-v0", "--run", "quiet", *QUICK) == 0
    printed = capsys.readouterr()
    assert [line for line in printed.err.splitlines() if "compiled" not in line] == []
    assert "fused" not in printed.out
    assert read_description(Path("quiet"))["details"].endswith("eager engine")
    assert train("Snake-v0", "--run", "asked", "-v", *QUICK) == 0
    told = capsys.readouterr().err
    assert "the numpy backend steps the environments, and not numba" in told
    assert "PyTorch trains the network, and not the fused kernels: cnn_channels: " in told
    assert train("CartPole-v1", "--run", "fused", "--verbose", *QUICK) == 0
    assert "operant-gpu: fused kernels train this network on cpu\n" in capsys.readouterr().err
    assert train("Snake-v0", "--engine", "fused", *QUICK) == 2
    assert "engine: 'fused' cannot be had here: cnn_channels: " in capsys.readouterr().err


COMMANDS = tuple(cli._COMMANDS)


def test_help_names_the_commands_and_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(re.search(rf"• {name} +\S+", printed) for name in COMMANDS)
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    printed = capsys.readouterr().out
    assert all(option in printed for option in ("--resume", "--run", "--num-envs", "--lr", "--no-video", "--goal"))


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    printed = " ".join(re.sub("[─-╿]", " ", capsys.readouterr().out).split())
    tree = ast.parse(textwrap.dedent(inspect.getsource(cli._COMMANDS[name])))
    texts = [text for text in map(_text, itertools.pairwise(tree.body[0].body)) if text is not None]
    assert len(texts) == len(dataclasses.fields(cli._COMMANDS[name])) - (name == "train")
    # Each in full, but for how tyro sets its last stop.
    assert [text for text in texts if text.removesuffix(".") not in printed] == []


@pytest.mark.parametrize("width", [40, 60, 120])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_as_wide_as_its_terminal(
    name: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    assert os.environ["COLUMNS"] == str(width)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    if name == "train":
        assert {len(line) for line in lines if line.startswith(("╭", "│", "╰"))} == {width}
    if not name:
        # The commands are broken into lines between them.
        assert set(cli._COMMANDS) <= set(re.findall(r"\w+", " ".join(lines[: lines.index("")])))
    # What an option takes is told without what it is where nothing is given.
    assert "{None" not in "".join(lines)
    assert "default: None" not in " ".join(lines)


@pytest.mark.skipif(sys.platform == "win32", reason="terminals there have no size that can be set")
def test_help_in_a_pipe_fits_the_terminal_that_it_is_paged_in() -> None:
    import fcntl
    import pty
    import struct
    import termios

    terminal, keyboard = pty.openpty()
    fcntl.ioctl(keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 60, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "operant_gpu", "train", "--help"]
    done = subprocess.run(command, stdin=keyboard, capture_output=True, text=True, env=environment, check=True)
    os.close(keyboard)
    os.close(terminal)
    assert max(map(len, done.stdout.splitlines())) == 60
    assert "\x1b" not in done.stdout


def test_options_are_grouped_as_the_page_of_settings_groups_them(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    sections = (section.split("\n", 1) for section in page.split("\n## ")[1:])
    rows = {heading: set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) for heading, text in sections}
    assert {heading: names for heading, names in rows.items() if names} == {
        heading: set(names) for heading, names in groups().items()
    }
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    # Before them are ENV, and the options of the command itself.
    *_, first, second, third, fourth, fifth = capsys.readouterr().out.split("╭─ ")
    for frame, (heading, names) in zip((first, second, third, fourth, fifth), groups().items(), strict=True):
        assert f"│ {heading} (docs/settings.md)." in frame
        expected = [f"--{name.replace('_', '-')}" for name in names if name != "checkpoint_dir"]
        assert re.findall(r"^│ (--[\w-]+)", frame, re.MULTILINE) == expected


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "are tuned for no environment: `train ENV --help` shows ENV's own."),
        (["own.py:Own"], "are tuned for no environment"),
        (["CartPole-v1"], "are tuned for CartPole-v1 (the usual preset: the training is on a CPU)."),
        (["CartPole-v1", "--size", "large"], "are tuned for CartPole-v1 (the large preset: --size asks for it)."),
        (
            ["CartPole-v1", "--config", "a.toml"],
            "are tuned for CartPole-v1 (the usual preset: the training is on a CPU), and a.toml over them.",
        ),
        (["--resume", "run"], "are those of the run run."),
    ],
)
def test_help_says_whose_defaults_it_shows(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text("from operant_gpu.envs import GridWalk as Own")
    Path("a.toml").write_text("gamma = 0.5")
    if "run" in arguments:
        assert train("CartPole-v1", "--run", "run", *QUICK) == 0
        capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["train", *arguments, "--device", "cpu", "--help"])
    assert f"The defaults of the settings {told}" in " ".join(capsys.readouterr().out.split())


def _text(pair: tuple[ast.stmt, ast.stmt]) -> str | None:
    """Return what stands below an attribute."""
    field, below = pair
    is_text = isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    return " ".join(below.value.value.split()) if is_text else None


def test_resuming_goes_on_with_other_settings_where_they_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("CartPole-v1", "--run", "run", *QUICK) == 0
    assert main(["train", "--resume", "run"]) == 0
    assert "run is at its end, 512 of 512 steps: raise --total-timesteps to train on" in capsys.readouterr().out
    assert train("--resume", "run", "--total-timesteps", "1024", "--lr", "1e-4") == 0
    learner = PPO.load("run")
    assert (learner.timesteps, learner.config.lr, learner.config.gamma) == (1024, 1e-4, 0.99)
    readings = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [reading["timesteps"] for reading in readings] == [128, 256, 384, 512, 640, 768, 896, 1024]
    assert [session["timesteps"] for session in read_description(Path("run"))["sessions"]] == [0, 512]
    for changed, message in (
        (("--num-envs", "8"), "num_envs: a run goes on with the 16 that it began with"),
        (("--seed", "8"), "seed: a run goes on with the 0 that it began with"),
        (("--hidden-sizes", "8"), "was trained with (64, 64), got (8,): leave it as it was"),
        (("--gru-size", "8"), "holds a ActorCritic, got RecurrentActorCritic: leave gru_size"),
        (("--normalize-rewards",), "was trained with False, got True"),
        (("--run", "other"), "run: a run that is resumed stays in its directory: leave --run out"),
    ):
        assert train("--resume", "run", "--total-timesteps", "2048", *changed) == 2
        assert message in capsys.readouterr().err
    assert train("Pendulum-v1", "--resume", "run") == 2
    assert "env: 'run' is a run of CartPole-v1, got Pendulum-v1: leave ENV out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["1e-3"], 1e-3), (["1e-3", "1e-4"], (1e-3, 1e-4)), (["linear"], (4e-3, 0.0)), (["LINEAR"], (4e-3, 0.0))],
)
def test_a_setting_may_be_a_line_on_the_command_line(words: list[str], expected: object) -> None:
    changed = ("--lr", *words, "--target-kl", "0.2", "0.1", "--vf-clip-eps", "None")
    assert train("CartPole-v1", "--run", "run", *changed, *QUICK) == 0
    learner = PPO.load("run")
    assert (learner.config.lr, learner.config.target_kl, learner.config.vf_clip_eps) == (expected, (0.2, 0.1), None)
    # The run's settings file gives the same.
    assert train("CartPole-v1", "--run", "again", "--config", "run/config.toml") == 0
    assert PPO.load("again").config == learner.config


def test_a_solved_run_asks_for_another_goal(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("CartPole-v1", "--run", "run", "--goal", "10", "--n-steps", "64", "--num-envs", "64") == 0
    assert "Solved CartPole-v1" in capsys.readouterr().out
    assert train("--resume", "run") == 0
    assert "run is solved, its goal was 10: give a higher --goal, or --goal inf" in capsys.readouterr().out
    assert train("--resume", "run", "--goal", "11") == 0
    assert train("--resume", "run", "--goal", "inf", "--total-timesteps", "16384") == 0
    assert PPO.load("run").timesteps == 16384


def test_a_second_training_in_the_same_directory_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("CartPole-v1", "--run", "run", *QUICK) == 0
    assert train("CartPole-v1", "--run", "run", *QUICK) == 2
    assert "'run' has a training already: `operant-gpu train --resume run`" in capsys.readouterr().err


def test_what_was_changed_on_resuming_lasts_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it is killed before it has written another checkpoint of its own accord."""
    assert train("CartPole-v1", "--run", "run", *QUICK) == 0

    def killed(*_: object) -> None:
        raise SystemExit(9)

    with monkeypatch.context() as patched:
        patched.setattr("operant_gpu.monitor.run.Run.__call__", killed)
        with pytest.raises(SystemExit):
            train("--resume", "run", "--total-timesteps", "1024", "--lr", "1e-4")
    assert train("--resume", "run") == 0
    learner = PPO.load("run")
    assert (learner.timesteps, learner.config.lr) == (1024, 1e-4)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["Pendulum-v1"], "Pendulum-v1"),
        (["Pendulum-v1", "--run", "CartPole-v1"], "Pendulum-v1"),
        (["mine.py:GridWalk", "--run", "Pendulum-v1"], None),
        (["--run", "Pendulum-v1"], None),
    ],
)
def test_tuned_settings_are_those_of_the_environment_alone(arguments: list[str], expected: str | None) -> None:
    settings = PPOConfig() if expected is None else PPOConfig.for_env(expected)
    assert recommended(["train", *arguments]) == settings


FEW = "64 environments are less than half of the large one's 2,048"


@pytest.mark.parametrize(
    ("arguments", "has_gpu", "size", "reason"),
    [
        (["CartPole-v1"], False, "usual", "the training is on a CPU"),
        (["CartPole-v1"], True, "large", "the training is on a GPU"),
        (["CartPole-v1", "--device", "cpu"], True, "usual", "the training is on a CPU"),
        (["CartPole-v1", "--device=CUDA:0"], False, "large", "the training is on a GPU"),
        (["Snake-v0"], True, "usual", "Snake-v0 has no large one"),
        (["CartPole-v1", "--num-envs", "64"], True, "usual", FEW),
        (["CartPole-v1", "--num_envs=1e6"], True, "large", "the training is on a GPU"),
        (["CartPole-v1", "--config", "few.toml"], True, "usual", FEW),
        (["CartPole-v1", "--config", "few.toml", "--num-envs", "8192"], True, "large", "the training is on a GPU"),
        (["CartPole-v1", "--config", "lr.toml"], True, "large", "the training is on a GPU"),
        (["CartPole-v1", "--size", "usual"], True, "usual", "--size asks for it"),
        (["CartPole-v1", "--size=Large", "--num-envs", "64"], False, "large", "--size asks for it"),
    ],
)
def test_a_gpu_gets_the_large_preset(
    arguments: list[str], has_gpu: bool, size: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("few.toml").write_text("num_envs = 64")
    Path("lr.toml").write_text("lr = 0.5")
    monkeypatch.setattr("operant_gpu.cli.common.has_gpu", lambda definition: has_gpu)
    taken, asked = recommended(["train", *arguments]), parsed(arguments)
    assert taken.n_steps == PPOConfig.for_env(arguments[0], size=size).n_steps
    assert (taken.lr == 0.5) is ("lr.toml" in arguments)
    assert preset_size(arguments[0], asked.device, asked.size, asked.ppo.num_envs) == (size, reason)


def parsed(arguments: list[str]) -> Train:
    with OPTIONS:
        return tyro.cli(partial(Train, ppo=Settings(**vars(recommended(["train", *arguments])))), args=arguments)


def test_train_says_which_preset_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("CartPole-v1", *QUICK, "--run", "usual") == 0
    assert "Settings: the usual preset; the training is on a CPU\n" in capsys.readouterr().out
    Path("few.toml").write_text("num_envs = 16\ntotal_timesteps = 256")
    assert train("CartPole-v1", "--run", "large", "--size", "large", "--config", "few.toml") == 0
    large = PPOConfig.for_env("CartPole-v1", size="large", num_envs=16, total_timesteps=256)
    assert PPO.load("large").config == replace(large, batch_size=16 * large.n_steps)
    assert "Settings: the large preset, and few.toml over it; --size asks for it\n" in capsys.readouterr().out
    # A run keeps its own.
    assert train("--resume", "large", "--total-timesteps", "1024") == 0
    assert "preset" not in capsys.readouterr().out
    assert PPO.load("large").config == replace(large, batch_size=16 * large.n_steps, total_timesteps=1024)
    assert train("--resume", "large", "--size", "large") == 2
    assert "size: a run goes on with its own settings: leave --size out" in capsys.readouterr().err
    # Nor is there one for a definition of the user's own, whatever its id.
    Path("own.py").write_text("from operant_gpu.envs import GridWalk as Own")
    assert train("own.py:Own", *QUICK) == 0
    assert "preset" not in capsys.readouterr().out
    assert train("own.py:Own", "--size", "large") == 2
    assert "size: own.py:Own has no presets: leave --size out" in capsys.readouterr().err


def test_a_checkpoint_of_another_environment_than_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("CartPole-v1", "--run", "run", *QUICK) == 0
    for command in (["eval", "run"], ["record", "run", "--out", "x.gif"], ["export", "run", "--out", "x.pt2"]):
        assert main([*command, "--env", "Pendulum-v1"]) == 2
        assert "env: 'run' is of CartPole-v1, got Pendulum-v1: leave --env out" in capsys.readouterr().err


def test_what_programs_read_is_not_mixed_with_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("CartPole-v1", "--run", "run", *QUICK) == 0
    Path("run/checkpoints/step-000000000512.pt").write_bytes(b"PK damaged")
    assert train("--resume", "run") == 0
    capsys.readouterr()
    Path("run/checkpoints/step-000000000512.pt").write_bytes(b"PK damaged")
    assert main(["eval", "run", "--episodes", "4", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["env"] == "CartPole-v1"
    assert printed.err.startswith("warning: 'run/checkpoints/step-000000000512.pt' is damaged")


@pytest.mark.parametrize(
    "variables",
    [{"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"}, {"COLUMNS": "10", "TERM": "dumb"}],
    ids=str,
)
def test_what_programs_read_is_plain_whatever_the_environment_says(
    variables: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("CartPole-v1", "--run", ":key:", *QUICK) == 0
    finding = doctor.Finding(":key:", "ok", "[red]a text that is longer than some terminals are wide[/red]")
    monkeypatch.setattr(machine, "examine", lambda: [finding])
    monkeypatch.setattr(
        machine, "verify", lambda env: Report("a card", {"python": "3"}, (Check(":key:", "ok", "", 1.0),))
    )
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    for command in (["eval", ":key:", "--episodes", "4"], ["doctor"], ["doctor", "--verify"]):
        main([*command, "--json"])
        printed = capsys.readouterr().out
        assert "\x1b" not in printed
        json.loads(printed)
    assert json.loads(printed)["checks"][0]["name"] == ":key:"
    # Colours may be asked for, but nothing moves the cursor of a file.
    for command in (
        ["monitor", ":key:"],
        ["record", ":key:", "--out", "x.gif", "--max-steps", "2"],
        ["train", "CartPole-v1", "--run", "other", "--device", "cpu", *QUICK],
    ):
        assert main(command) == 0
        assert re.search(r"\x1b\[[^m]*[A-Za-ln-z]|\r", capsys.readouterr().out) is None


def test_paths_may_begin_with_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells do not put it there behind an equals sign, nor where it is quoted."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Path("home").mkdir()
    SMALL.to_toml("home/small.toml")
    Path("home/own.py").write_text("from operant_gpu.envs import GridWalk as Own")
    assert train("~/own.py:Own", "--config=~/small.toml", "--run=~/run") == 0
    assert train("--resume=~/run", "--total-timesteps=1024") == 0
    assert main(["monitor", "~/run", "--curve=~/curve.png"]) == 0
    assert main(["eval", "~/run", "--episodes=2"]) == 0
    assert main(["record", "~/run", "--out=~/x.gif", "--max-steps=2"]) == 0
    assert main(["export", "~/run/checkpoints/step-000000001024.pt", "--out=~/x.pt2"]) == 0
    assert {path.name for path in Path("home").iterdir()} >= {"run", "curve.png", "x.gif", "x.pt2"}
    assert not Path("~").exists()


def test_more_than_the_memory_holds_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--hidden-sizes", "10000000", "10000000"]
    assert train("CartPole-v1", *sizes) == 1
    assert capsys.readouterr().err == "operant-gpu: not enough memory: ask for fewer environments, steps or units\n"


def test_outputs_that_cannot_be_written_or_encoded_stop_nothing() -> None:
    command = [sys.executable, "-m", "operant_gpu", "train", "CartPole-v1", "--no-video", "--run", "ü", *QUICK]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    with open("/dev/full", "w") as full:
        finished = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, check=False)
    # What is left in Python's own buffer at the very end may be complained of by Python.
    assert b"Traceback" not in finished.stderr
    assert PPO.load("ü").timesteps == 512
    finished = subprocess.run([*command[:3], "monitor", "ü"], capture_output=True, env=environment, check=False)
    assert (finished.returncode, finished.stderr) == (0, b"")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")])
def test_errors_of_memory_are_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(cli._COMMANDS["envs"], "run", fail)
    assert main(["envs"]) == 1
    assert "not enough memory" in capsys.readouterr().err


def test_a_run_that_another_process_went_on_with_meanwhile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("CartPole-v1", "--run", "run", *QUICK) == 0
    load = PPO.load

    def slowly(*arguments: object, **settings: object) -> PPO:
        learner = load(*arguments, **settings)
        # What another process does before this one has the run's lock.
        other = load("run")
        with Run(other, "run") as run:
            other.resume(1024, callback=run)
        return learner

    monkeypatch.setattr(PPO, "load", slowly)
    assert train("--resume", "run", "--total-timesteps", "2048") == 2
    assert "resume: another process has gone on with run: try again" in capsys.readouterr().err
    assert load("run").timesteps == 1024


def test_sigterm_ends_a_command_with_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(cli._COMMANDS["envs"], "run", interrupted)
    with pytest.raises(SystemExit) as caught:
        main(["envs"])
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_drawing_leaves_signals_alone() -> None:
    program = (
        "import os, signal, time, operant_gpu; env = operant_gpu.make('CartPole-v1', render_mode='rgb_array');"
        "env.reset(); env.render(); os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGTERM


WALK = ROOT / "examples" / "custom_environment.py"


def test_an_environment_of_the_users_own_file(capsys: pytest.CaptureFixture[str]) -> None:
    own = f"{WALK}:GridWalk"
    assert train(own, "--run", "run", *QUICK) == 0
    assert f"operant-gpu eval run --env {own}\n" in capsys.readouterr().out
    assert main(["eval", "run", "--env", own, "--episodes", "8", "--json"]) == 0
    assert '"env": "' in capsys.readouterr().out
    assert main(["train", own, "--resume", "run", "--total-timesteps", "640", "--no-video"]) == 0
    assert PPO.load("run").timesteps == 640


def test_what_can_be_done_with_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("GridWalk-v0", "--run", "run", *QUICK) == 0
    capsys.readouterr()
    assert main(["eval", "run", "--episodes", "16"]) == 0
    printed = capsys.readouterr().out
    for row in ("deterministic", "stochastic"):
        assert re.search(rf"{row} +\S+ +\S+ +\S+ +\S+ to \S+ +\S+ *\n", printed), printed
    assert main(["eval", "run/checkpoints/step-000000000512.pt", "--episodes", "16", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert (numbers["env"], numbers["timesteps"], numbers["stochastic"]["episodes"]) == ("GridWalk-v0", 512, 16)
    for name in ("walk.gif", "walk.mp4"):
        assert main(["record", "run", "--out", name, "--max-steps", "5"]) == 0
        assert f"{name}: 5 steps, return " in capsys.readouterr().out
    assert main(["record", "run", "--out", "walk.avi"]) == 2
    assert "out: expected a file that ends in .gif or .mp4" in capsys.readouterr().err
    assert main(["export", "run", "--out", "walk.pt2"]) == 0
    assert "walk.pt2: obs -> action, distribution, value; checked on 2,304 observ" in capsys.readouterr().out
    assert main(["export", "run", "--out", "walk.pkl"]) == 2
    assert main(["monitor", "run", "--curve", "curve.png"]) == 0
    assert "finished" in capsys.readouterr().out
    assert Path("curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("arguments", [["envs"], ["--help"], ["train", "--help"], ["play", "Snake-v0", "--help"]])
def test_a_pipe_that_is_closed_early_is_no_error(arguments: list[str]) -> None:
    program = [sys.executable, "-m", "operant_gpu", *arguments]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"operant-gpu {operant_gpu.__version__}\n"


def test_envs_lists_each_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs"]) == 0
    printed = capsys.readouterr().out
    assert all(re.search(rf"^ {re.escape(id)} +\S", printed, re.MULTILINE) for id in PRESETS)
    for id, level in LEVELS.items():
        assert re.search(rf"^ {re.escape(id)} +{re.escape(level.said)} +{level.steps:,} ", printed, re.MULTILINE)
    assert main(["envs", "Pendulum-v1"]) == 0
    assert f"Pendulum-v1's preset learns a mean return of {LEVELS['Pendulum-v1']}" in capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 50, 60])
def test_no_number_is_cut_in_a_narrow_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("Pendulum-v1", "--run", "run", *QUICK) == 0
    monkeypatch.setenv("COLUMNS", str(width))
    finding = doctor.Finding("a package", "missing", "does what few others do, and quickly", "pip install it, or not")
    monkeypatch.setattr(machine, "examine", lambda: [finding])
    monkeypatch.setattr(doctor, "examine", lambda: [finding])
    capsys.readouterr()
    for command in (
        ["eval", "run", "--episodes", "4", "--device", "cpu"],
        ["envs"],
        ["bench", "CartPole-v1", "--num-envs", "64", "--device", "cpu", "--seconds", "0.001"],
        ["doctor"],
        ["monitor", "run", "run"],
    ):
        assert main(command) == 0
        printed = capsys.readouterr().out
        assert "…" not in printed, command
        assert max(map(len, printed.splitlines())) <= width, command
        if command[0] == "eval":
            assert len(re.findall(r"mean return +-\d+(\.\d+)?\b", printed)) == 2
            assert len(re.findall(r"95 % interval +-[\d.]+ to -[\d.]+\b", printed)) == 2
        if command[0] == "envs":
            assert all(level.said in printed for level in LEVELS.values())


def test_levels_in_words() -> None:
    assert str(Level(5_000_000, 12_345.6, 78.9, 612.4, 3)) == "12,346 ± 79 after 5 M steps and 612 s, over 3 seeds"
    assert str(Level(120_000, -97.96, 0.24, 1.5, 10)) == "-98.0 ± 0.2 after 0.12 M steps and 2 s, over 10 seeds"
    assert Level(300_000, 0.7398, 0.0031, 3.0, 10).said == "0.740 ± 0.003"


def test_bench_measures_beside_gymnasium(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "CartPole-v1", "--num-envs", "64", "--device", "cpu", "--seconds", "0.001"]) == 0
    printed = capsys.readouterr().out
    for row in ("single steps", "rollouts of 64 random steps", "training, 64 environments", "Gymnasium's vector"):
        assert re.search(rf"{row}.* \d\S*( [kMG])? +\S+.* - ", printed), row
