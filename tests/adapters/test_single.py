"""`gymnasium.make`: one environment, as Gymnasium's own are."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from contract_envs import EVERY_MAKER
from counters import LIMIT, Tally, TallyEnv
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit

import operant_gpu
from operant_gpu import ActionError, InvalidConfig, ResetNeeded
from operant_gpu.adapters.single import SingleEnv

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("name", operant_gpu.list_envs())
def test_gymnasiums_checker_finds_nothing_in_any_environment(name: str) -> None:
    env = gymnasium.make(f"operant_gpu/{name}")
    with warnings.catch_warnings():
        # CartPole's velocities have no bounds, and Pendulum's torques are newton metres.
        warnings.filterwarnings("ignore", message=".*(infinity|symmetric and normalized)")
        check_env(env.unwrapped, skip_render_check=True)
    assert env.spec.max_episode_steps == operant_gpu.make(name).environment.max_episode_steps


def test_it_does_as_an_environment_of_gymnasiums_own() -> None:
    operant_gpu.register(Tally)
    for end in (3.0, 5.0, 50.0):
        own, peer = gymnasium.make("operant_gpu/Tally-v0", end=end), TimeLimit(TallyEnv("Tally-v0", end), LIMIT)
        for _ in range(2):
            assert np.array_equal(own.reset(seed=1)[0], peer.reset(seed=1)[0])
            ended = False
            while not ended:
                (obs, *found, _), (peer_obs, *expected, _) = own.step(6), peer.step(1)
                assert np.array_equal(obs, peer_obs)
                assert obs.dtype == peer_obs.dtype
                assert found == expected
                assert list(map(type, found)) == [float, bool, bool]
                ended = found[1] or found[2]


def test_the_time_limit_is_gymnasiums() -> None:
    assert gymnasium.make("operant_gpu/CartPole-v1", max_episode_steps=2000).spec.max_episode_steps == 2000
    env = gymnasium.make("operant_gpu/MountainCar-v0", max_episode_steps=230)
    env.reset(seed=0)
    assert [env.step(1)[3] for _ in range(230)].index(True) == 229


def test_a_batch_of_single_environments_can_be_made() -> None:
    env = gymnasium.make_vec("operant_gpu/CartPole-v1", num_envs=3, vectorization_mode="sync", gravity=5.0)
    obs, _ = env.reset(seed=0)
    assert obs.shape == (3, 4)
    assert not np.array_equal(obs[0], obs[1])
    assert env.envs[0].unwrapped.env.params.gravity == 5.0


def test_observations_are_arrays_of_their_own() -> None:
    env = gymnasium.make("operant_gpu/CartPole-v1")
    kept = [env.reset(seed=0)[0]] + [env.step(1)[0] for _ in range(3)]
    assert len({obs.tobytes() for obs in kept}) == 4


def test_masks_metrics_and_whole_numbers_come_as_gymnasium_has_them() -> None:
    board = gymnasium.make("operant_gpu/Game2048-v0")
    _, info = board.reset(seed=0)
    assert info["action_mask"].shape == (4,)
    assert info["action_mask"].dtype == bool
    assert isinstance(board.observation_space, spaces.Box | spaces.MultiBinary)

    lake = gymnasium.make("operant_gpu/FrozenLake-v1")
    assert lake.reset(seed=0) == (0, {})

    tally = SingleEnv(Tally)
    tally.reset(seed=0)
    *_, info = tally.step(6)
    assert info == {"metrics": {"pushed": 6.0}}
    assert type(info["metrics"]["pushed"]) is float


@pytest.mark.parametrize("action", [0, np.int64(0), np.array(0), np.array(0, np.uint8)])
def test_actions_come_in_any_form(action: Any) -> None:
    env = gymnasium.make("operant_gpu/CartPole-v1", disable_env_checker=True)
    env.reset(seed=0)
    env.step(action)
    torque = gymnasium.make("operant_gpu/Pendulum-v1", disable_env_checker=True)
    torque.reset(seed=0)
    for push in ([0.5], np.array([0.5]), np.array([0.5], np.float32)):
        torque.step(push)


@pytest.mark.parametrize("action", [2, -1, 0.5, [0], "left", None])
def test_an_action_that_is_none_raises_at_once(action: Any) -> None:
    env = SingleEnv("CartPole-v1")
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(ActionError):
        env.step(action)


def test_a_step_after_the_end_raises() -> None:
    env = SingleEnv("CartPole-v1")
    env.reset(seed=0)
    while not env.step(0)[2]:
        pass
    with pytest.raises(ActionError, match="ended episodes"):
        env.step(0)


@pytest.mark.parametrize("name", ["num_envs", "device", "output", "copy", "autoreset_mode"])
def test_what_a_single_environment_settles_is_refused(name: str) -> None:
    with pytest.raises(InvalidConfig, match=f"{name}: not a setting of a single environment"):
        gymnasium.make("operant_gpu/CartPole-v1", **{name: None})


def test_unknown_settings_are_refused_with_what_was_meant() -> None:
    with pytest.raises(InvalidConfig, match="did you mean 'gravity'"):
        gymnasium.make("operant_gpu/CartPole-v1", gravitty=1.0)


def test_pictures_are_drawn() -> None:
    pytest.importorskip("pygame")
    env = gymnasium.make("operant_gpu/CartPole-v1", render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    env.close()
    with pytest.raises(ResetNeeded):
        env.unwrapped.step(0)


def test_every_environment_of_the_contract_can_be_single() -> None:
    for name, make in EVERY_MAKER.items():
        definition = make(1, device="cpu").environment
        operant_gpu.register(definition)
        env = gymnasium.make(f"operant_gpu/{definition.id}", disable_env_checker=True)
        obs, _ = env.reset(seed=0)
        assert env.observation_space.contains(obs), name
        action = env.action_space.sample()
        assert env.observation_space.contains(env.step(action)[0]), name
