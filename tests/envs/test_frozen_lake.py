"""FrozenLake is Gymnasium's: every transition from every state, under the same chance."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from here import BACKENDS
from reporting_envs import Stairs

import operant_gpu
from operant_gpu import InvalidConfig
from operant_gpu.backends.lowering.operations import NumpyRng
from operant_gpu.backends.lowering.programs import lower_to_numpy
from operant_gpu.cli import main
from operant_gpu.envs import frozen_lake_map
from operant_gpu.lang import constexpr_value
from operant_gpu.models import PPO, PPOConfig, evaluate, export, record
from operant_gpu.random import STEP_STREAM, uniform

OWN = ["SFFHF", "HFSFF", "FFFFG"]
SMALL, LARGE = "FrozenLake-v1", "FrozenLake8x8-v1"
# Of each state and action so many chances.
CHANCES = 12

if_gymnasium_can = pytest.mark.skipif(
    "reward_schedule" not in inspect.signature(FrozenLakeEnv).parameters,
    reason="this Gymnasium knows neither rates of success nor other rewards",
)
LAKES = [
    pytest.param(SMALL, {}, {}, id="4x4"),
    pytest.param(LARGE, {}, {}, id="8x8"),
    pytest.param(SMALL, frozen_lake_map(OWN), {"desc": OWN}, id="own"),
    pytest.param(SMALL, {"is_slippery": False}, {"is_slippery": False}, id="not slippery"),
    pytest.param(SMALL, {"success_rate": 0.7}, {"success_rate": 0.7}, id="less slippery", marks=if_gymnasium_can),
    pytest.param(
        SMALL,
        {"goal_reward": 2.0, "hole_reward": -3.0, "frozen_reward": -0.5},
        {"reward_schedule": (2.0, -3.0, -0.5)},
        id="other rewards",
        marks=if_gymnasium_can,
    ),
]


@pytest.mark.quick
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "given", "theirs"), LAKES)
def test_every_transition_is_gymnasiums(name: str, given: dict[str, Any], theirs: dict[str, Any], backend: str) -> None:
    reference: Any = gymnasium.make(name, **theirs).unwrapped
    rows, columns = reference.desc.shape
    states = np.repeat(np.arange(rows * columns), 4 * CHANCES)
    actions = np.tile(np.repeat(np.arange(4), CHANCES), rows * columns)
    env = operant_gpu.make(name, len(states), device="cpu", backend=backend, autoreset_mode="disabled", **given)
    assert env.single_observation_space == reference.observation_space
    assert env.single_action_space == reference.action_space
    env.reset(seed=5)
    env.state.row.copy_(torch.from_numpy(states // columns))
    env.state.column.copy_(torch.from_numpy(states % columns))
    assert env.observe().tolist() == states.tolist()
    chances = stream(env)
    obs, reward, terminated, *_ = env.step(torch.from_numpy(actions))
    found = list(zip(obs.tolist(), reward.tolist(), terminated.tolist(), strict=True))
    for row, chance in enumerate(chances):
        reference.s, reference.np_random = states[row], SimpleNamespace(random=lambda chance=chance: chance)
        expected = reference.step(actions[row])[:3]
        assert found[row] == expected, (states[row], actions[row], chance)


def stream(env: Any) -> list[float]:
    """Return the chance that each environment's next step takes."""
    columns = env.state_dict()["columns"]
    clock = (columns[name].numpy() for name in ("seed", "env_id", "episode", "elapsed"))
    return [float(number) for number in lower_to_numpy(uniform)(NumpyRng(*clock, constexpr_value(STEP_STREAM)), 0)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_episodes_start_where_the_map_says(backend: str) -> None:
    env = operant_gpu.make(SMALL, 3000, device="cpu", backend=backend, **frozen_lake_map(OWN))
    found, counts = env.reset(seed=1)[0].unique(return_counts=True)
    assert found.tolist() == [0, 7]
    assert counts.tolist() == pytest.approx([1500, 1500], abs=150)
    assert operant_gpu.make(LARGE, 9, device="cpu", backend=backend).reset(seed=1)[0].tolist() == [0] * 9


def test_limits_and_goals_are_gymnasiums() -> None:
    for name in (SMALL, LARGE):
        own, theirs = operant_gpu.make(name, device="cpu").environment, gymnasium.spec(name)
        assert own.max_episode_steps == theirs.max_episode_steps
        assert own.reward_threshold == theirs.reward_threshold


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"success_rate": 1.5}, "^success_rate: expected a number from 0 to 1, got 1.5"),
        (frozen_lake_map(["SX", "FG"]), "^desc: expected the letters S, F, H and G, got 'X'"),
        ({"desc": ["FFS", "HFG"]}, r"^starts: expected the cells that are S, \[2\], got \[0\]: give both tables"),
        (frozen_lake_map(["SF", "G"]), "^desc: expected a table of uint8 .* cannot be read"),
    ],
    ids=str,
)
def test_what_is_no_lake_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        operant_gpu.make(SMALL, 2, device="cpu", **given)


