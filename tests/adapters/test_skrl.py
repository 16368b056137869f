"""skrl: what its PPO and its memories store is what they store of Gymnasium's environments, and right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import counters
import gymnasium
import pytest
import torch
from contract_envs import EVERY_MAKER
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn

import operant_gpu
from operant_gpu import InvalidConfig

pytest.importorskip("skrl")

from skrl.agents.torch.dqn import DQN
from skrl.agents.torch.ppo import PPO
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, GaussianMixin, Model
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed

from operant_gpu.adapters.skrl import SkrlEnv

# skrl's own wrapper makes tensors of tensors.
pytestmark = [pytest.mark.adapters, pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")]

STEPS = 16


def seen(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return what a network gets of observations, which may be whole numbers."""
    obs, space = inputs["observations"], model.observation_space
    return (
        nn.functional.one_hot(obs.flatten().long(), space.n).float() if isinstance(space, spaces.Discrete) else obs / 10
    )


class Discrete(CategoricalMixin, Model):
    def __init__(self, env: Any) -> None:
        Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space, device=env.device)
        CategoricalMixin.__init__(self, role="policy")
        self.net = nn.Linear(self.num_observations, self.num_actions)

    def compute(self, inputs: Any, role: str) -> Any:
        return self.net(seen(self, inputs)), {}


class Gaussian(GaussianMixin, Model):
    def __init__(self, env: Any) -> None:
        Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space, device=env.device)
        GaussianMixin.__init__(self, clip_actions=True, role="policy")
        self.net, self.log_std = (
            nn.Linear(self.num_observations, self.num_actions),
            nn.Parameter(torch.zeros(self.num_actions)),
        )

    def compute(self, inputs: Any, role: str) -> Any:
        return self.net(seen(self, inputs)), {"log_std": self.log_std}


class Value(DeterministicMixin, Model):
    def __init__(self, env: Any, outputs: int = 1) -> None:
        Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space, device=env.device)
        DeterministicMixin.__init__(self, role="value")
        self.net = nn.Linear(self.num_observations, outputs)

    def compute(self, inputs: Any, role: str) -> Any:
        return self.net(seen(self, inputs)), {}


def settings(folder: Path, **others: Any) -> dict[str, Any]:
    quiet = {"directory": str(folder), "write_interval": 0, "checkpoint_interval": 0}
    return {"experiment": quiet, "discount_factor": 0.9, **others}


def trained(env: Any, folder: Path, steps: int = STEPS) -> Any:
    """Return a PPO with a given seed after one rollout, which its memory has kept."""
    torch.manual_seed(3)
    policy = (Discrete if isinstance(env.action_space, spaces.Discrete) else Gaussian)(env)
    memory = RandomMemory(memory_size=steps, num_envs=env.num_envs, device=env.device)
    config = settings(folder, rollouts=steps, learning_epochs=1, mini_batches=1, gae_lambda=0.8)
    agent = PPO(
        models={"policy": policy, "value": Value(env)},
        memory=memory,
        cfg=config | {"time_limit_bootstrap": True},
        observation_space=env.observation_space,
        action_space=env.action_space,
        device=env.device,
    )
    trainer = {"timesteps": steps, "headless": True, "disable_progressbar": True, "close_environment_at_exit": False}
    SequentialTrainer(cfg=trainer, env=env, agents=agent).train()
    return agent


def stored(agent: Any) -> dict[str, torch.Tensor]:
    names = ("observations", "actions", "rewards", "terminated", "truncated", "values", "returns", "advantages")
    return {name: agent.memory.get_tensor_by_name(name) for name in names}


@pytest.mark.parametrize("name", counters.NAMES)
def test_returns_and_bootstraps_are_those_of_gymnasiums_environments(name: str, tmp_path: Path) -> None:
    own = stored(trained(SkrlEnv(counters.NAMES[name], **counters.settings()), tmp_path))
    peer = stored(
        trained(wrap_env(SyncVectorEnv(counters.peers(name), autoreset_mode=AutoresetMode.NEXT_STEP)), tmp_path)
    )
    # Advantages are normalised over all rows: returns say the same without that.
    del own["advantages"], peer["advantages"]
    for field, tensor in own.items():
        # The middle one ends by termination and time at once, where skrl adds a value to Gymnasium's reward.
        rows = [0, 1, 2] if field in ("observations", "actions", "terminated", "values") else [0, 2]
        torch.testing.assert_close(tensor[:, rows], peer[field][:, rows], rtol=1e-5, atol=1e-5, msg=field)
    assert own["terminated"].any(0).flatten().tolist() == [True, True, False]
    assert own["truncated"].any(0).flatten().tolist() == [False, False, True]
    # What followed the last step of an episode, and was bootstrapped from, is its last observation.
    assert own["observations"][5].tolist() == peer["observations"][5].tolist() == [[1, 3], [5, 5], [5, 50]]


