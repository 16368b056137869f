"""Hyperparameters that change while a policy learns: on lines, and as callbacks write them, on every engine."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_envs import assert_same_tensors
from resumed import LINES, digest

import operant_gpu
from operant_gpu import InvalidConfig
from operant_gpu.hyperparameters import Hyperparameters
from operant_gpu.models import PPO, RND, PPOConfig
from operant_gpu.models.ppo.schedules import Schedules

pytestmark = pytest.mark.quick

ENVS, STEPS = 16, 8
SAMPLES = ENVS * STEPS
CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"n_steps": STEPS, "batch_size": 32, "n_epochs": 2, "hidden_sizes": (8,), "seed": 3}
# The number that each has after two of four iterations.
HALF_WAY = {name: (first + last) / 2 for name, (first, last) in LINES.items()}
every_engine = pytest.mark.parametrize("engine", ["eager", "fused"])
every_environment = pytest.mark.parametrize("environment", ["CartPole-v1", "Pendulum-v1"])


def make(environment: str, engine: str, **changes: Any) -> PPO:
    env = operant_gpu.make(environment, ENVS, device="cpu", max_episode_steps=6)
    return PPO(env, PPOConfig(**{**SMALL, "engine": engine, "normalize_rewards": True, **changes}))


def numbers_of(learner: PPO) -> dict[str, float | None]:
    return {name: getattr(learner.hyperparameters, name) for name in Hyperparameters._fields}


def future(learner: PPO) -> dict[str, torch.Tensor]:
    """Return what the optimizer and the policy hold."""
    weights = torch.cat([one.detach().flatten() for one in learner.policy.parameters()])
    return {"weights": weights, "means": learner.optimizer.means.clone()}


@every_environment
@every_engine
def test_a_line_is_the_numbers_that_it_goes_through(engine: str, environment: str) -> None:
    """A training on lines, beside one iteration at a time by learners that were made with each iteration's numbers."""
    learner = make(environment, engine, **LINES)
    assert learner.engine == engine
    states = [learner.state_dict()]
    learner.learn(4 * SAMPLES, lambda metrics: states.append(learner.state_dict()))
    for iteration, (before, after) in enumerate(itertools.pairwise(states)):
        share = iteration / 4
        fixed = {name: first + (last - first) * share for name, (first, last) in LINES.items()}
        other = make(environment, engine, **fixed)
        if iteration:
            other.load_state_dict(before)
        other.learn(SAMPLES)
        assert_same_tensors(dict(other.state_dict()["policy"]), dict(after["policy"]))


@every_environment
@every_engine
def test_what_a_callback_writes_is_as_if_the_learner_had_been_made_with_it(engine: str, environment: str) -> None:
    learner = make(environment, engine, rnd_coef=0.5)

    def write(metrics: dict[str, float]) -> None:
        if metrics["iterations"] == 2:
            for name, value in HALF_WAY.items():
                setattr(learner.hyperparameters, name, value)
            assert numbers_of(learner) == HALF_WAY

    before: dict[str, Any] = {}

    def keep(metrics: dict[str, float]) -> None:
        write(metrics)
        if metrics["iterations"] == 2:
            before.update(learner.state_dict())

    learner.learn(4 * SAMPLES, keep)
    other = make(environment, engine, **HALF_WAY)
    other.load_state_dict(before)
    other.resume()
    assert_same_tensors(future(other), future(learner))
    assert other.config == learner.config
    unwritten = make(environment, engine, rnd_coef=0.5).learn(4 * SAMPLES)
    assert not torch.equal(future(unwritten)["weights"], future(learner)["weights"])


@pytest.mark.parametrize("name", Hyperparameters._fields)
@every_engine
def test_each_is_read_at_each_iteration(engine: str, name: str) -> None:
    found = []
    for value in (None, LINES[name][1] / 3):
        learner = make("CartPole-v1", engine, rnd_coef=0.5, ent_coef=0.01, lr=1e-2)
        learner.learn(SAMPLES)
        if value is not None:
            setattr(learner.hyperparameters, name, value)
        learner.learn(2 * SAMPLES)
        found.append(future(learner)["weights"])
    assert not torch.equal(*found)


