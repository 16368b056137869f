"""Parameters of environments on the command line: `--env.NAME VALUE`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from here import PYTHONPATH

import operant_gpu
from operant_gpu.cli import main
from operant_gpu.models import PPO
from operant_gpu.monitor.reader import read_description
from operant_gpu.parameters import notes
from operant_gpu.randomization import Choice, Uniform

QUICK = ["--num-envs", "16", "--total-timesteps", "512", "--n-steps", "8", "--batch-size", "32"]
TRAIN = ["train", "Pendulum-v1", *QUICK, "--device", "cpu", "--no-video", "--run", "one"]
RANGES = ["--env.g", "5..15", "--env.m=0.9,1.1"]
OWN = """
from gymnasium import spaces
from operant_gpu import Environment
from operant_gpu.errors import InvalidConfig
from operant_gpu.lang import jit, tl
from typing import NamedTuple

class State(NamedTuple):
    x: tl.float32

class Params(NamedTuple):
    low: float = 0.0
    high: float = 1.0  # m, [above] low

def validate(params):
    if not params.low < params.high:
        raise InvalidConfig("low", f"expected low < high, got {params.low} {params.high}")

@jit
def reset(rng, params):
    return State(params.low)

@jit
def step(state, action, rng, params):
    return State(state.x + action), params.high, state.x > params.high

@jit
def observe(state, params):
    return (state.x,)

Band = Environment(id="OwnBand-v0", state=State, params=Params, reset=reset, step=step, observe=observe,
                   observation_space=spaces.Box(-1e3, 1e3, (1,)), action_space=spaces.Discrete(2),
                   max_episode_steps=20, validate=validate)
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.quick
def test_trainings_take_them_and_evaluations_have_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, *RANGES]) == 0
    given = PPO.load("one", device="cpu").env.given_params
    assert (given.g, given.m, given.l) == (Uniform(5, 15), Choice(0.9, 1.1), 1.0)
    assert read_description(Path("one"))["params"]["g"] == "5..15"
    capsys.readouterr()
    seen = {}
    for name, options in {"own": [], "same": RANGES, "fixed": ["--env.g", "9.8"]}.items():
        assert main(["eval", "one", "--episodes", "8", "--device", "cpu", "--json", *options]) == 0
        seen[name] = json.loads(capsys.readouterr().out)
    assert seen["own"] == seen["same"]
    assert (seen["own"]["params"]["g"], seen["fixed"]["params"]["g"]) == ("5..15", 9.8)
    assert seen["fixed"]["params"]["m"] == "0.9,1.1"
    assert seen["own"]["deterministic"] != seen["fixed"]["deterministic"]
    assert main(["eval", "one", "--episodes", "8", "--device", "cpu", "--env.g", "9.8"]) == 0
    assert "Pendulum-v1, g=9.8 after 512 steps" in capsys.readouterr().out
    assert main(["train", "--resume", "one", "--env.g", "5", "--device", "cpu"]) == 2
    assert "--env.g" in capsys.readouterr().err
    # What was given at first stays.
    assert main(["train", "--resume", "one", "--total-timesteps", "1024", "--device", "cpu", "--no-video"]) == 0
    assert PPO.load("one", device="cpu").env.given_params == given
    assert main(["record", "one", "--out", "one.gif", "--device", "cpu", "--env.g", "3"]) == 0


