"""The fused gradient steps on a GPU: against autograd in float64, and the same at every call and replay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract_envs import assert_same_tensors
from gpu_checks import needs
from gymnasium import spaces
from learning_envs import Forbidden

pytest.importorskip("triton", reason="the fused learner needs Triton")

from updates import (
    BOX,
    CASES,
    DISCRETE,
    Fused,
    assert_gradients_near,
    assert_learns_as_eager,
    assert_same_iteration,
    by_autograd,
    case,
)

import operant_gpu
from operant_gpu.backends.triton import update as triton_update
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.vector import VecEnv

pytestmark = pytest.mark.gpu
every_case = pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())


@every_case
@pytest.mark.parametrize(("precision", "bound"), [("ieee", 1e-5), ("tf32", 1e-3)])
def test_gradients_are_those_of_autograd(options: dict[str, Any], precision: str, bound: float) -> None:
    one_step = {"minibatches": 1, "n_epochs": 1, "precision": precision, "device": "cuda"}
    given = case(**{"actions": DISCRETE, **options, **one_step})
    fused = Fused(given, triton_update)
    assert_gradients_near(given, fused.gradient_of_first_step(), by_autograd(given), bound)


@every_case
def test_an_iteration_is_that_of_the_eager_loop(options: dict[str, Any]) -> None:
    given = case(**{"actions": DISCRETE, **options, "device": "cuda"})
    fused, reference = Fused(given, triton_update), by_autograd(given)
    assert_same_iteration(fused, fused.run(), reference)


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
@pytest.mark.parametrize("actions", [DISCRETE, BOX], ids=["discrete", "box"])
def test_equal_seeds_give_equal_bits(actions: spaces.Space[Any], precision: str) -> None:
    runs = []
    # As many programs as the device holds, each with several tiles.
    size = torch.cuda.get_device_properties("cuda").multi_processor_count, 341
    for _ in range(2):
        given = case(actions, size=size, hidden_sizes=(64, 64), precision=precision, device="cuda")
        Fused(given, triton_update).run()
        runs.append({"parameters": given.policy.flat.clone()})
    assert_same_tensors(*runs)


@pytest.mark.parametrize("environment", ["CartPole-v1", "Pendulum-v1", "masks"])
def test_a_learner_does_what_the_eager_loop_does(environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> VecEnv:
        if environment == "masks":
            return Forbidden(64, device="cuda")
        return operant_gpu.make(environment, 64, device="cuda", max_episode_steps=6)

    config = PPOConfig(n_steps=8, batch_size=128, n_epochs=2, hidden_sizes=(16,), engine="fused", seed=4)
    assert assert_learns_as_eager(make, config, monkeypatch).engine == "fused"


def learned(env_id: str) -> PPO:
    config = PPOConfig.for_env(env_id, n_steps=8, batch_size=256, n_epochs=2, engine="fused")
    return PPO(operant_gpu.make(env_id, 64, device="cuda"), config)


@needs("graphs of PyTorch")
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_replays_of_the_graph_learn_what_launches_learn(env_id: str) -> None:
    replayed, launched = learned(env_id), learned(env_id)
    steps = 4 * 8 * 64
    replayed.learn(steps)
    launched._begin()
    launched._loop.stages[0].run_eagerly()
    launched.learn(steps)
    assert replayed._loop.stages[0].captured
    assert not launched._loop.stages[0].captured
    assert (replayed.engine, launched.engine) == ("fused", "fused")
    assert_same_tensors({"parameters": replayed.policy.flat}, {"parameters": launched.policy.flat})
