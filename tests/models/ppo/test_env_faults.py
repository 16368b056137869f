"""Training on environments that go wrong: it stops with the policy as it was, or goes on without their steps."""

from __future__ import annotations

import copy
from typing import Any

import learned_together as program
import pytest
import torch
from contract_envs import assert_same_tensors
from faulty_envs import Ball
from together import results, together

import operant_gpu
from operant_gpu import InvalidConfig, TrainingError, VecEnv
from operant_gpu.envs import CartPole
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.models.ppo.rollout import Rollout
from operant_gpu.monitor import Run
from operant_gpu.vector import Faults

NUM_ENVS, STEPS = 24, 8
ENGINES = {"fused": {}, "eager": {"engine": "eager"}, "GRU": {"gru_size": 8, "engine": "eager"}}
every_engine = pytest.mark.parametrize("engine", ENGINES)


def balls(kind: int = 0, num_envs: int = NUM_ENVS, **settings: Any) -> VecEnv:
    return Ball(num_envs, device="cpu", debug="faults", kind=kind, **settings)


# That training goes on is said; one test looks at it.
pytestmark = pytest.mark.filterwarnings("ignore:steps go wrong in the environments:RuntimeWarning")


def learner_of(env: VecEnv, **settings: Any) -> PPO:
    usual = {"num_envs": env.num_envs, "n_steps": STEPS, "batch_size": 64, "n_epochs": 2, "seed": 3}
    return PPO(env, PPOConfig(**{**usual, **settings}))


def parameters(learner: PPO) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in learner.policy.named_parameters()}


@pytest.mark.quick
@every_engine
def test_training_stops_before_it_learns_of_what_went_wrong(engine: str) -> None:
    learner = learner_of(balls(), **ENGINES[engine])
    policies: list[dict[str, torch.Tensor]] = []
    with pytest.raises(TrainingError, match=r"went wrong, first environment \d+, episode 0, step \d+, action \d: "):
        learner.learn(NUM_ENVS * STEPS * 50, lambda _: policies.append(parameters(learner)))
    # The readings before it saw none.
    assert policies
    assert_same_tensors(parameters(learner), policies[-1])
    assert learner.env.faults().total > 0


@every_engine
def test_readings_that_are_far_apart_learn_nothing_in_between(engine: str) -> None:
    often, seldom = (learner_of(balls(), log_interval=interval, **ENGINES[engine]) for interval in (1, 50))
    for learner in (often, seldom):
        with pytest.raises(TrainingError, match="went wrong"):
            learner.learn(NUM_ENVS * STEPS * 50)
    assert_same_tensors(parameters(seldom), parameters(often))


@pytest.mark.quick
@every_engine
def test_training_goes_on_without_them(engine: str) -> None:
    env = balls(kind=1)
    learner = learner_of(env, on_fault="skip", **ENGINES[engine])
    before, seen = parameters(learner), []
    with pytest.warns(RuntimeWarning, match=r"^steps go wrong in the environments, first .*; training goes on without"):
        learner.learn(NUM_ENVS * STEPS * 30, lambda metrics: seen.append(dict(metrics)))
    assert env.faults().total > 5
    assert learner.timesteps == NUM_ENVS * STEPS * 30
    after = parameters(learner)
    assert all(one.isfinite().all() for one in after.values())
    assert any(not one.equal(before[name]) for name, one in after.items())
    assert all(metrics["entropy"] > 0 for metrics in seen)
    assert seen[-1]["episodes"] > 0


