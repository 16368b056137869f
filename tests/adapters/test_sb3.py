"""Stable-Baselines3: what its algorithms see and store is what they see and store of Gymnasium's environments."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import counters
import gymnasium
import numpy as np
import pytest
import torch
from contract_envs import EVERY_MAKER
from gymnasium.wrappers import TimeLimit

import operant_gpu
from operant_gpu import ActionError, InvalidConfig
from operant_gpu.lang import jit
from operant_gpu.metrics import Last

sb3 = pytest.importorskip("stable_baselines3")
# Benchmarks install the first without the second.
pytest.importorskip("sb3_contrib")

from sb3_contrib import MaskablePPO  # noqa: E402
from stable_baselines3.common.env_checker import check_env  # noqa: E402
from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402
from stable_baselines3.common.monitor import Monitor  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize  # noqa: E402

from operant_gpu.adapters.sb3 import SB3VecEnv  # noqa: E402
from operant_gpu.adapters.single import SingleEnv  # noqa: E402

pytestmark = [pytest.mark.adapters, pytest.mark.filterwarnings("ignore::UserWarning")]


def both(name: str) -> tuple[SB3VecEnv, DummyVecEnv]:
    """Return the counters by the adapter, and Gymnasium's as Stable-Baselines3 wraps them."""
    makers = [lambda make=make: Monitor(make()) for make in counters.peers(name)]
    return SB3VecEnv(counters.NAMES[name], **counters.settings()), DummyVecEnv(makers)


@pytest.mark.parametrize("name", counters.NAMES)
def test_steps_are_those_of_gymnasiums_environments(name: str) -> None:
    own, peer = both(name)
    assert own.action_space == peer.action_space
    assert own.observation_space == peer.observation_space
    assert np.array_equal(own.reset(), peer.reset())
    endings = set()
    for actions in counters.choices(name, 30):
        (obs, reward, done, infos), (peer_obs, peer_reward, peer_done, peer_infos) = (
            own.step(actions),
            peer.step(actions),
        )
        assert np.array_equal(obs, peer_obs)
        assert obs.dtype == peer_obs.dtype
        np.testing.assert_allclose(reward, peer_reward, rtol=1e-6)
        assert np.array_equal(done, peer_done)
        for index, (info, peer_info) in enumerate(zip(infos, peer_infos, strict=True)):
            assert info.get("TimeLimit.truncated", False) == peer_info["TimeLimit.truncated"]
            assert ("terminal_observation" in info) == ("terminal_observation" in peer_info) == bool(done[index])
            if done[index]:
                endings.add((index, info["TimeLimit.truncated"]))
                assert np.array_equal(info["terminal_observation"], peer_info["terminal_observation"])
                assert info["episode"]["l"] == peer_info["episode"]["l"]
                assert info["episode"]["r"] == pytest.approx(peer_info["episode"]["r"], abs=2e-6)
                assert info["episode"]["t"] > 0
    assert endings == {(0, False), (1, False), (2, True)}


def collected(name: str, env: Any) -> Any:
    """Return a PPO with a given seed that has collected a rollout."""
    model = sb3.PPO("MlpPolicy", env, n_steps=16, batch_size=16, gamma=0.9, gae_lambda=0.8, seed=3, device="cpu")
    _, callback = model._setup_learn(48)
    model.collect_rollouts(env, callback, model.rollout_buffer, 16)
    return model


@pytest.mark.parametrize("name", counters.NAMES)
def test_returns_and_bootstraps_are_those_of_gymnasiums_environments(name: str) -> None:
    model, other = (collected(name, env) for env in both(name))
    own, peer = model.rollout_buffer, other.rollout_buffer
    for field in ("observations", "actions", "rewards", "episode_starts", "values", "returns", "advantages"):
        np.testing.assert_allclose(getattr(own, field), getattr(peer, field), rtol=1e-5, atol=1e-5, err_msg=field)
    # Where time alone ended an episode, Stable-Baselines3 adds the value of the terminal observation to the reward.
    pushes = own.actions[4, :, 0] + 5 if name == "Tally-v0" else own.actions[4, :, 0].clip(-1, 1)
    with torch.no_grad():
        value = model.policy.predict_values(torch.tensor([[5.0, 50.0]])).item()
    np.testing.assert_allclose(own.rewards[4] - 0.25 * np.array([2, 5, 5]) - pushes, [0, 0, 0.9 * value], atol=1e-5)


