"""The fused gradient steps on a GPU: against autograd in float64, and the same at every call and replay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpu_checks import no_synchronisation
from gymnasium import spaces

pytest.importorskip("triton", reason="the fused learner needs Triton")

from updates import BOX, CASES, DISCRETE, Fused, assert_same_iteration, by_autograd, case, gradient_errors

import operant_gpu
from operant_gpu.backends import triton_update
from operant_gpu.models import PPO, PPOConfig

pytestmark = pytest.mark.gpu
every_case = pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())


@every_case
@pytest.mark.parametrize(("precision", "bound"), [("ieee", 1e-5), ("tf32", 1e-3)])
def test_gradients_are_those_of_autograd(options: dict[str, Any], precision: str, bound: float) -> None:
    one_step = {"parts": 1, "n_epochs": 1, "precision": precision, "device": "cuda"}
    given = case(**{"actions": DISCRETE, **options, **one_step})
    fused = Fused(given, triton_update)
    assert max(gradient_errors(fused.gradient_of_first_step(), by_autograd(given))) < bound


@every_case
def test_an_iteration_is_that_of_the_eager_loop(options: dict[str, Any]) -> None:
    given = case(**{"actions": DISCRETE, **options, "device": "cuda"})
    fused, reference = Fused(given, triton_update), by_autograd(given)
    assert_same_iteration(fused, fused.run(), reference)


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
@pytest.mark.parametrize("actions", [DISCRETE, BOX], ids=["discrete", "box"])
def test_equal_seeds_give_equal_bits(actions: spaces.Space[Any], precision: str) -> None:
    runs = []
    for _ in range(2):
        # Many programs, each with several tiles.
        given = case(actions, size=(64, 1024), hidden_sizes=(64, 64), precision=precision, device="cuda")
        Fused(given, triton_update).run()
        runs.append(given.policy.flat.clone())
    assert torch.equal(*runs)


def learned(env_id: str, **changes: Any) -> PPO:
    config = PPOConfig.for_env(env_id, **{"n_steps": 16, "batch_size": 512, "engine": "fused", **changes})
    return PPO(operant_gpu.make(env_id, 128, device="cuda"), config)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_replays_of_the_graph_learn_what_launches_learn(env_id: str) -> None:
    replayed, launched = learned(env_id), learned(env_id)
    steps = 6 * 16 * 128
    replayed.learn(steps)
    launched._begin()
    launched._stages[0].run_eagerly()
    launched.learn(steps)
    assert replayed._stages[0].captured
    assert not launched._stages[0].captured
    assert (replayed.engine, launched.engine) == ("fused", "fused")
    assert torch.equal(replayed.policy.flat, launched.policy.flat)


def test_nothing_waits_for_the_device_within_an_iteration() -> None:
    learner = learned("CartPole-v1", log_interval=1_000)
    learner.learn(4 * 16 * 128)
    with no_synchronisation():
        for _ in range(3):
            learner._iterate()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_it_learns(env_id: str) -> None:
    history: list[dict[str, float]] = []
    learner = PPO(operant_gpu.make(env_id, 128, device="cuda"), PPOConfig.for_env(env_id, engine="fused"))
    learner.learn(callback=history.append)
    assert history[-1]["episodic_return"] > {"CartPole-v1": 300.0, "Pendulum-v1": -400.0}[env_id]