@every_engine
def test_nothing_is_made_anew_for_what_is_written(engine: str) -> None:
    learner = make("CartPole-v1", engine, rnd_coef=0.5)
    learner.learn(SAMPLES)
    made = [*learner._loop.stages, learner._loop.update, getattr(learner._loop.update, "_steps", None)]
    memory = learner.hyperparameters.values.data_ptr()
    for name, value in HALF_WAY.items():
        setattr(learner.hyperparameters, name, value)
    learner.learn(SAMPLES)
    now = [*learner._loop.stages, learner._loop.update, getattr(learner._loop.update, "_steps", None)]
    assert all(one is other for one, other in zip(made, now, strict=True))
    assert learner.hyperparameters.values.data_ptr() == memory


@every_engine
def test_what_was_written_goes_on_after_a_checkpoint(engine: str, tmp_path: Path) -> None:
    """Stopped and resumed: the bits, and the numbers, of a training that never was."""

    def train(learner: PPO, go: Callable[..., Any], history: list[dict[str, float]]) -> None:
        def write(metrics: dict[str, float]) -> bool:
            history.append(metrics)
            if metrics["iterations"] == 3:
                learner.hyperparameters.lr = (5e-3, 1e-3)
                learner.hyperparameters.ent_coef = 0.0
                learner.hyperparameters.target_kl = 0.02
                learner.hyperparameters.vf_clip_eps = None
                learner.hyperparameters.rnd_coef = 0
            return metrics["iterations"] != stop

        go(callback=write)

    settings = {**LINES, "total_timesteps": 10 * SAMPLES}
    stop, whole, parts = 0, list[dict[str, float]](), list[dict[str, float]]()
    never = make("CartPole-v1", engine, **settings)
    train(never, never.learn, whole)
    stop, halted = 5, make("CartPole-v1", engine, **settings)
    train(halted, halted.learn, parts)
    halted.save(tmp_path / "half.pt")
    loaded = PPO.load(tmp_path / "half.pt")
    assert numbers_of(loaded) == numbers_of(halted)
    assert (loaded.hyperparameters.rnd_coef, loaded.hyperparameters.vf_clip_eps) == (0.0, None)
    stop = 0
    train(loaded, loaded.resume, parts)
    assert digest(loaded, parts) == digest(never, whole)
    assert replace(loaded.config, engine=engine) == never.config


def test_a_line_falls_over_each_training_and_goes_on_from_where_it_was() -> None:
    learner, seen = make("CartPole-v1", "fused", ent_coef=(0.2, 0.1)), []

    def note(metrics: dict[str, float]) -> bool:
        seen.append(learner.hyperparameters.ent_coef)
        return len(seen) != 2

    assert learner.hyperparameters.ent_coef == 0.2
    learner.learn(4 * SAMPLES, note)
    twin = copy.deepcopy(learner)
    assert twin.hyperparameters.ent_coef == learner.hyperparameters.ent_coef
    learner.resume(callback=note)
    learner.learn(2 * SAMPLES, note)
    # Reading gives the number of the iteration that comes, and after the last one its own.
    assert seen == pytest.approx([0.175, 0.15, 0.125, 0.125, 0.15, 0.15])