@pytest.mark.parametrize("algorithm", ["DQN", "SAC"])
def test_what_a_replay_buffer_stores_is_right(algorithm: str) -> None:
    name = "Tally-v0" if algorithm == "DQN" else "TallyBox-v0"
    env = SB3VecEnv(counters.NAMES[name], **counters.settings())
    model = getattr(sb3, algorithm)("MlpPolicy", env, learning_starts=1000, seed=0, device="cpu", buffer_size=600)
    model.learn(90)
    buffer = model.replay_buffer
    steps = buffer.pos
    obs, following = buffer.observations[:steps, :, 0], buffer.next_observations[:steps, :, 0]
    # s' is the last observation of an episode also where the next one has begun.
    assert np.array_equal(following, obs + 1)
    assert np.array_equal(following[buffer.dones[:steps, :].astype(bool)] >= 3, np.ones(int(buffer.dones.sum()), bool))
    assert np.array_equal(buffer.timeouts[:steps].any(axis=0), [False, False, True])
    assert np.array_equal(buffer.dones[:steps, 2], buffer.timeouts[:steps, 2])


def test_seeds_and_options_reach_the_next_reset() -> None:
    env = SB3VecEnv("CartPole-v1", 4, device="cpu")
    env.seed(5)
    first, second = env.reset(), env.reset()
    env.seed(5)
    assert np.array_equal(env.reset(), first)
    assert not np.array_equal(first, second)
    expected, _ = operant_gpu.make("CartPole-v1", 4, device="cpu").reset(seed=5)
    assert np.array_equal(first, expected.numpy())

    env.set_options({"elapsed": 499})
    env.reset()
    _, _, done, infos = env.step(np.zeros(4, int))
    assert done.all()
    assert infos[0]["TimeLimit.truncated"]
    env.set_options([{"elapsed": 1}, {}, {}, {}])
    with pytest.raises(InvalidConfig, match="expected the same for all environments"):
        env.reset()


def test_arrays_are_fresh() -> None:
    env = SB3VecEnv("CartPole-v1", 2, device="cpu")
    kept = [env.reset()]
    rewards = []
    for _ in range(3):
        obs, reward, *_ = env.step(np.ones(2, int))
        kept.append(obs)
        rewards.append(reward)
    assert len({obs.tobytes() for obs in kept}) == 4
    assert not any(np.shares_memory(one, other) for one in rewards for other in rewards if one is not other)


@pytest.mark.parametrize("name", EVERY_MAKER)
def test_ppo_takes_every_environment(name: str) -> None:
    given = EVERY_MAKER[name](3, device="cpu")
    env = SB3VecEnv(given.environment, 3, device="cpu", **given.given)
    sb3.PPO("MlpPolicy", env, n_steps=8, batch_size=12, n_epochs=1, device="cpu").learn(24)
    env.env.check()


def test_wrappers_of_stable_baselines_work() -> None:
    env = SB3VecEnv("CartPole-v1", 3, device="cpu")
    normalized = VecNormalize(VecFrameStack(VecMonitor(SB3VecEnv("Pendulum-v1", 3, device="cpu")), 4))
    assert normalized.reset().shape == (3, 12)
    obs, *_ = normalized.step(np.zeros((3, 1), np.float32))
    assert obs.shape == (3, 12)
    sb3.PPO("MlpPolicy", normalized, n_steps=8, batch_size=12, n_epochs=1, device="cpu").learn(24)
    model = sb3.PPO("MlpPolicy", env, n_steps=8, batch_size=12, device="cpu")
    mean, _ = evaluate_policy(model, env, n_eval_episodes=9)
    returns, lengths = evaluate_policy(model, env, n_eval_episodes=9, return_episode_rewards=True)
    assert 8 <= mean <= 500
    assert returns == lengths


