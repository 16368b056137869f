"""TorchRL: rollouts and advantages are those of Gymnasium's environments; specs, collectors and transforms work."""

from __future__ import annotations

from typing import Any

import counters
import numpy as np
import pytest
import torch
from contract_envs import EVERY_MAKER
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn

import operant_gpu
from operant_gpu import InvalidConfig

pytest.importorskip("torchrl")

from tensordict.nn import TensorDictModule
from torchrl.envs import GymWrapper, StepCounter, TransformedEnv, check_env_specs
from torchrl.envs.transforms import ActionMask, Compose, RewardSum
from torchrl.objectives.value import GAE

from operant_gpu.adapters.torchrl import TorchRLEnv

pytestmark = pytest.mark.adapters

STEPS = 30


def both(name: str) -> tuple[Any, Any]:
    peer = SyncVectorEnv(counters.peers(name), autoreset_mode=AutoresetMode.DISABLED)
    return TorchRLEnv(counters.NAMES[name], **counters.settings()), GymWrapper(peer, categorical_action_encoding=True)


@pytest.mark.parametrize("name", counters.NAMES)
def test_rollouts_and_advantages_are_those_of_gymnasiums_environments(name: str) -> None:
    own, peer = (env.rollout(STEPS, counters.scripted(name, STEPS), break_when_any_done=False) for env in both(name))
    torch.manual_seed(0)
    value = TensorDictModule(nn.Linear(2, 1), in_keys=["observation"], out_keys=["state_value"])
    estimate = GAE(gamma=0.9, lmbda=0.8, value_network=value)
    for rollout in (own, peer):
        estimate(rollout)
    keys: list[Any] = ["observation", "action", "advantage", "value_target"]
    keys += [("next", key) for key in ("observation", "reward", "done", "terminated", "truncated")]
    for key in keys:
        torch.testing.assert_close(own[key], peer[key], rtol=1e-5, atol=1e-5, msg=str(key))
    flags = [
        own["next", key][:, 4 if key == "truncated" else 2].flatten().tolist() for key in ("terminated", "truncated")
    ]
    assert flags == [[True, False, False], [False, True, True]]
    # What follows the last step of an episode is its last observation; what the next step begins with is not.
    assert own["next", "observation"][1, 4].tolist() == [5, 5]
    assert own["observation"][1, 5].tolist() == [0, 5]
    # The episode that time ended is worth the value of its last observation beyond.
    assert own["value_target"][2, 4] == pytest.approx(
        (own["next", "reward"][2, 4] + 0.9 * value.module(torch.tensor([5.0, 50.0]))).item(), rel=1e-5
    )


def test_without_copies_a_rollout_would_be_of_equal_rows_which_debug_mode_notices() -> None:
    env = GymWrapper(operant_gpu.make("CartPole-v1", 4, device="cpu", autoreset_mode="disabled", debug=True))
    with pytest.warns(RuntimeWarning, match="something still uses obs"):
        env.rollout(20, break_when_any_done=False)
    own = TorchRLEnv("CartPole-v1", 4, device="cpu", debug=True).rollout(20, break_when_any_done=False)
    assert len({row.numpy().tobytes() for row in own["observation"].unbind(1)}) == 20
    assert (own["observation"] != own["next", "observation"]).any(-1).all()


@pytest.mark.parametrize("name", EVERY_MAKER)
def test_specs_are_those_of_every_environment(name: str) -> None:
    given = EVERY_MAKER[name](3, device="cpu")
    env = TorchRLEnv(given.environment, 3, device="cpu", **given.given)
    check_env_specs(env)
    rollout = env.rollout(30, break_when_any_done=False)
    assert rollout.shape == (3, 30)


def test_seeds_reach_the_next_reset() -> None:
    env = TorchRLEnv("CartPole-v1", 4, device="cpu")
    env.set_seed(5)
    first, second = env.reset()["observation"], env.reset()["observation"]
    expected, _ = operant_gpu.make("CartPole-v1", 4, device="cpu").reset(seed=5)
    assert first.equal(expected)
    assert not first.equal(second)


@pytest.mark.parametrize("is_seeded", [False, True])
def test_a_mask_resets_some(is_seeded: bool) -> None:
    env = TorchRLEnv("CartPole-v1", 3, device="cpu")
    state = env.reset()
    for _ in range(3):
        state = env.step(state.set("action", torch.ones(3, dtype=torch.int64)))["next"]
    before = state["observation"].clone()
    if is_seeded:
        env.set_seed(5)
    after = env.reset(state.set("_reset", torch.tensor([[True], [False], [False]])))["observation"]
    assert after[1:].equal(before[1:])
    assert after[0].abs().max() <= 0.05
    assert after.equal(env.env.shown)


def test_options_reach_the_reset_and_unknown_ones_are_refused() -> None:
    env = TorchRLEnv("CartPole-v1", 3, device="cpu")
    env.reset(options={"elapsed": 499})
    assert env.step(env.rand_action())["next", "truncated"].all()
    with pytest.raises(InvalidConfig, match="options"):
        env.reset(options={"elapsd": 3})
    with pytest.raises(TypeError, match="unexpected keyword argument 'elapsed'"):
        env.reset(elapsed=3)


def test_one_environment_is_a_batch_of_one() -> None:
    env = TorchRLEnv("CartPole-v1", device="cpu")
    check_env_specs(env)
    assert env.rollout(30, break_when_any_done=False).shape == (1, 30)


# torchrl's own, when its collectors are imported.
@pytest.mark.filterwarnings("ignore:.*WeightUpdaterBase is deprecated:DeprecationWarning")
def test_collectors_and_transforms_count_episodes_as_the_environment_does() -> None:
    from torchrl.collectors import Collector

    env = TorchRLEnv("CartPole-v1", 4, device="cpu")
    transformed = TransformedEnv(env, Compose(RewardSum(), StepCounter()))
    collector = Collector(transformed, transformed.rand_action, frames_per_batch=200, total_frames=800)
    ended = []
    for batch in collector:
        done = batch["next", "done"].squeeze(-1)
        ended.append(torch.stack([batch["next", "episode_reward"][done], batch["next", "step_count"][done]]))
    returns, lengths = torch.cat(ended, 1).squeeze(-1)
    logs = env.env.get_logs()
    assert returns.equal(lengths.float())
    assert logs["episode_count"] == len(returns)
    assert logs["mean_reward"] == pytest.approx(returns.mean().item())
    collector.shutdown()
    assert env.env.closed


def test_action_masks_leave_only_legal_actions() -> None:
    env = TransformedEnv(TorchRLEnv("Game2048-v0", 4, device="cpu", debug=True), ActionMask())
    check_env_specs(env)
    rollout = env.rollout(50, break_when_any_done=False)
    assert rollout["action_mask"].gather(-1, rollout["action"].unsqueeze(-1)).all()


def test_spaces_that_do_not_begin_at_0_are_counted_from_0() -> None:
    env = TorchRLEnv(EVERY_MAKER["Stairs-v0"](1, device="cpu").environment, 3, device="cpu")
    space = env.env.single_observation_space
    obs = env.reset()["observation"]
    assert space.start != 0
    assert (obs + space.start).equal(env.env.shown)
    assert env.observation_spec["observation"].space.n == space.n
    assert np.all([env.observation_spec["observation"].is_in(row) for row in [obs]])


def test_other_modes_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="autoreset_mode: expected 'disabled', as TorchRL needs it"):
        TorchRLEnv("CartPole-v1", autoreset_mode="same_step")
