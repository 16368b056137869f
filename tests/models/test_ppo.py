"""PPO: its estimates against numbers worked out by hand, its semantics, and that it learns."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

import operant_gpu
from operant_gpu import Environment, InvalidConfig, TrainingError
from operant_gpu.lang import jit, tl
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.models.policy import ActorCritic
from operant_gpu.models.rollout import Batch, generalized_advantages

SMALL = PPOConfig(n_steps=8, batch_size=32, n_epochs=2, hidden_sizes=(16,))


class State(NamedTuple):
    level: tl.float32


@jit
def reset(rng, params):
    return State(0.0)


@jit
def step(state, action, rng, params):
    return state, 1.0, False


@jit
def observe(state, params):
    return (state.level,)


# Rewards 1 forever: worth 1 / (1 - gamma), which a critic finds only if truncation is not an end.
Forever = Environment(
    id="Forever-v0",
    state=State,
    reset=reset,
    step=step,
    observe=observe,
    observation_space=spaces.Box(-1.0, 1.0, (1,)),
    action_space=spaces.Discrete(2),
    max_episode_steps=5,
)


def column(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None]


def flags(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.bool)[:, None]


def test_advantages_worked_out_by_hand() -> None:
    # gamma 0.5, lambda 0.5. Step 1 terminates, step 3 is truncated.
    # deltas: 1 + 0.5*4 - 2 = 1;  2 + 0 - 4 = -2;  3 + 0.5*8 - 6 = 1;  4 + 0.5*10 - 8 = 1;  5 + 0.5*2 - 1 = 5
    # advantages, from the end: 5;  1 (cut);  1 + 0.25*1 = 1.25;  -2 (cut);  1 + 0.25*-2 = 0.5
    advantages = generalized_advantages(
        rewards=column(1, 2, 3, 4, 5),
        values=column(2, 4, 6, 8, 1),
        next_values=column(4, 6, 8, 10, 2),
        terminated=flags(0, 1, 0, 0, 0),
        truncated=flags(0, 0, 0, 1, 0),
        gamma=0.5,
        lam=0.5,
    )
    torch.testing.assert_close(advantages, column(0.5, -2, 1.25, 1, 5))


def test_a_step_that_terminates_and_truncates_is_worth_nothing_further() -> None:
    both = generalized_advantages(column(1), column(0), column(100), flags(1), flags(1), 0.99, 0.95)
    torch.testing.assert_close(both, column(1))


def test_one_gradient_step_against_float64_written_out() -> None:
    """The measured losses of a minibatch equal the formulas of the paper in NumPy."""
    env = operant_gpu.make("CartPole-v1", 4, device="cpu")
    learner = PPO(env, SMALL)
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(6, 4, generator=generator)
    actions = torch.tensor([0, 1, 1, 0, 1, 0])
    log_probs = torch.log(torch.tensor([0.9, 0.2, 0.5, 0.4, 0.7, 0.1]))
    advantages, returns = torch.randn(6, generator=generator), torch.randn(6, generator=generator)
    logits, values = (
        learner.policy.actor(obs).detach().double().numpy(),
        learner.policy.value(obs).detach().double().numpy(),
    )
    measured = learner._climb(Batch(obs, actions, log_probs, values=returns, advantages=advantages, returns=returns))

    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    ratio = probabilities[np.arange(6), actions.numpy()] / log_probs.double().exp().numpy()
    a = advantages.double().numpy()
    a = (a - a.mean()) / (a.std(ddof=1) + 1e-8)
    expected = [
        -np.minimum(ratio * a, np.clip(ratio, 0.8, 1.2) * a).mean(),
        0.5 * ((values - returns.double().numpy()) ** 2).mean(),
        -(probabilities * np.log(probabilities)).sum(1).mean(),
        (ratio - 1 - np.log(ratio)).mean(),
        (np.abs(ratio - 1) > 0.2).mean(),
    ]
    np.testing.assert_allclose(measured[:5].double().numpy(), expected, rtol=1e-5, atol=1e-7)


def test_gaussian_log_probability_and_entropy_against_torch_distributions() -> None:
    policy = ActorCritic(spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)), (8,), torch.Generator().manual_seed(0))
    policy.head.log_std.data[:] = torch.tensor([-0.7, 0.4])
    obs, actions = torch.randn(5, 3), torch.randn(5, 2) * 3
    reference = torch.distributions.Normal(policy.actor(obs), policy.head.log_std.exp())
    evaluation = policy.evaluate(obs, actions)
    torch.testing.assert_close(evaluation.log_prob, reference.log_prob(actions).sum(-1))
    torch.testing.assert_close(evaluation.entropy, reference.entropy().sum(-1))


def test_values_of_a_truncated_task_converge_to_the_infinite_horizon() -> None:
    env = Forever(num_envs=16, device="cpu")
    config = PPOConfig(gamma=0.9, n_steps=16, batch_size=64, lr=3e-3, anneal_lr=False, hidden_sizes=(16,), vf_coef=1.0)
    learner = PPO(env, config).learn(40_000)
    # With truncation as an end, five steps would be worth 1 + 0.9 + ... = 4.1 at most.
    assert learner.policy.value(torch.zeros(1, 1)).item() == pytest.approx(1 / (1 - 0.9), rel=0.03)


@pytest.mark.parametrize("seed", range(2))
def test_cartpole_is_solved(seed: int) -> None:
    env = operant_gpu.make("CartPole-v1", 128, device="cpu")
    best = -math.inf

    def until_solved(metrics: dict[str, float]) -> bool:
        nonlocal best
        best = max(best, metrics["mean_reward"])
        return best < 475

    PPO(env, PPOConfig(seed=seed)).learn(500_000, until_solved)
    assert best >= 475


def test_box_actions_are_learned() -> None:
    env = operant_gpu.make("Pendulum-v1", 64, device="cpu")
    returns: list[float] = []
    config = PPOConfig(gamma=0.9, n_steps=64, n_epochs=10, lr=1e-3)
    PPO(env, config).learn(150_000, lambda metrics: returns.append(metrics["mean_reward"]))
    # Random torques reach about -1,200.
    assert returns[-1] > -700


def test_the_same_seed_gives_the_same_run() -> None:
    def run(seed: int) -> tuple[list[dict[str, float]], torch.Tensor]:
        torch.manual_seed(np.random.default_rng().integers(2**31))
        history: list[dict[str, float]] = []

        def record(metrics: dict[str, float]) -> None:
            history.append({name: value for name, value in metrics.items() if name != "sps"})

        config = PPOConfig(n_steps=8, batch_size=32, hidden_sizes=(16,), seed=seed)
        learner = PPO(operant_gpu.make("CartPole-v1", 8, device="cpu"), config).learn(640, record)
        return history, torch.nn.utils.parameters_to_vector(learner.policy.parameters())

    (history, weights), (again, weights_again), (_, others) = run(3), run(3), run(4)
    # NaN, before the first episode ends, is not equal to itself.
    assert str(history) == str(again)
    assert torch.equal(weights, weights_again)
    assert not torch.equal(weights, others)


def test_callback_gets_metrics_and_stops() -> None:
    calls: list[dict[str, float]] = []

    def stop_at_second(metrics: dict[str, float]) -> bool:
        calls.append(metrics)
        return len(calls) < 2

    learner = PPO(operant_gpu.make("CartPole-v1", 16, device="cpu"), SMALL).learn(10_000, stop_at_second)
    assert [call["timesteps"] for call in calls] == [128, 256]
    assert learner.timesteps == 256
    names = {"timesteps", "sps", "episodes", "mean_reward", "mean_length", "entropy", "approx_kl", "clip_frac", "lr"}
    assert names | {"policy_loss", "value_loss", "explained_variance", "grad_norm"} == set(calls[0])


def test_metrics_count_the_episodes_that_the_environment_counts() -> None:
    env = operant_gpu.make("CartPole-v1", 16, device="cpu")
    last: dict[str, float] = {}
    PPO(env, SMALL).learn(2_560, last.update)
    logs = env.get_logs()
    assert last["episodes"] == logs["episode_count"] > 50
    assert last["mean_reward"] == last["mean_length"] > 8


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1"])
def test_save_and_load_give_the_same_policy(id: str, tmp_path) -> None:
    env = operant_gpu.make(id, 8, device="cpu")
    learner = PPO(env, SMALL).learn(640)
    learner.save(tmp_path / "deep" / "policy.pt")
    loaded = PPO.load(tmp_path / "deep" / "policy.pt")
    obs, _ = env.reset(seed=5)
    torch.testing.assert_close(loaded.predict(obs), learner.predict(obs), rtol=0, atol=0)
    assert loaded.config == learner.config
    assert loaded.timesteps == learner.timesteps
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["policy.pt"]


def test_loading_what_is_not_a_checkpoint_is_refused(tmp_path) -> None:
    (tmp_path / "text.pt").write_text("not a checkpoint")
    torch.save({"format": 99}, tmp_path / "foreign.pt")
    PPO(operant_gpu.make("CartPole-v1", 8, device="cpu"), SMALL).save(tmp_path / "cartpole.pt")
    for path in ("missing.pt", "text.pt", "foreign.pt"):
        with pytest.raises(InvalidConfig, match=path):
            PPO.load(tmp_path / path)
    with pytest.raises(InvalidConfig, match="does not fit"):
        PPO.load(tmp_path / "cartpole.pt", operant_gpu.make("Pendulum-v1", 8, device="cpu"))


def test_predict_takes_one_observation_or_many_and_stays_in_the_space() -> None:
    env = operant_gpu.make("Pendulum-v1", 8, device="cpu")
    learner = PPO(env, SMALL)
    learner.policy.actor[-1].bias.data[:] = 50.0
    one, many = learner.predict(np.zeros(3)), learner.predict(torch.zeros(7, 3), deterministic=False)
    assert one.shape == (1,)
    assert many.shape == (7, 1)
    assert one.item() == 2.0
    with pytest.raises(InvalidConfig, match="obs"):
        learner.predict(np.zeros((2, 4)))


@pytest.mark.parametrize(
    ("field", "value"),
    [("lr", 0.0), ("lr", math.nan), ("lr", "1e-3"), ("gamma", 1.5), ("gae_lambda", -0.1), ("n_steps", 0)]
    + [("n_steps", 2.5), ("n_epochs", True), ("batch_size", 1), ("hidden_sizes", (64, 0)), ("hidden_sizes", 64)]
    + [("seed", -1), ("anneal_lr", 1)],
)
def test_config_names_the_field_that_makes_no_sense(field: str, value: object) -> None:
    with pytest.raises(InvalidConfig, match=field) as caught:
        PPOConfig(**{field: value})
    assert caught.value.param == field


def test_environments_and_settings_that_do_not_fit_are_refused() -> None:
    cartpole = operant_gpu.make("CartPole-v1", 2, device="cpu")
    with pytest.raises(InvalidConfig, match="SAME_STEP"):
        PPO(operant_gpu.make("CartPole-v1", 2, device="cpu", autoreset_mode=AutoresetMode.NEXT_STEP))
    with pytest.raises(InvalidConfig, match="VecEnv"):
        PPO("CartPole-v1")
    with pytest.raises(InvalidConfig, match="batch_size"):
        PPO(cartpole, PPOConfig(n_steps=8, batch_size=32)).learn(100)
    for total in (0, -5, 1.5, True):
        with pytest.raises(InvalidConfig, match="total_timesteps"):
            PPO(cartpole).learn(total)


def test_no_minibatch_is_smaller_than_asked() -> None:
    """Of 21 steps in minibatches of 4, none has one step: its advantages would have no deviation."""
    config = PPOConfig(n_steps=7, batch_size=4, n_epochs=1, hidden_sizes=(8,))
    learner = PPO(operant_gpu.make("CartPole-v1", 3, device="cpu"), config)
    sizes: list[int] = []
    climb = learner._climb
    learner._climb = lambda batch: (sizes.append(len(batch.obs)), climb(batch))[1]
    learner.learn(21)
    assert sum(sizes) == 21
    assert min(sizes) >= 4


def test_learning_goes_on_from_the_state_that_the_environments_are_in() -> None:
    env = operant_gpu.make("CartPole-v1", 16, device="cpu")
    learner = PPO(env, SMALL).learn(128)
    env.reset(seed=99)
    expected = env.observe().clone()
    learner.learn(128)
    assert torch.equal(learner._rollout.obs[0], expected)


def test_numbers_that_are_not_finite_stop_the_training() -> None:
    learner = PPO(operant_gpu.make("CartPole-v1", 16, device="cpu"), SMALL)
    learner.policy.critic[-1].bias.data[:] = math.nan
    with pytest.raises(TrainingError, match="not finite after 128 timesteps"):
        learner.learn(256)


def test_numpy_environments_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="output='torch'"):
        PPO(operant_gpu.make("CartPole-v1", 16, device="cpu", output="numpy"))