def test_metrics_stand_beside_the_return() -> None:
    env = SB3VecEnv(counters.Tally, device="cpu", end=2.0)
    env.reset()
    env.step(np.ones(1, int))
    *_, infos = env.step(np.zeros(1, int))
    assert {**infos[0]["episode"], "t": 0.0} == {"r": 0.25 + 0.5 + 6 + 5, "l": 2, "t": 0.0, "pushed": 11.0}


class Success(NamedTuple):
    is_success: Last = 0.0


@jit
def ends_well(state, action, rng, params):
    count = state.count + 1
    return counters.TallyState(count), 1.0, count >= params.end, Success(is_success=1.0)


def test_a_metric_called_is_success_is_the_rate_of_success() -> None:
    definition = dataclasses.replace(counters.Tally, id="Well-v0", step=ends_well, metrics=Success)
    model = sb3.PPO("MlpPolicy", SB3VecEnv(definition, 2, device="cpu"), n_steps=8, batch_size=16, device="cpu")
    assert list(model.learn(16).ep_success_buffer) == [1.0] * 4


def test_maskable_ppo_chooses_legal_actions() -> None:
    env = SB3VecEnv("Game2048-v0", 4, device="cpu", debug=True)
    assert env.has_attr("action_masks")
    assert not SB3VecEnv("CartPole-v1", device="cpu").has_attr("action_masks")
    obs = env.reset()
    masks = np.stack(env.env_method("action_masks"))
    assert masks.shape == (4, 4)
    assert np.array_equal(masks, env.env.action_mask.numpy())
    assert np.array_equal(env.get_attr("action_masks", [2])[0](), masks[2])
    model = MaskablePPO("MlpPolicy", env, n_steps=8, batch_size=16, n_epochs=1, device="cpu").learn(64)
    actions, _ = model.predict(obs, action_masks=masks)
    assert masks[np.arange(4), actions].all()
    assert np.array_equal(model.rollout_buffer.action_masks.reshape(8, 4, 4).any(axis=2), np.ones((8, 4), bool))


def test_what_belongs_to_no_single_environment_is_refused() -> None:
    env = SB3VecEnv("CartPole-v1", 2, device="cpu")
    assert env.get_attr("num_envs") == [2, 2]
    assert env.get_attr("render_mode", 1) == [None]
    with pytest.raises(AttributeError, match="a batch is one object"):
        env.set_attr("gravity", 5.0)
    with pytest.raises(AttributeError, match=r"Call \.env\.get_logs"):
        env.env_method("get_logs")
    assert env.env_is_wrapped(Monitor) == [True, True]
    assert env.env_is_wrapped(gymnasium.Wrapper, 0) == [True]
    assert env.env_is_wrapped(TimeLimit) == [False, False]
    with pytest.raises(ActionError, match=r"actions must be of shape \(2,\) or \(2, 1\), got \(3,\): one row per env"):
        env.step(np.zeros(3, int))
    with pytest.raises(ActionError, match="expected an array of actions, got None"):
        env.step(None)


def test_pictures_tile() -> None:
    pytest.importorskip("pygame")
    env = SB3VecEnv("CartPole-v1", 4, device="cpu", render_mode="rgb_array")
    env.reset()
    single = env.get_images()[0]
    assert env.render().shape == (2 * single.shape[0], 2 * single.shape[1], 3)


@pytest.mark.parametrize("name", ["CartPole-v1", "MountainCarContinuous-v0", "FrozenLake-v1"])
def test_the_checker_takes_single_environments(name: str) -> None:
    check_env(SingleEnv(name))


def test_a_model_acts_in_an_environment_of_gymnasiums() -> None:
    model = sb3.PPO("MlpPolicy", SB3VecEnv("CartPole-v1", 2, device="cpu"), n_steps=8, batch_size=16, device="cpu")
    peer = DummyVecEnv([lambda: Monitor(SingleEnv("CartPole-v1", backend="numpy"))])
    model.set_env(SB3VecEnv("CartPole-v1", 2, device="cpu", gravity=torch.tensor(5.0)))
    actions, _ = model.predict(peer.reset())
    obs, reward, *_ = peer.step(actions)
    assert obs.shape == (1, 4)
    assert reward.tolist() == [1.0]
