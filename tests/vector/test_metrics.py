"""Metrics: what environments report beside the reward, summed up over episodes."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pytest
import torch
from contract_envs import every_mode
from gymnasium import spaces
from here import BACKENDS

import operant_gpu
from operant_gpu import AutoresetMode, Environment, InvalidConfig
from operant_gpu.cli import main
from operant_gpu.lang import jit, tl
from operant_gpu.metrics import Last, Max, Mean, Min, NoMetrics, Sum
from operant_gpu.models import PPO, PPOConfig, evaluate
from operant_gpu.monitor import Run, TensorBoard
from operant_gpu.random import integers, uniform

N, STEPS, LIMIT = 9, 23, 4
every_backend = pytest.mark.parametrize("backend", BACKENDS)


class State(NamedTuple):
    x: tl.float32
    k: tl.int32


class Metrics(NamedTuple):
    total: Sum = 0.0
    mean: Mean = 0.0
    most: Max = 0.0
    least: Min = 0.0
    last: Last = -1.5
    share: Mean = 0.0
    left_out: Sum = 0.5
    constant: Max = 0.0


@jit
def reset(rng, params):
    return State(0.0, 0)


@jit
def step(state, action, rng, params):
    x, k = uniform(rng, 0, -1.0, 1.0), integers(rng, 1, -5, 6)
    reported = Metrics(x, x, most=x, least=x, last=k, share=x > 0.0, constant=0.1)
    return State(x, k), x, x > 0.6, reported


@jit
def observe(state, params):
    return state.x, state.k


def definition(**other: Any) -> Environment:
    settings = {"id": "Report-v0", "state": State, "reset": reset, "step": step, "observe": observe, "metrics": Metrics}
    space = spaces.Box(-9.0, 9.0, (2,))
    return Environment(**{"observation_space": space, "action_space": spaces.Discrete(2)} | settings | other)


REPORT = operant_gpu.register(definition())


def make(backend: str = "auto", num_envs: int = N, **settings: Any) -> Any:
    return REPORT(num_envs, device="cpu", backend=backend, **{"max_episode_steps": LIMIT, **settings})


def by_hand(steps: list[tuple[float, float]]) -> dict[str, float]:
    """Return what metrics come to after these steps, from x and k of each."""
    xs, ks = [x for x, _ in steps], [k for _, k in steps]
    return {
        "total": math.fsum(xs),
        "mean": math.fsum(xs) / len(xs) if xs else 0.0,
        "most": max(xs, default=-math.inf),
        "least": min(xs, default=math.inf),
        "last": ks[-1] if ks else -1.5,
        "share": np.mean([x > 0 for x in xs]) if xs else 0.0,
        "left_out": 0.5 * len(xs),
        "constant": float(np.float32(0.1)) if xs else -math.inf,
    }


@pytest.mark.quick
@every_backend
@every_mode
def test_metrics_are_what_they_are_by_hand(backend: str, mode: AutoresetMode) -> None:
    env = make(backend, autoreset_mode=mode)
    env.reset(seed=3, options={"elapsed": torch.arange(N) % LIMIT})
    episodes: list[list[tuple[float, float]]] = [[] for _ in range(N)]
    finished: list[dict[str, float]] = []
    over = torch.zeros(N, dtype=torch.bool)
    for count in range(STEPS):
        actions = torch.zeros(N, dtype=torch.int64)
        refused = count == 5
        actions[2] = 7 if refused else 0
        if mode is not AutoresetMode.DISABLED:
            for row in over.nonzero().flatten().tolist():
                episodes[row] = []
        _, _, terminated, truncated, info = env.step(actions)
        for row, (x, k) in enumerate(info["final_obs"].tolist()):
            resets = mode is AutoresetMode.NEXT_STEP and over[row]
            if not resets and not (refused and row == 2):
                episodes[row].append((x, k))
        found = {name: column.tolist() for name, column in info["metrics"].items()}
        assert list(found) == list(Metrics._fields)
        for row, episode in enumerate(episodes):
            assert {name: column[row] for name, column in found.items()} == pytest.approx(by_hand(episode), rel=1e-12)
        over = terminated | truncated
        assert info["_metrics"].equal(over)
        finished += [by_hand(episodes[row]) for row in over.nonzero().flatten().tolist()]
        if refused:
            with pytest.raises(operant_gpu.ActionError):
                env.check()
        if mode is AutoresetMode.DISABLED and over.any():
            env.reset(options={"reset_mask": over})
            for row in over.nonzero().flatten().tolist():
                episodes[row] = []
    assert len(finished) > N
    expected = {name: np.mean([one[name] for one in finished]) for name in Metrics._fields}
    logs = env.get_logs(clear=True)
    assert {name: logs[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert math.isnan(env.get_logs()["total"])


@every_backend
@every_mode
def test_rollouts_report_what_steps_do(backend: str, mode: AutoresetMode) -> None:
    env, reference = make(backend, autoreset_mode=mode), make(backend, autoreset_mode=mode)
    for one in (env, reference):
        one.reset(seed=5)
    env.rollout(STEPS, torch.zeros(STEPS, N, dtype=torch.int64))
    for _ in range(STEPS):
        reference.step(torch.zeros(N, dtype=torch.int64))
    if mode is AutoresetMode.DISABLED:
        with pytest.raises(operant_gpu.ActionError):
            reference.check()
    assert env.get_logs() == reference.get_logs()
    assert {name: sums.tolist() for name, sums in env.metric_sums.items()} == {
        name: sums.tolist() for name, sums in reference.metric_sums.items()
    }


def test_metrics_are_live_or_copies() -> None:
    for copy in (False, True):
        env = make(copy=copy)
        env.reset(seed=1)
        actions = torch.zeros(N, dtype=torch.int64)
        first = env.step(actions)[4]["metrics"]["last"]
        kept = first.clone()
        second = env.step(actions)[4]["metrics"]["last"]
        assert first.equal(second) is not copy
        assert first.equal(kept) is copy
    env = make(output="numpy")
    env.reset(seed=1)
    assert isinstance(env.step(np.zeros(N, np.int64))[4]["metrics"]["mean"], np.ndarray)


def test_environments_without_metrics_have_none() -> None:
    env = operant_gpu.make("CartPole-v1", 2, device="cpu")
    env.reset(seed=1)
    info = env.step(torch.zeros(2, dtype=torch.int64))[4]
    assert "metrics" not in info
    assert "_metrics" not in info
    assert env.state_dict()["columns"].keys().isdisjoint({"metrics", "log_metrics", "outside"})
    assert env.metric_sums == {}


class Wrong(NamedTuple):
    total: tl.float32 = 0.0


class Bare(NamedTuple):
    total: float = 0.0


class Logged(NamedTuple):
    mean_reward: Sum = 0.0


class Text(NamedTuple):
    total: Last = "none"  # type: ignore[assignment]


class Inherited(Metrics):
    pass


class Other(NamedTuple):
    total: Sum = 0.0


class Documented(NamedTuple):
    total: Annotated[Sum, "of x"] = 0.0


@jit
def three(state, action, rng, params):
    return state, 0.0, False


@jit
def another(state, action, rng, params):
    return state, 0.0, False, Other(1.0)


@jit
def unknown(state, action, rng, params):
    return state, 0.0, False, Metrics(totl=1.0)


@jit
def array(state, action, rng, params):
    return state, 0.0, False, Metrics((1.0, 2.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": Wrong}, "metrics: field 'total' is annotated .*: expected Last, Sum, Mean, Max or Min"),
        ({"metrics": Bare}, "metrics: field 'total' is annotated .*expected Last"),
        ({"metrics": Logged}, "mean_reward is in what get_logs returns"),
        ({"metrics": Text}, "the default of 'total' must be a number of 32 bits, got 'none'"),
        ({"metrics": Inherited}, "has no annotation in the class itself"),
        ({"metrics": Metrics()}, "metrics: expected a subclass of typing.NamedTuple"),
        ({"step": three}, r"must return \(State, reward, terminated, Metrics\), got a tuple of 3"),
        ({"step": another}, r"must return Metrics\(total, .*got a Other of 1"),
        ({"step": unknown}, r"test_metrics.py:\d+, in unknown: .*unexpected keyword argument 'totl'"),
        (
            {"step": array},
            "metric 'total' must be a number, or a block of one number per environment, got a tuple of 2",
        ),
        ({"step": step, "metrics": Other}, r"must return Other\(total\), got a Metrics of 8"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        definition(**settings)(2, device="cpu", backend="numpy")


def test_a_fourth_value_needs_metrics() -> None:
    bare = definition(metrics=NoMetrics)
    with pytest.raises(InvalidConfig, match="got a tuple of 4; a fourth needs metrics= of the environment"):
        bare(2, device="cpu", backend="numpy")


def test_an_annotation_may_say_more() -> None:
    assert definition(metrics=Documented).metric_rows[0].name == "total"


SETTINGS = PPOConfig(num_envs=16, n_steps=16, batch_size=64, total_timesteps=2048, log_interval=2)


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_a_learner_tells_the_means_of_episodes(engine: str) -> None:
    learner = PPO(make(num_envs=16), dataclasses.replace(SETTINGS, engine=engine))
    told: list[dict[str, float]] = []

    def note(metrics: dict[str, float]) -> None:
        # That the statistics of the environments are cleared meanwhile changes nothing.
        learner.env.get_logs(clear=True)
        told.append(metrics)

    learner.learn(callback=note)
    last = told[-1]
    assert {f"env/{name}" for name in Metrics._fields} <= last.keys()
    # The reward is x too.
    assert last["env/total"] == pytest.approx(last["episodic_return"], rel=1e-9)
    assert last["env/left_out"] == pytest.approx(0.5 * last["episodic_length"])
    assert last["env/constant"] == pytest.approx(0.1)
    found = evaluate(learner, 30)
    assert found.metrics.keys() == set(Metrics._fields)
    assert found.metrics["total"] == pytest.approx(found.returns)
    assert found.metrics["left_out"] == pytest.approx(0.5 * found.lengths)


def test_a_resumed_training_tells_the_same(tmp_path: Path) -> None:
    def trained(timesteps: int) -> PPO:
        return PPO(make(num_envs=16), SETTINGS).learn(timesteps)

    trained(1024).save(tmp_path / "half.pt")
    ends: list[dict[str, float]] = []
    for learner in (PPO.load(tmp_path / "half.pt", device="cpu"), trained(1024)):
        learner.learn(1024, callback=ends.append)
    own = [{name: value for name, value in end.items() if name.startswith("env/")} for end in ends]
    assert own[: len(own) // 2] == own[len(own) // 2 :]


def test_runs_and_commands_show_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    learner = PPO(make(num_envs=16), SETTINGS)
    with Run(learner, tmp_path / "run", writers=[TensorBoard()]) as run:
        learner.learn(callback=run)
    events = event_accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert {f"env/{name}" for name in Metrics._fields} <= set(events.Tags()["scalars"])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["env/constant"] == pytest.approx(0.1)
    assert main(["eval", str(tmp_path / "run"), "--episodes", "7", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["deterministic"]
    assert told["metrics"]["left_out"] == pytest.approx(0.5 * told["mean_length"])
    assert main(["eval", str(tmp_path / "run"), "--episodes", "7"]) == 0
    assert "left_out" in capsys.readouterr().out
    assert main(["envs", REPORT.id]) == 0
    listed = dict(re.findall(r"^ (\w+) +(\w+) *$", capsys.readouterr().out, re.MULTILINE))
    kinds = {"total": "sum", "mean": "mean", "most": "max", "least": "min", "last": "last", "share": "mean"}
    assert listed == {**kinds, "left_out": "sum", "constant": "max"}
    assert main(["monitor", str(tmp_path / "run")]) == 0
    assert "total 0." in capsys.readouterr().out
