"""Trainings whose environments have parameters in memory: what is kept, what plays elsewhere, what is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from varied_envs import CARTPOLE, varied

import operant_gpu
from operant_gpu import InvalidConfig
from operant_gpu.envs import CartPole, Pendulum
from operant_gpu.models import PPO, PPOConfig, evaluate, record
from operant_gpu.monitor import Run
from operant_gpu.monitor.reader import read_description
from operant_gpu.randomization import Uniform

pytestmark = pytest.mark.quick
SMALL: dict[str, Any] = {"n_steps": 8, "batch_size": 32, "n_epochs": 1, "hidden_sizes": (8,)}


def learner(env: operant_gpu.VecEnv, **changes: Any) -> PPO:
    return PPO(env, PPOConfig(**{**SMALL, **changes}))


def test_a_checkpoint_has_ranges_as_text_and_tensors_as_they_are(tmp_path: Path) -> None:
    env = varied(CartPole, **CARTPOLE)(16, device="cpu")
    learner(env).learn(256).save(tmp_path / "one.pt")
    saved = torch.load(tmp_path / "one.pt", weights_only=True)["params"]
    assert (saved["masscart"], saved["masspole"], saved["length"]) == ("normal:1,0.2", "log:0.05..0.5", "0.4,0.5,0.6")
    loaded = PPO.load(tmp_path / "one.pt", device="cpu").env
    for name, tensor in env.state_dict()["memory"].items():
        assert torch.equal(tensor, getattr(loaded.params, name)), name
    assert loaded.given_params.force_mag == Uniform(5, 15)


def test_what_was_written_is_loaded_though_no_one_could_give_it(tmp_path: Path) -> None:
    """A curriculum may end where an author's `validate` would not begin."""
    env = Pendulum(16, device="cpu", l=torch.tensor(1.0))
    learner(env).learn(256)
    env.params.l.fill_(-1.0)
    made = learner(env)
    made.save(tmp_path / "one.pt")
    assert float(PPO.load(tmp_path / "one.pt", device="cpu").env.params.l) == -1.0


def test_a_callback_makes_the_task_harder_and_nothing_is_compiled_anew(tmp_path: Path) -> None:
    env = Pendulum(16, device="cpu", g=torch.tensor(5.0))
    seen = []

    def harder(metrics: dict[str, float]) -> None:
        seen.append(float(env.params.g))
        env.params.g.fill_(5.0 + metrics["timesteps"] / 64)

    made = learner(env).learn(512, callback=harder)
    assert seen == [5.0, 7.0, 9.0, 11.0]
    made.save(tmp_path / "one.pt")
    assert float(PPO.load(tmp_path / "one.pt", device="cpu").env.params.g) == 13.0


def test_policies_are_evaluated_with_the_trainings_parameters_or_others() -> None:
    made = learner(Pendulum(16, device="cpu", g="5..15"))
    drawn = evaluate(made, 32, params={"g": "5..15"})
    assert np.array_equal(evaluate(made, 32).returns, drawn.returns)
    fixed = evaluate(made, 32, params={"g": 12.5})
    alone = PPO(Pendulum(16, device="cpu", g=12.5), made.config)
    alone.policy.load_state_dict(made.policy.state_dict())
    assert np.array_equal(evaluate(alone, 32).returns, fixed.returns)
    assert not np.array_equal(fixed.returns, drawn.returns)
    with pytest.raises(InvalidConfig, match="gravity"):
        evaluate(made, 4, params={"gravity": 9.8})
    with pytest.raises(InvalidConfig, match="params"):
        evaluate(made, 4, params=[9.8])  # type: ignore[arg-type]


def test_those_of_each_environment_are_spread_over_as_many_as_play() -> None:
    made = learner(Pendulum(4, device="cpu", g=torch.tensor([1.0, 5.0, 10.0, 15.0])), n_steps=16)
    each = [evaluate(made, 8, params={"g": torch.full((8,), g)}).returns for g in (1.0, 5.0, 10.0, 15.0)]
    assert np.array_equal(evaluate(made, 8).returns, [each[place // 2][place] for place in range(8)])


def test_a_video_is_played_with_other_parameters(tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image")
    made = learner(CartPole(16, device="cpu", gravity="5..15"))
    played = [record(made, tmp_path / "one.gif", max_steps=20, params=params) for params in (None, {"force_mag": 1e3})]
    assert played[0] != played[1]


def test_a_run_tells_of_ranges_and_tensors(tmp_path: Path) -> None:
    env = Pendulum(16, device="cpu", g="5..15", l=torch.ones(16), m=torch.tensor(1.0))
    made = learner(env)
    with Run(made, tmp_path / "run"):
        made.learn(256)
    params = read_description(tmp_path / "run")["params"]
    assert (params["g"], params["l"], params["m"]) == ("5..15", "tensor (16,)", "tensor ()")
    json.dumps(params)


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_episodes_that_began_with_a_later_step_are_counted_in_no_metric(engine: str) -> None:
    """They are over sooner, and would pass for better ones where each step costs a reward."""
    env = operant_gpu.make("MountainCar-v0", 64, device="cpu")
    seen = list[dict[str, float]]()
    made = learner(env, engine=engine, staggered_starts=True, batch_size=512, seed=3)
    made.learn(64 * 8 * 60, callback=seen.append)
    begun = made.env.reset(seed=3, options={"elapsed": "random"}) and made.env.state_dict()["columns"]["elapsed"]
    assert int(begun.min()) < 20
    assert int(begun.max()) > 180
    # What takes no notice of its actions never gets there: every episode has 200 steps, the first ones less.
    for metrics in seen:
        steps = metrics["timesteps"] // 64
        ended = steps + begun
        # Of whole episodes: those that follow, and those that began with their first step.
        whole = int((ended // 200 - (begun > 0).int()).clamp(min=0).sum())
        assert metrics["episodes"] == whole
        assert np.isnan(metrics["episodic_return"]) if not whole else metrics["episodic_return"] == -200.0


def test_staggering_needs_a_limit() -> None:
    with pytest.raises(InvalidConfig, match="staggered_starts: environments without a time limit"):
        learner(Pendulum(16, device="cpu", max_episode_steps=-1), staggered_starts=True)
