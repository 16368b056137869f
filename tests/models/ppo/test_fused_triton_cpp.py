"""The fused engine inside PPO, in C++ and in Triton's interpreter: it does what the eager one does, with all that is
around it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from here import HAS_TRITON
from learning_envs import Forbidden
from resumed import LINES
from torch import Tensor, nn
from updates import assert_learns_as_eager

import operant_gpu
from operant_gpu import TrainingError
from operant_gpu.backends.cpp import learner as cpp_learner
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.vector import VecEnv

STEPS, ENVS = 8, 12
ON: dict[str, Any] = {"device": "cpu", "backend": "triton" if HAS_TRITON else "auto"}
ENVIRONMENTS = {
    "CartPole": lambda: operant_gpu.make("CartPole-v1", ENVS, max_episode_steps=6, **ON),
    "Pendulum": lambda: operant_gpu.make("Pendulum-v1", ENVS, max_episode_steps=5, **ON),
    "masks": lambda: Forbidden(ENVS, **ON),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "normalized": {"normalize_observations": True, "normalize_rewards": True},
    "curious": {"rnd_coef": 0.5},
    "shared": {"shared_trunk": True, "vf_clip_eps": 0.2, "ent_coef": 0.01},
    # Beyond what would stop the iteration on one side of a rounding.
    "lines": {**LINES, "target_kl": (1.0, 0.5)},
}
# The interpreter has those that are wired in a way of their own; tests/backends/test_update_kernels.py has the kernels.
WIRED = [("CartPole", "lines"), ("masks", "plain"), ("CartPole", "normalized")]
ALL = [*((environment, "plain") for environment in ENVIRONMENTS), *(("CartPole", name) for name in VARIANTS)]
every_variant = pytest.mark.parametrize(
    ("environment", "variant"),
    [
        pytest.param(*pair, marks=[pytest.mark.quick] * (pair == WIRED[0]))
        for pair in (WIRED if HAS_TRITON else dict.fromkeys(ALL))
    ],
)


def small(**changes: Any) -> PPOConfig:
    options = {"n_steps": STEPS, "batch_size": 40, "n_epochs": 2, "hidden_sizes": (16,), "engine": "fused", "seed": 4}
    return PPOConfig(**{**options, **changes})


def learned(env: VecEnv, iterations: int, **changes: Any) -> tuple[PPO, list[dict[str, float]]]:
    history: list[dict[str, float]] = []
    learner = PPO(env, small(**changes)).learn(iterations * STEPS * ENVS, history.append)
    return learner, history


@every_variant
def test_an_iteration_is_that_of_the_eager_loop(
    environment: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_learns_as_eager(ENVIRONMENTS[environment], small(**VARIANTS[variant]), monkeypatch)


@pytest.mark.parametrize("environment", ["CartPole"] if HAS_TRITON else ["CartPole", "Pendulum"])
def test_episodes_are_counted_as_the_environments_count_them(environment: str) -> None:
    env = ENVIRONMENTS[environment]()
    learner, history = learned(env, 3)
    logs = env.get_logs()
    assert learner.engine == "fused"
    assert "fused kernels" in learner.engine_reason
    assert history[-1]["episodes"] == logs["episode_count"] > 0
    assert history[-1]["episodic_return"] == pytest.approx(logs["mean_reward"], rel=1e-5)
    assert history[-1]["episodic_length"] == pytest.approx(logs["mean_length"], rel=1e-5)
    measured = {name: history[-1][name] for name in ("policy_loss", "value_loss", "entropy", "grad_norm")}
    assert all(map(math.isfinite, measured.values())), measured


def test_collecting_observes_nothing_beside_the_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, _ = learned(ENVIRONMENTS["CartPole"](), 1)
    with monkeypatch.context() as patch:
        # On a GPU it would be a launch more.
        patch.delattr(type(learner.env), "observe")
        learner._loop.update.collect(learner._loop.rollout)
    assert torch.equal(learner._loop.rollout.obs[-1], learner.env.observe())


def test_engines_take_each_others_checkpoints(tmp_path: Path) -> None:
    learner, _ = learned(ENVIRONMENTS["CartPole"](), 2)
    for engine, other in (("fused", "eager"), ("eager", "fused")):
        learner.save(tmp_path / engine)
        loaded = PPO.load(tmp_path / engine, ENVIRONMENTS["CartPole"](), config=small(engine=other))
        assert loaded.engine == other
        assert torch.equal(loaded.policy.flat, learner.policy.flat)
        assert torch.equal(loaded.optimizer.means, learner.optimizer.means)
        learner = loaded.learn(STEPS * ENVS)
        assert learner.optimizer.count == 2 * 2 * learner.iterations


def test_what_was_frozen_before_learning_stays() -> None:
    learner = PPO(ENVIRONMENTS["CartPole"](), small())
    frozen = learner.policy.network.critic.weight.requires_grad_(False)
    before = frozen.clone(), learner.policy.flat.clone()
    learner.learn(STEPS * ENVS)
    assert torch.equal(frozen, before[0])
    assert not torch.equal(learner.policy.flat, before[1])


def test_the_first_number_that_is_not_finite_is_reported() -> None:
    env = ENVIRONMENTS["CartPole"]()
    learner = PPO(env, small())
    learner.learn(STEPS * ENVS)
    before = learner.policy.flat.clone()
    env.state.x[3] = math.nan
    with pytest.raises(TrainingError, match="observations of environment 3 at step 0 of iteration 2"):
        learner.learn(2 * STEPS * ENVS)
    assert torch.equal(learner.policy.flat, before)


def test_numbers_that_are_written_take_effect_at_once() -> None:
    learner, _ = learned(ENVIRONMENTS["CartPole"](), 1)
    steps, before = learner._loop.update._steps, learner.policy.flat.clone()
    learner.hyperparameters.target_kl = 1e-9
    # Its first gradient step moves the policy, from where it had been when it acted.
    learner.learn(STEPS * ENVS)
    assert learner.optimizer.count == 4 + 1
    learner.hyperparameters.lr, learner.hyperparameters.target_kl = 1e-30, None
    moved = learner.policy.flat.clone()
    learner.learn(STEPS * ENVS)
    assert learner.optimizer.count == 4 + 1 + 4
    assert learner._loop.update._steps is steps
    assert torch.equal(learner.policy.flat, moved)
    assert not torch.equal(moved, before)


def test_the_iteration_stops_when_the_policy_has_moved_too_far() -> None:
    learner, _ = learned(ENVIRONMENTS["CartPole"](), 1, target_kl=1e-5, lr=0.1)
    assert 0 < learner.optimizer.count < 4


class Own(nn.Module):
    """A network of the caller's, for CartPole."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        outputs, values = self.layer(obs).split([2, 1], -1)
        return outputs, values.squeeze(-1)