@pytest.mark.parametrize(
    "desc", [["FF", "FG"], ["sf", "fg"], "SFFG", [["S", "F"]], [b"SG"], np.array(["SG"]), None], ids=str
)
def test_a_map_is_rows_of_text_with_a_start(desc: Any) -> None:
    with pytest.raises(InvalidConfig, match=r"^desc: expected rows of text with at least one S"):
        frozen_lake_map(desc)


def test_the_command_line_lists_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs", SMALL]) == 0
    assert re.search(r"^ desc +uint8 +any x any +yes +letters of the map *$", capsys.readouterr().out, re.MULTILINE)
    assert main(["train", SMALL, "--env.desc", "SG"]) == 2
    assert "give the environment a default, tables=Tables(...)" in capsys.readouterr().err


def test_a_lake_is_drawn() -> None:
    env = operant_gpu.make(SMALL, 2, device="cpu", render_mode="rgb_array", **frozen_lake_map(OWN))
    env.reset(seed=1)
    env.state.row[...], env.state.column[...] = 1, 4
    frame, _ = env.render()
    assert frame.shape == (96, 160, 3)
    walker = frame[32 + 16, 4 * 32 + 16].tolist()
    assert walker not in (frame[16, 16].tolist(), frame[48, 16].tolist())
    assert frame[16, 3 * 32 + 16].tolist() == frame[48, 16].tolist()


@pytest.mark.parametrize("engine", ["fused", "eager"])
def test_ppo_sees_a_state_one_hot_and_learns(engine: str) -> None:
    config = PPOConfig(
        num_envs=32, n_steps=32, batch_size=256, total_timesteps=60_000, lr=(4e-3, 0.0), gamma=0.95, engine=engine
    )
    learner = PPO(operant_gpu.make(SMALL, 32, device="cpu", is_slippery=False), config).learn()
    assert learner.policy.network.trunks[0][1].in_features == 16
    assert evaluate(learner, 20).mean == 1.0
    assert learner.predict(0) in (1, 2)
    assert learner.predict([0, 4, 14]).shape == (3,)
    for obs, given in ((16, "16"), ([3, -1], "-1"), ([0.5], "0.5")):
        with pytest.raises(InvalidConfig, match=f"^obs: expected integers from 0 to 15, got {given}$"):
            learner.predict(obs)


@pytest.mark.parametrize(
    "changes", [{"rnd_coef": 0.1}, {"gru_size": 8, "engine": "eager"}, {"shared_trunk": True}], ids=str
)
def test_what_else_a_learner_has_sees_a_state_one_hot(changes: dict[str, Any], tmp_path: Path) -> None:
    settings = {"num_envs": 16, "n_steps": 16, "batch_size": 64, "total_timesteps": 1024, "hidden_sizes": (16,)}
    learner = PPO(operant_gpu.make(SMALL, 16, device="cpu"), PPOConfig(**{**settings, **changes})).learn()
    learner.save(tmp_path / "lake.pt")
    loaded = PPO.load(tmp_path / "lake.pt", device="cpu")
    states = torch.arange(16)
    assert loaded.controller()(states).equal(learner.controller()(states))
    if "rnd_coef" in changes:
        assert learner.intrinsic.predictor[0].in_features == 16
    assert export(learner, tmp_path / "lake.pt2").inputs[0] == "obs"
    record(learner, tmp_path / "lake.gif", max_steps=5)
    assert (tmp_path / "lake.gif").exists()


def test_observations_that_begin_elsewhere_are_counted_from_there() -> None:
    for engine in ("fused", "eager"):
        config = PPOConfig(num_envs=16, n_steps=16, batch_size=64, total_timesteps=1024, engine=engine)
        learner = PPO(Stairs(16, device="cpu"), config).learn()
        assert learner.policy.normalizer(torch.tensor([-3, 2])).tolist() == np.eye(6)[[0, 5]].tolist()
    with pytest.raises(InvalidConfig, match=r"normalize_observations: Discrete\(6, start=-3\) is seen one-hot"):
        PPO(Stairs(16, device="cpu"), PPOConfig(num_envs=16, normalize_observations=True))


def test_a_lake_is_verified() -> None:
    report = operant_gpu.verify(SMALL, device="cpu")
    assert report.passed, report
    # Networks too, which see it one-hot.
    passed = {check.name.partition(": ")[2] for check in report.checks if check.state == "ok"}
    assert {"network in a rollout beside PyTorch", "gradient kernel beside autograd, ieee"} <= passed