def test_a_training_that_is_rounded_up_goes_beyond_no_end() -> None:
    """Three iterations for two and a half: a callback may halve what it reads, also in its last call."""
    learner, seen = make("CartPole-v1", "fused", lr=(1e-2, 0.0)), list[float]()

    def halve(metrics: dict[str, float]) -> None:
        seen.append(metrics["lr"])
        if len(seen) == 3:
            learner.hyperparameters.lr = learner.hyperparameters.lr / 2

    learner.learn(5 * SAMPLES // 2, halve)
    assert seen == pytest.approx([1e-2, 6e-3, 2e-3])
    assert learner.hyperparameters.lr == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ent_coef", -0.1, "expected a number of at least 0, got -0.1"),
        ("ent_coef", None, "expected a number, got None"),
        ("ent_coef", "fast", r"expected a number, 'linear' or \(start, end\), got 'fast'"),
        ("ent_coef", torch.ones(2), "expected a number, got tensor"),
        ("lr", 0.0, "expected a number above 0, got 0.0"),
        (
            "gamma",
            (0.9, 1.1),
            r"expected a start and an end, which may be 0, that are a number in \[0, 1\], got \(0.9, 1.1\)",
        ),
        ("ent_coeff", 0.0, r"unknown hyperparameter; did you mean 'ent_coef'"),
        ("entropy_coef", 0.0, r"unknown hyperparameter; did you mean 'ent_coef'"),
        ("n_steps", 4, r"it cannot change while a policy learns: make another learner, with PPOConfig\(n_steps=...\)"),
        ("config", PPOConfig(), "unknown hyperparameter"),
        ("values", 0.0, "unknown hyperparameter"),
        ("rnd_coef", 0.5, r"this learner has no curiosity to weigh: make one with PPOConfig\(rnd_coef=...\)"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(name: str, value: object, message: str) -> None:
    learner = make("CartPole-v1", "eager")
    before, values = learner.config, numbers_of(learner)
    with pytest.raises(InvalidConfig, match=f"^{name}: {message}"):
        setattr(learner.hyperparameters, name, value)
    assert (learner.config, numbers_of(learner)) == (before, values)


@pytest.mark.parametrize("name", ["lr", "ent_coef", "config", "hyperparameters"])
def test_a_setting_that_would_be_ignored_is_refused(name: str) -> None:
    learner = make("CartPole-v1", "eager")
    with pytest.raises(InvalidConfig, match=rf"^{name}: a learner's settings stay; write one such as learner.hyper"):
        setattr(learner, name, 0.5)


def test_what_is_not_there_cannot_be_read() -> None:
    learner = make("CartPole-v1", "eager")
    with pytest.raises(AttributeError, match=r"^ent_coeff: unknown hyperparameter; did you mean 'ent_coef'"):
        _ = learner.hyperparameters.ent_coeff
    assert set(Hyperparameters._fields) <= set(dir(learner.hyperparameters))
    assert "ent_coef=0.0" in repr(learner.hyperparameters)


@pytest.mark.parametrize("value", [None, False, (), torch.zeros(2)])
def test_a_weight_of_curiosity_is_a_number(value: object) -> None:
    learner = make("CartPole-v1", "eager", rnd_coef=0.5)
    with pytest.raises(InvalidConfig, match=r"^rnd_coef: expected a number"):
        learner.hyperparameters.rnd_coef = value
    assert learner.config.rnd_coef == 0.5


def test_curiosity_without_weight_is_not_none(tmp_path: Path) -> None:
    learner = make("CartPole-v1", "eager", rnd_coef=0.5).learn(SAMPLES)
    learner.hyperparameters.rnd_coef = 0
    learner.save(tmp_path / "x.pt")
    assert PPO.load(tmp_path / "x.pt").hyperparameters.rnd_coef == 0.0
    with pytest.raises(InvalidConfig, match=r"got 0.0: \(0.0, 0.0\) gives curiosity no weight, and 0.0 means none"):
        PPO.load(tmp_path / "x.pt", config=replace(learner.config, rnd_coef=0.0))


def test_no_limit_is_written_and_read_as_none() -> None:
    schedules = Schedules(PPOConfig(target_kl=0.1), {}, 1, CPU)
    schedules.begin(4)
    assert schedules.now.vf_clip_eps == math.inf
    schedules.vf_clip_eps, schedules.target_kl = (0.4, 0.2), None
    for expected in (0.4, 0.35, 0.3, 0.25):
        assert (schedules.vf_clip_eps, schedules.target_kl) == (pytest.approx(expected), None)
        schedules.advance()
        assert float(schedules.now.vf_clip_eps) == pytest.approx(expected)
        assert schedules.now.target_kl == math.inf


def test_numbers_are_kept_as_exactly_as_they_were_written() -> None:
    """In float64, though kernels read float32."""
    learner = make("CartPole-v1", "fused", lr=3e-4)
    rates: list[float] = []
    learner.learn(SAMPLES, lambda metrics: rates.append(metrics["lr"]))
    assert rates == [3e-4]
    learner.hyperparameters.gamma = 0.999
    assert learner.hyperparameters.gamma == 0.999


def test_a_curiosity_of_ones_own_has_numbers_of_its_own() -> None:
    env = operant_gpu.make("CartPole-v1", ENVS, device="cpu")
    with pytest.raises(InvalidConfig, match=r"^coef: expected a number, got \(1.0, 0.5\): only a learner's may change"):
        RND((4,), ENVS, coef=(1.0, 0.5))
    learner = PPO(env, PPOConfig(**SMALL), intrinsic=RND((4,), ENVS, gamma=0.9, coef=0.3))
    learner.learn(SAMPLES)
    assert (learner.intrinsic._coef, learner.intrinsic.scale.gamma) == (0.3, 0.9)