def test_an_episode_that_ends_both_ways_is_worth_no_more_than_its_rewards(tmp_path: Path) -> None:
    own = stored(trained(SkrlEnv(counters.Tally, **counters.settings()), tmp_path))
    assert own["rewards"][4, 1] == own["returns"][4, 1] == 1.25 + 5 + own["actions"][4, 1]


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_observations_are_fresh_and_all_are_shaped_as_skrl_wants(mode: str) -> None:
    env = SkrlEnv("CartPole-v1", 3, device="cpu", autoreset_mode=mode)
    kept = [env.reset()[0]]
    for _ in range(40):
        obs, reward, terminated, truncated, _ = env.step(torch.ones(3, 1))
        assert reward.shape == terminated.shape == truncated.shape == (3, 1)
        kept.append(obs)
        # As skrl's PPO does, where it bootstraps.
        reward += 100
    assert len({obs.numpy().tobytes() for obs in kept}) == 41
    assert env.env.get_logs()["mean_reward"] < 30
    assert env.reset()[0] is kept[-1]


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_one_environment_is_trained_as_many_are(mode: str, tmp_path: Path) -> None:
    """skrl then calls `reset` where an episode ends."""
    one = stored(trained(SkrlEnv(counters.Tally, device="cpu", end=3.0, autoreset_mode=mode), tmp_path))
    lengths = [3] * 5 if mode == "same_step" else [4] * 4
    counts = [float(count) for length in lengths for count in range(length)][:STEPS]
    assert one["observations"][: len(counts), 0, 0].tolist() == counts


def test_wrap_env_around_what_make_returns_is_noticed_in_debug_mode(tmp_path: Path) -> None:
    wrapped = wrap_env(operant_gpu.make("CartPole-v1", 4, device="cpu", debug=True))
    with pytest.warns(RuntimeWarning, match=r"something still uses obs.*\.clone\(\)"):
        kept = [wrapped.reset()[0], *(wrapped.step(torch.ones(4, 1, dtype=torch.int64))[0] for _ in range(4))]
    # The memory of three steps before.
    assert kept[1].equal(kept[4])
    trained(SkrlEnv("CartPole-v1", 4, device="cpu", debug=True), tmp_path)


def test_a_replay_memory_of_make_vec_is_right(tmp_path: Path) -> None:
    """With fresh arrays, skrl's own wrapper stores what happened, too."""
    env = wrap_env(gymnasium.make_vec("operant_gpu/CartPole-v1", num_envs=4, device="cpu"))
    agent = DQN(
        models={"q_network": Value(env, 2), "target_q_network": Value(env, 2)},
        memory=RandomMemory(memory_size=50, num_envs=4, device=env.device),
        cfg=settings(tmp_path, learning_starts=1000, random_timesteps=1000),
        observation_space=env.observation_space,
        action_space=env.action_space,
        device=env.device,
    )
    trainer = {"timesteps": 40, "headless": True, "disable_progressbar": True, "close_environment_at_exit": False}
    SequentialTrainer(cfg=trainer, env=env, agents=agent).train()
    obs, following = (agent.memory.get_tensor_by_name(name)[:40] for name in ("observations", "next_observations"))
    assert torch.equal(obs[1:], following[:-1])
    assert (obs != following).any(-1).all()


def test_seeds_come_from_skrl() -> None:
    def first() -> torch.Tensor:
        set_seed(7)
        return SkrlEnv("CartPole-v1", 4, device="cpu").reset()[0]

    expected, _ = operant_gpu.make("CartPole-v1", 4, device="cpu").reset(seed=7)
    assert first().equal(first())
    assert first().equal(expected)
    other, _ = operant_gpu.make("CartPole-v1", 4, device="cpu").reset(seed=8)
    assert SkrlEnv("CartPole-v1", 4, device="cpu", seed=8).reset()[0].equal(other)


@pytest.mark.parametrize("name", EVERY_MAKER)
def test_ppo_takes_every_environment(name: str, tmp_path: Path) -> None:
    given = EVERY_MAKER[name](3, device="cpu")
    env = SkrlEnv(given.environment, 3, device="cpu", **given.given)
    if isinstance(env.action_space, spaces.MultiDiscrete):
        env.reset()
        env.step(torch.zeros(3, len(env.action_space.nvec)))
    else:
        trained(env, tmp_path, 4)
    env.env.check()


def test_other_modes_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="autoreset_mode: expected 'next_step' or 'same_step', as skrl needs it"):
        SkrlEnv("CartPole-v1", autoreset_mode="disabled")
    for name in ("output", "copy"):
        with pytest.raises(InvalidConfig, match=f"{name}: chosen by the adapter"):
            SkrlEnv("CartPole-v1", **{name: None})
    with pytest.raises(InvalidConfig, match="the adapter makes the VecEnv itself"):
        SkrlEnv(operant_gpu.make("CartPole-v1", device="cpu"))
