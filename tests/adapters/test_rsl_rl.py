"""rsl_rl: returns are those of Gymnasium's environments; groups, time-outs and staggered starts reach the runner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import counters
import pytest
import torch
from contract_envs import EVERY_MAKER
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import operant_gpu
from operant_gpu import ActionError, InvalidConfig

pytest.importorskip("rsl_rl")

from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict

from operant_gpu.adapters.rsl_rl import RslRlVecEnv

pytestmark = pytest.mark.adapters

STEPS = 16


class Peer:
    """Gymnasium's environments as rsl_rl wants them."""

    def __init__(self) -> None:
        self.env = SyncVectorEnv(counters.peers("TallyBox-v0"), autoreset_mode=AutoresetMode.SAME_STEP)
        self.num_envs, self.num_actions, self.device, self.cfg = 3, 1, "cpu", {}
        self.max_episode_length = counters.LIMIT
        self.episode_length_buf = torch.zeros(3, dtype=torch.long)
        self.obs, _ = self.env.reset()

    def get_observations(self) -> Any:
        return TensorDict({"policy": torch.from_numpy(self.obs.copy())}, batch_size=[3])

    def step(self, actions: torch.Tensor) -> Any:
        self.obs, reward, terminated, truncated, _ = self.env.step(actions.clamp(-1, 1).numpy())
        terminated, truncated = torch.from_numpy(terminated), torch.from_numpy(truncated)
        rewards, dones = torch.from_numpy(reward).float(), (terminated | truncated).long()
        return self.get_observations(), rewards, dones, {"time_outs": truncated & ~terminated}


def settings(groups: dict[str, list[str]]) -> dict[str, Any]:
    network = {"class_name": "MLPModel", "hidden_dims": [8], "activation": "tanh", "obs_normalization": False}
    normal = {"class_name": "GaussianDistribution", "init_std": 1.0, "std_type": "scalar"}
    return {
        "num_steps_per_env": STEPS,
        "save_interval": 100,
        "obs_groups": groups,
        "actor": {**network, "distribution_cfg": normal},
        "critic": network,
        "algorithm": {
            "class_name": "PPO",
            "gamma": 0.9,
            "lam": 0.8,
            "num_learning_epochs": 1,
            "num_mini_batches": 1,
            "schedule": "fixed",
            "learning_rate": 1e-3,
            "rnd_cfg": None,
            "symmetry_cfg": None,
        },
    }


def run(env: Any, iterations: int = 1, groups: Any = None, **options: Any) -> Any:
    """Return a runner with a given seed after some iterations; its storage keeps the last."""
    torch.manual_seed(3)
    groups = groups or {"actor": ["policy"], "critic": ["policy"]}
    runner = OnPolicyRunner(env, settings(groups), log_dir=None, device="cpu")
    runner.learn(iterations, **options)
    return runner


def test_returns_and_bootstraps_are_those_of_gymnasiums_environments() -> None:
    own = run(RslRlVecEnv(counters.TallyBox, **counters.settings())).alg.storage
    peer = run(Peer()).alg.storage
    for field in ("actions", "rewards", "dones", "values", "returns", "advantages"):
        torch.testing.assert_close(getattr(own, field), getattr(peer, field), rtol=1e-5, atol=1e-5, msg=field)
    assert own.observations["policy"].equal(peer.observations["policy"])
    assert own.observations["policy"][5].tolist() == [[2, 3], [0, 5], [0, 50]]
    assert own.dones[4].flatten().tolist() == [0, 1, 1]
    # rsl_rl adds the value of the step's own observation where time alone ended an episode.
    pushes = own.actions[4].clamp(-1, 1)
    extra = own.rewards[4] - 0.25 * torch.tensor([[2.0], [5.0], [5.0]]) - pushes
    torch.testing.assert_close(extra, 0.9 * own.values[4] * torch.tensor([[0.0], [0.0], [1.0]]), rtol=1e-4, atol=1e-5)


def test_groups_have_names_of_their_own_and_float32() -> None:
    with pytest.raises(InvalidConfig, match="groups: 'policy' is the environment's own observation"):
        RslRlVecEnv("Pendulum-v1", groups={"policy": lambda env: env.state.theta[:, None]})
    env = RslRlVecEnv("Pendulum-v1", 2, device="cpu", groups={"late": lambda env: env.episode_so_far[1][:, None] > 3})
    assert env.get_observations()["late"].dtype == torch.float32


@pytest.mark.parametrize(
    ("group", "came"),
    [
        (
            lambda env: env.params.g[:, None],
            "it raised TypeError: .*; a parameter that is to be a tensor has to be given",
        ),
        (lambda env: env.state.theta, r"got one of shape \(2,\)"),
        (lambda env: env.state.theta[:1, None], r"got one of shape \(1, 1\)"),
        (lambda env: None, "got NoneType"),
        (torch.ones(2, 1), "it raised TypeError: 'Tensor' object is not callable"),
    ],
)
def test_groups_are_looked_at_when_they_are_given(group: Any, came: str) -> None:
    expected = r"groups: 'late' must be a function of the VecEnv that returns a tensor \(2, ...\), " + came
    with pytest.raises(InvalidConfig, match=expected):
        RslRlVecEnv("Pendulum-v1", 2, device="cpu", groups={"late": group})
    with pytest.raises(InvalidConfig, match="groups: expected a dictionary of functions"):
        RslRlVecEnv("Pendulum-v1", 2, device="cpu", groups=[group])


