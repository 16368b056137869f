"""That PPO learns, and learns what each part of it is for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from learning_envs import Forbidden, Forever, Locate, Recall

import operant_gpu
from operant_gpu.models import PPO, PPOConfig

every_engine = pytest.mark.parametrize("engine", ["fused", "eager"])


@every_engine
def test_values_of_a_truncated_task_converge_to_the_infinite_horizon(engine: str) -> None:
    env = Forever(num_envs=16, device="cpu")
    config = PPOConfig(gamma=0.9, n_steps=16, batch_size=64, lr=3e-3, hidden_sizes=(16,), vf_coef=1.0)
    learner = PPO(env, replace(config, engine=engine)).learn(40_000)
    # With truncation as an end, five steps would be worth 1 + 0.9 + ... = 4.1 at most.
    assert learner.policy.value(torch.zeros(1, 1), None, None).item() == pytest.approx(1 / (1 - 0.9), rel=0.03)


def solve(id: str, seed: int, goal: float, **changes: object) -> float:
    """Train with the preset until solved; return the best mean return of a hundred episodes."""
    config = PPOConfig.for_env(id, seed=seed, **changes)
    best = [float("-inf")]

    def until_solved(metrics: dict[str, float]) -> bool:
        if metrics["episodes"] >= 100:
            best[0] = max(best[0], metrics["episodic_return"])
        return best[0] < goal

    PPO(operant_gpu.make(id, config.num_envs, device="cpu"), config).learn(callback=until_solved)
    return best[0]


@pytest.mark.quick
@every_engine
@pytest.mark.parametrize("seed", range(2))
def test_cartpole_is_solved(seed: int, engine: str) -> None:
    assert solve("CartPole-v1", seed, 475, engine=engine) >= 475


@every_engine
@pytest.mark.parametrize(
    ("id", "goal"),
    [("Acrobot-v1", -100), ("MountainCarContinuous-v0", 90), ("Pendulum-v1", -200), ("GridWalk-v0", 0.896)],
)
def test_presets_solve_their_environments(id: str, goal: float, engine: str) -> None:
    assert solve(id, 0, goal, engine=engine) >= goal


SHARED = {"shared_trunk": True, "activation": "relu"}


@pytest.mark.parametrize("changes", [{"use_amp": True}, SHARED | {"engine": "fused"}, SHARED | {"engine": "eager"}])
def test_variants_solve_cartpole(changes: dict[str, object]) -> None:
    assert solve("CartPole-v1", 0, 400, **changes) >= 400


def test_memory_solves_what_needs_it() -> None:
    """The cue is shown at the first step and asked for at the last: guessing gives 0.5."""
    reached = {}
    for gru_size in (0, 16):
        last: dict[str, float] = {}
        config = PPOConfig(
            n_steps=16, batch_size=256, gru_size=gru_size, shared_trunk=True, hidden_sizes=(16,), lr=5e-3
        )
        PPO(Recall(64, device="cpu"), config).learn(25_000, last.update)
        reached[gru_size] = last["episodic_return"]
    assert reached[0] < 0.65
    assert reached[16] > 0.95


@every_engine
def test_illegal_actions_are_never_taken_however_well_they_pay(engine: str) -> None:
    env = Forbidden(32, device="cpu")
    PPO(env, PPOConfig(n_steps=16, batch_size=128, hidden_sizes=(16,), engine=engine)).learn(20_000)
    assert env.state.illegal.sum() == 0


def test_images_and_several_choices_are_learned() -> None:
    last: dict[str, float] = {}
    config = PPOConfig(n_steps=8, batch_size=128, cnn_channels=(8,), hidden_sizes=(32,), gamma=0.5)
    PPO(Locate(64, device="cpu"), config).learn(30_000, last.update)
    # Ten steps an episode; guessing hits a fifth of them.
    assert last["episodic_return"] > 9