@every_engine
def test_steps_of_stopped_environments_are_those_of_others(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []
    leave_out = Rollout.leave_out

    def noting(self: Rollout, stopped: torch.Tensor) -> None:
        own = {name: one.clone() for name, one in self.steps._asdict().items() if one is not None}
        leave_out(self, stopped)
        changed = {name: one.clone() for name, one in self.steps._asdict().items() if one is not None}
        if stopped.any():
            kept.append((stopped.clone(), {"own": own, "changed": changed}))  # type: ignore[dict-item]

    monkeypatch.setattr(Rollout, "leave_out", noting)
    learner_of(balls(), on_fault="skip", **ENGINES[engine]).learn(NUM_ENVS * STEPS * 20)
    assert kept
    for stopped, both in kept:
        own, changed = both["own"], both["changed"]
        sound = (~stopped).nonzero()[:, 0]
        for name, tensor in changed.items():
            assert tensor[:, sound].equal(own[name][:, sound])
        for place, row in enumerate(stopped.nonzero()[:, 0].tolist()):
            # Of one sound environment all of it.
            sources = [
                j for j in sound.tolist() if all(one[:, row].equal(own[name][:, j]) for name, one in changed.items())
            ]
            assert sources, place


@every_engine
def test_the_fault_is_named_in_whatever_step_of_an_iteration_it_is(engine: str) -> None:
    env = CartPole(8, device="cpu", debug="faults", length=torch.full((8,), 0.5))
    learner = learner_of(env, **ENGINES[engine]).learn(8 * STEPS)
    before = parameters(learner)
    env.params.length[3] = 0.0
    with pytest.raises(TrainingError, match=r"^1 step went wrong, first environment 3, "):
        learner.learn(8 * STEPS)
    assert_same_tensors(parameters(learner), before)
    # What is mended is learned from: faults of before are none of this training's.
    env.params.length.fill_(0.5)
    learner.learn(8 * STEPS * 2)
    assert not env.stopped.any()
    assert any(not one.equal(before[name]) for name, one in parameters(learner).items())
    # Heat overflows in the second step, here the last.
    last = learner_of(balls(kind=2), n_steps=2, batch_size=None, **ENGINES[engine])
    with pytest.raises(TrainingError, match=rf"^{NUM_ENVS} steps went wrong, first environment 0, episode 0, step 1, "):
        last.learn(NUM_ENVS * 2)


def test_where_all_have_stopped_an_iteration_learns_nothing_and_the_next_begins_anew() -> None:
    env = balls(kind=2, num_envs=8)
    learner = learner_of(env, on_fault="skip")
    before = parameters(learner)
    learner.learn(8 * STEPS * 3)
    # Heat overflows in the second step, whatever is done.
    assert env.faults().total == 3 * 8
    assert_same_tensors(parameters(learner), before)


def test_the_setting_is_for_environments_that_keep_faults() -> None:
    env = Ball(8, device="cpu")
    with pytest.raises(InvalidConfig, match=r"^on_fault: 'skip' is for environments that keep faults: make them with"):
        learner_of(env, on_fault="skip")
    with pytest.raises(InvalidConfig, match=r"^on_fault: .*"):
        PPOConfig(on_fault="go on")


def test_copies_keep_the_setting() -> None:
    learner = learner_of(balls(kind=1), on_fault="skip").learn(NUM_ENVS * STEPS * 4)
    assert learner.env.stopped.any()
    twin = copy.deepcopy(learner)
    for other in (twin, learner):
        other.learn(NUM_ENVS * STEPS * 3)
    assert_same_tensors(parameters(twin), parameters(learner))


def test_what_begins_anew_has_no_memory_and_counts_in_no_mean() -> None:
    learner = learner_of(balls(kind=1), on_fault="skip", gru_size=8, normalize_rewards=True)
    learner.learn(NUM_ENVS * STEPS)
    rollout, telemetry, normalizer = learner._loop.rollout, learner._telemetry, learner.reward_normalizer
    assert rollout is not None
    assert normalizer is not None
    stopped = learner.env.stopped.clone()
    assert 0 < stopped.sum() < NUM_ENVS
    rollout.starts[-1], rollout.states[-1] = False, 1.0
    normalizer.returns.fill_(7.0)
    learner._loop.update.revive(rollout)
    assert rollout.starts[-1].equal(stopped)
    assert normalizer.returns.equal(torch.where(stopped, 0.0, 7.0))
    assert rollout.obs[-1].equal(learner.env.observe())
    # One step later three environments have ended their episodes, of which one has stopped.
    rollout.under_way.zero_()
    rollout.terminated.zero_()
    rollout.truncated.zero_()
    rollout.terminated[0, :3] = True
    telemetry._is_whole.fill_(True)
    before = telemetry._episodes.clone()
    one = torch.arange(NUM_ENVS) == 1
    telemetry.add_iteration(rollout, torch.tensor(0.0), one)
    assert (telemetry._episodes - before)[0] == 2
    assert telemetry._is_whole.all()


@every_engine
def test_a_training_that_is_gone_on_with_is_the_same(engine: str, tmp_path: Any) -> None:
    settings = {"on_fault": "skip", "normalize_rewards": True, **ENGINES[engine]}
    whole, half = (learner_of(balls(kind=1), **settings) for _ in range(2))
    steps = NUM_ENVS * STEPS
    whole.learn(8 * steps)
    half.learn(8 * steps, lambda metrics: metrics["timesteps"] < 4 * steps)
    assert half.env.stopped.any()
    half.save(tmp_path / "half.pt")
    again = resumed(tmp_path / "half.pt")
    again.resume()
    assert again.timesteps == whole.timesteps
    assert_same_tensors(parameters(again), parameters(whole))


def resumed(path: Any) -> PPO:
    if Ball.id not in operant_gpu.list_envs():
        operant_gpu.register(Ball)
    return PPO.load(path, device="cpu")


def test_a_run_keeps_the_faults(tmp_path: Any) -> None:
    with Run(learner_of(balls(), on_fault="skip"), tmp_path / "skips") as run:
        run.learner.learn(NUM_ENVS * STEPS * 20, run)
    faults = Faults.load(tmp_path / "skips" / "faults.pt")
    assert list(faults) == list(run.learner.env.faults())
    with pytest.raises(TrainingError, match="went wrong"), Run(learner_of(balls()), tmp_path / "stops") as run:
        run.learner.learn(NUM_ENVS * STEPS * 20, run)
    assert Faults.load(tmp_path / "stops" / "faults.pt").total == run.learner.env.faults().total
    with Run(learner_of(Ball(8, device="cpu")), tmp_path / "usual") as run:
        run.learner.learn(8 * STEPS, run)
    assert not (tmp_path / "usual" / "faults.pt").exists()


def test_all_processes_stop_where_the_steps_of_one_go_wrong() -> None:
    first, second = together(program.faults_of_one, "stop")
    assert first.error.startswith("TrainingError: 3 steps of rank 1 went wrong. The policy is as it was before; ")
    assert "3 steps of rank 1 went wrong, first environment 0, episode " in second.error


def test_all_processes_go_on_without_the_steps_of_one() -> None:
    one, other = results(program.faults_of_one, "skip")
    assert all(map(torch.equal, one, other))