def test_a_parameter_is_held_against_the_trainings_others_not_against_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("band.py").write_text(OWN)
    band = ["band.py:Band", *QUICK, "--device", "cpu", "--no-video", "--run", "band", "--env.high", "10"]
    assert main(["train", *band]) == 0
    capsys.readouterr()
    evaluation = ["eval", "band", "--env", "band.py:Band", "--episodes", "4", "--device", "cpu"]
    assert main([*evaluation, "--json", "--env.low", "5"]) == 0
    assert json.loads(capsys.readouterr().out)["params"] == {"low": 5.0, "high": 10.0}
    assert main([*evaluation, "--env.low", "12"]) == 2
    assert "low: expected low < high, got 12.0 10.0" in capsys.readouterr().err
    assert main(["envs", "band.py:Band"]) == 0
    assert "m, [above] low" in capsys.readouterr().out


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*TRAIN, "--env.g", "15..5"], "g: Uniform(low=15, high=5) is no range: give the lower end first"),
        ([*TRAIN, "--env.gg", "5"], "gg: unknown setting; did you mean 'g'"),
        ([*TRAIN, "--env.g"], "--env.g: expected --env.NAME VALUE, such as --env.gravity 9.8"),
        ([*TRAIN, "--env.g", "--seed", "3"], "--env.g: expected --env.NAME VALUE"),
        ([*TRAIN, "--env.", "5"], "--env.: expected --env.NAME VALUE"),
        ([*TRAIN, "--env.g", "5", "--env.g=6"], "--env.g: given twice, '5' and '6': leave one out"),
        ([*TRAIN, "--env.g", "heavy"], "g: expected a finite number (default 10.0), a tensor or array of them, or a"),
        ([*TRAIN, "--env.g="], "or a range such as 5..15, log:0.1..10, normal:10,2 or 0.4,0.5,0.6, got ''"),
        ([*TRAIN, "--env.num_envs", "4"], "num_envs: a setting of VecEnv and no parameter"),
        (["doctor", "--env.g", "5"], "--env.g: doctor takes no parameters of an environment"),
        (["monitor", "one", "--env.g", "5"], "--env.g: monitor takes no parameters of an environment"),
        (["bench", "Pendulum-v1", "--env.g", "nan"], "g: expected a finite number"),
        (["play", "CartPole-v1", "--env.length", "0"], "length"),
    ],
)
def test_a_mistake_gets_its_reason_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("one").exists()


@pytest.mark.quick
@pytest.mark.parametrize("command", ["train", "play", "bench"])
def test_help_of_an_environment_ends_with_its_parameters(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "CartPole-v1", "--help"])
    printed = capsys.readouterr().out
    assert ended.value.code in (0, None)
    assert "parameters of CartPole-v1" in printed
    assert printed.index("--help") < printed.index("--env.gravity")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "--env.gravity" not in capsys.readouterr().out.replace("--env.gravity 9.8", "")


@pytest.mark.quick
def test_an_environments_parameters_are_listed_with_units_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs", "Pendulum-v1"]) == 0
    lines = map(str.strip, capsys.readouterr().out.splitlines())
    line = next(line for line in lines if line.startswith("--env.g "))
    assert line.split(maxsplit=2)[:2] == ["--env.g", "10.0"]
    assert notes(operant_gpu.registry.find("Pendulum-v1").params)["g"] in line
    assert "number, range" in line
    assert "m/s" in line
    assert main(["envs", "CartPole-v1"]) == 0
    lines = map(str.split, capsys.readouterr().out.splitlines())
    takes = {words[0]: words[2:4] for words in lines if words and words[0].startswith("--env.")}
    assert takes["--env.gravity"] == ["number,", "range"]
    assert takes["--env.x_threshold"] == ["number", "m,"]
    assert main(["envs", "Snake-v0"]) == 0
    assert "Snake-v0 has no parameters" in capsys.readouterr().out


@pytest.mark.quick
def test_every_parameter_of_the_library_is_explained() -> None:
    for name in operant_gpu.list_envs():
        definition = operant_gpu.registry.find(name)
        if definition.params.__module__.startswith("operant_gpu."):
            for parameter, said in notes(definition.params).items():
                assert said, f"{name}: {parameter}"


def test_the_module_is_the_command() -> None:
    program = [sys.executable, "-m", "operant_gpu", "envs", "GridWalk-v0"]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "--env.grid_size" in done.stdout
