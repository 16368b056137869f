"""Runs on a GPU: the clock inside graphs, resuming, and what the driver tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from contract_envs import assert_same_tensors
from gpu_checks import needs

import operant_gpu
from operant_gpu.models import PPO, PPOConfig, evaluate, export
from operant_gpu.monitor import Run, RunReader

pytest.importorskip("psutil")
pytestmark = pytest.mark.gpu

every_engine = pytest.mark.parametrize(
    "engine", ["fused", pytest.param("graph", marks=needs("graphs of PyTorch")), "eager"]
)
ITERATION = 8 * 64


def make(engine: str) -> PPO:
    config = PPOConfig(n_steps=8, batch_size=128, n_epochs=2, hidden_sizes=(32,), engine=engine)
    return PPO(operant_gpu.make("CartPole-v1", 64, device="cuda"), config)


@every_engine
def test_the_clock_runs_inside_captured_iterations(engine: str) -> None:
    seen: list[dict[str, float]] = []
    learner = make(engine).learn(ITERATION * 6, seen.append)
    assert learner.engine == engine
    for metrics in seen[2:]:
        # What is measured on the device is a part of what the host has seen pass, or little more.
        device = ITERATION / metrics["env_sps"] + ITERATION / metrics["learner_sps"]
        host = ITERATION / metrics["sps"]
        assert 0 < device < 1.5 * host, f"{device} s an iteration by the device's clock, {host} s by the host's"


@every_engine
def test_a_run_goes_on_in_a_new_learner_as_if_it_had_not_stopped(engine: str, tmp_path: Path) -> None:
    learner = make(engine)
    with Run(learner, tmp_path) as run:
        learner.learn(ITERATION * 8, lambda metrics: run(metrics) and metrics["iterations"] < 4)
    resumed = PPO.load(tmp_path, device="cuda").resume()
    whole = make(engine).learn(ITERATION * 8)
    assert resumed.iterations == whole.iterations == 8
    assert_same_tensors(resumed.policy.state_dict(), whole.policy.state_dict(), ulps=10_000, atol=1e-4)


def test_a_checkpoint_of_a_gpu_goes_on_on_a_cpu(tmp_path: Path) -> None:
    learner = make("auto")
    learner.keep_checkpoints(tmp_path)
    learner.learn(ITERATION * 4, lambda metrics: metrics["iterations"] < 2)
    moved = PPO.load(tmp_path, device="cpu")
    assert moved.env.device.type == "cpu"
    assert moved.resume().iterations == 4


@needs("driver")
def test_the_driver_tells_how_busy_the_gpu_is(tmp_path: Path) -> None:
    pytest.importorskip("pynvml")
    learner = make("auto")
    with Run(learner, tmp_path) as run:
        learner.learn(ITERATION * 4, run)
    latest: Any = RunReader(tmp_path).refresh().latest
    assert 0 <= latest["gpu_percent"] <= 100
    assert latest["gpu_memory_gib"] > 0.1
    assert 10 < latest["gpu_temperature"] < 110


def test_a_policy_on_a_gpu_is_judged_and_exported(tmp_path: Path) -> None:
    learner = make("auto").learn(ITERATION * 4)
    assert evaluate(learner, 32).mean > 5
    assert export(learner, tmp_path / "policy.pt2").error < 1e-4
