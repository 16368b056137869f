"""Contexts of PyTorch that are open around a call change nothing, and a call leaves PyTorch's generators alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_envs import everything, make_cpu
from learning_envs import Locate
from resumed import Noisy
from rollouts import Policy, make_network
from torch import Tensor

import operant_gpu
from operant_gpu import InvalidConfig, VecEnv
from operant_gpu.models import PPO, MLPPolicy, PPOConfig, evaluate


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "half": lambda: torch.autocast("cpu", torch.float16),
    "deterministic": deterministic,
    "anomaly": torch.autograd.detect_anomaly,
}
LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "fused": ("CartPole-v1", {"engine": "fused"}),
    "eager": ("CartPole-v1", {"engine": "eager"}),
    "gru": ("CartPole-v1", {"gru_size": 8}),
    "half": ("CartPole-v1", {"use_amp": True}),
    "rnd": ("MountainCar-v0", {"rnd_coef": 0.5, "normalize_rewards": True}),
}
SMALL: dict[str, Any] = {"n_steps": 8, "batch_size": 32, "n_epochs": 2, "hidden_sizes": (16,), "total_timesteps": 128}
every_context = pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
every_learner = pytest.mark.parametrize("learner", LEARNERS)
pytestmark = pytest.mark.filterwarnings("ignore:Anomaly Detection")


def made(learner: str) -> PPO:
    name, changes = LEARNERS[learner]
    return PPO(operant_gpu.make(name, 8, device="cpu"), PPOConfig(**{**SMALL, **changes}))


def weights(learner: PPO) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in learner.policy.parameters()])


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    """The weights of trainings outside of all contexts."""
    return {name: weights(made(name).learn().learn()) for name in LEARNERS}


@every_context
@every_learner
def test_training_is_the_same(
    learner: str, context: Callable[[], AbstractContextManager[Any]], expected: dict[str, Tensor]
) -> None:
    inside = made(learner)
    with context():
        inside.learn()
    assert torch.equal(weights(inside.learn()), expected[learner])
    with context():
        outside = made(learner)
    assert torch.equal(weights(outside.learn().learn()), expected[learner])


@pytest.mark.quick
@pytest.mark.parametrize("context", [CONTEXTS["inference"], CONTEXTS["autocast"]], ids=["inference", "autocast"])
@pytest.mark.parametrize("learner", ["fused", "eager"])
def test_loading_and_acting_are_the_same(
    learner: str, context: Callable[[], AbstractContextManager[Any]], expected: dict[str, Tensor], tmp_path: Path
) -> None:
    path, first = tmp_path / "half.pt", made(learner).learn()
    obs = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    actions, returns = first.predict(obs), evaluate(first, 3).returns
    with context():
        first.save(path)
        loaded = PPO.load(path, device="cpu")
        assert torch.equal(first.predict(obs), actions)
        assert (evaluate(first, 3).returns == returns).all()
    assert torch.equal(weights(loaded.learn()), expected[learner])


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "backend"), [("CartPole-v1", "numpy"), ("CartPole-v1", "numba"), ("CudaCartPole-v1", "cpp")]
)
def test_environments_made_in_inference_mode_are_of_use_outside(name: str, backend: str) -> None:
    def played(env: VecEnv, begins: AbstractContextManager[Any]) -> VecEnv:
        policy = Policy(make_network(env))
        with begins:
            env.reset(seed=1)
            env.rollout(2)
            env.rollout(2, policy)
        env.step(torch.zeros(5, dtype=torch.int64))
        env.rollout(2)
        env.rollout(2, policy)
        env.state[0][:] = 0.0
        env.observe()
        return env

    with torch.inference_mode():
        env = make_cpu(name, 5, backend)
    found = everything(played(env, torch.inference_mode()))
    reference = everything(played(make_cpu(name, 5, backend), contextlib.nullcontext()))
    assert all(torch.equal(found[key], tensor) for key, tensor in reference.items())


def test_a_policy_that_lay_flat_in_inference_mode_learns_on() -> None:
    learner = made("fused")
    with torch.inference_mode():
        learner.policy.network.actor.weight = torch.nn.Parameter(learner.policy.network.actor.weight.detach().clone())
        assert isinstance(learner.policy, MLPPolicy)
        learner.predict(torch.zeros(4))
        assert not learner.policy.flat.is_inference()


def test_a_network_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        network = Noisy()
    with pytest.raises(InvalidConfig, match=r"^network: Noisy was made in torch.inference_mode.*: make it outside$"):
        PPO(operant_gpu.make("CartPole-v1", 8, device="cpu"), PPOConfig(**SMALL), network=network)


@pytest.mark.parametrize("changes", [{}, {"gru_size": 4}, {"rnd_coef": 0.5}, {"cnn_channels": (4,)}], ids=str)
def test_making_saving_and_loading_draw_nothing(changes: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    env = Locate(8, device="cpu") if "cnn_channels" in changes else operant_gpu.make("CartPole-v1", 8, device="cpu")
    learner = PPO(env, PPOConfig(**SMALL, **changes))
    learner.save(tmp_path / "learner.pt")
    PPO.load(tmp_path / "learner.pt", env, device="cpu")
    if not changes:
        network = Noisy()
        torch.set_rng_state(before)
        PPO(env, PPOConfig(**SMALL), network=network)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("network", [None, Noisy], ids=["own", "noisy"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_a_callback_may_ask_for_actions(network: Any, deterministic: bool) -> None:
    def trained(asks: bool) -> Tensor:
        torch.manual_seed(7)
        settings = PPOConfig(**SMALL, engine="eager")
        learner = PPO(operant_gpu.make("CartPole-v1", 8, device="cpu"), settings, network=network and network())

        def ask(metrics: dict[str, float]) -> None:
            if asks:
                learner.predict(torch.zeros(3, 4), deterministic=deterministic)

        return weights(learner.learn(callback=ask))

    assert torch.equal(trained(True), trained(False))


def test_drawn_actions_differ_from_call_to_call() -> None:
    learner, obs = made("eager"), torch.zeros(64, 4)
    assert not torch.equal(learner.predict(obs, deterministic=False), learner.predict(obs, deterministic=False))