def test_actions_of_another_shape_are_refused() -> None:
    env = RslRlVecEnv(EVERY_MAKER["Drift-v0"](1, device="cpu").environment, 4, device="cpu")
    for shape in ((4, 1), (4, 3), (4,)):
        with pytest.raises(ActionError, match=r"actions must be of shape \(4, 2\), got"):
            env.step(torch.ones(shape))


def test_metrics_of_episodes_that_ended_are_logged() -> None:
    env = RslRlVecEnv(counters.TallyBox, **counters.settings())
    logs = [env.step(torch.full((3, 1), 0.5))[3].get("log") for _ in range(5)]
    assert logs[:2] == [None, None]
    assert (logs[2]["pushed"].tolist(), logs[4]["pushed"].tolist()) == ([1.5], [2.5, 2.5])


def test_starts_can_be_staggered() -> None:
    env = RslRlVecEnv("Pendulum-v1", 64, device="cpu", seed=1)
    assert env.max_episode_length == 200
    assert env.episode_length_buf.unique().tolist() == [0]
    run(env, init_at_random_ep_len=True)
    lengths = env.episode_length_buf
    assert lengths.dtype == torch.int64
    assert len(lengths.unique()) > 30
    dones = torch.stack([env.step(torch.zeros(64, 1))[2] for _ in range(200)])
    assert dones.sum(0).tolist() == [1] * 64
    assert dones.sum(1).max() < 8


def test_what_only_the_critic_sees_is_a_group_of_its_own() -> None:
    gravity = torch.linspace(5, 15, 4)
    env = RslRlVecEnv(
        "Pendulum-v1", 4, device="cpu", g=gravity, groups={"privileged": lambda env: env.params.g[:, None]}
    )
    obs = env.get_observations()
    assert obs["privileged"].equal(gravity[:, None])
    assert obs["policy"].shape == (4, 3)
    runner = run(env, groups={"actor": ["policy"], "critic": ["policy", "privileged"]})
    assert runner.alg.storage.observations["privileged"].shape == (STEPS, 4, 1)
    first = {name: network.mlp[0].in_features for name, network in (("a", runner.alg.actor), ("c", runner.alg.critic))}
    assert first == {"a": 3, "c": 4}


def test_observations_are_fresh() -> None:
    env = RslRlVecEnv("Pendulum-v1", 2, device="cpu", debug=True, seed=0)
    kept = [env.get_observations(), *(env.step(torch.ones(2, 1))[0] for _ in range(4))]
    assert len({obs["policy"].numpy().tobytes() for obs in kept}) == 5


def test_seeds_and_bounds() -> None:
    env, expected = (
        RslRlVecEnv("Pendulum-v1", 2, device="cpu", seed=4),
        operant_gpu.make("Pendulum-v1", 2, device="cpu"),
    )
    assert env.get_observations()["policy"].equal(expected.reset(seed=4)[0])
    # Beyond the bounds of the Box.
    obs, reward, *_ = env.step(torch.tensor([[7.0], [-9.0]]))
    expected_obs, expected_reward, *_ = expected.step(torch.tensor([[2.0], [-2.0]]))
    assert obs["policy"].equal(expected_obs)
    assert reward.equal(expected_reward)


def test_without_a_time_limit_episodes_go_on() -> None:
    env = RslRlVecEnv("Pendulum-v1", 2, device="cpu", max_episode_steps=-1)
    assert env.max_episode_length == 2**31 - 1
    run(env)


def test_saved_runs_are_written_with_the_settings_of_the_environment(tmp_path: Path) -> None:
    env = RslRlVecEnv("Pendulum-v1", 4, device="cpu", g=9.0)
    assert env.cfg == {**env.cfg, "id": "Pendulum-v1", "num_envs": 4, "g": 9.0}
    drawn = RslRlVecEnv("Pendulum-v1", 4, device="cpu", g=torch.ones(4), m="0.5..2")
    settings_of = json.loads(json.dumps(drawn.cfg.to_dict()))
    assert (settings_of["g"], settings_of["m"]) == ("tensor (4,)", "0.5..2")
    torch.manual_seed(0)
    groups = {"actor": ["policy"], "critic": ["policy"]}
    OnPolicyRunner(env, {**settings(groups), "logger": "tensorboard"}, log_dir=str(tmp_path), device="cpu").learn(1)
    assert list(tmp_path.glob("model_*.pt"))


def test_environments_without_a_box_of_actions_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="rsl_rl chooses actions from a Box, CartPole-v1 has Discrete"):
        RslRlVecEnv("CartPole-v1")


BOXES = [name for name, make in EVERY_MAKER.items() if isinstance(make(1).single_action_space, spaces.Box)]


@pytest.mark.parametrize("name", BOXES)
def test_every_environment_with_a_box_of_actions_can_be_learned(name: str) -> None:
    given = EVERY_MAKER[name](3, device="cpu")
    env = RslRlVecEnv(given.environment, 3, device="cpu", **given.given)
    obs = env.get_observations()["policy"]
    assert obs.dtype == torch.float32
    # Images need another model of rsl_rl's.
    if obs.ndim == 2:
        run(env)
    else:
        env.step(torch.zeros(3, env.num_actions))
    env.env.check()