def test_other_networks_are_not_fused_and_it_is_said_why() -> None:
    env = ENVIRONMENTS["CartPole"]()
    learner = PPO(env, small(engine="auto", hidden_sizes=(100,)))
    if HAS_TRITON:
        limit = "its kernels hold up to 64 inputs, units and outputs, the network has 100"
        assert (learner.engine, learner.engine_reason) == ("eager", f"not fused: {limit}")
    else:
        assert learner.engine == "fused"
    with pytest.raises(
        operant_gpu.InvalidConfig, match="'fused' cannot be had here: gru_size: an MLPPolicy has no memory"
    ):
        PPO(env, small(gru_size=8))
    with pytest.raises(operant_gpu.InvalidConfig, match="here: its kernels are not for networks of the caller's own"):
        PPO(env, small(), network=Own())
    with pytest.raises(operant_gpu.InvalidConfig, match="compile=True asks for PyTorch's kernels"):
        PPO(env, small(compile=True))


@pytest.mark.skipif(HAS_TRITON, reason="of the C++ alone")
def test_without_a_compiler_it_is_not_fused_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    cpp_learner.library.cache_clear()
    with caplog.at_level("INFO", "operant_gpu"):
        learner = PPO(ENVIRONMENTS["CartPole"](), small(engine="auto")).learn(STEPS * ENVS)
    assert learner.engine == "eager"
    # A compiler can be installed, so it is said to all.
    assert learner.slow_paths[0] in caplog.messages
    assert "not fused: a C++ compiler is needed, but CXX names 'no-such-compiler'" in learner.engine_reason
    assert "apt install g++" in learner.engine_reason
    with pytest.raises(operant_gpu.InvalidConfig, match="'fused' cannot be had here: a C"):
        PPO(ENVIRONMENTS["CartPole"](), small())
