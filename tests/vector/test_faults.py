"""Steps that go wrong are found, kept and undone; everything else goes on as if nobody looked."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from contract_envs import assert_same_tensors, every_form, everything, invalid_actions, make_cpu, random_actions
from faulty_envs import Ball, Plates
from gymnasium import spaces
from mlp_policies import policy_for
from numpy.random import default_rng
from rollouts import all_names

import operant_gpu
from operant_gpu import AutoresetMode, CheckpointError, Environment, InvalidConfig, VecEnv
from operant_gpu.archives import archived
from operant_gpu.lang import jit, tl
from operant_gpu.random import integers
from operant_gpu.vector import Faults
from operant_gpu.vector.faults import CAPACITY


def outputs(result: tuple[Any, ...]) -> dict[str, torch.Tensor]:
    obs, reward, terminated, truncated, info = result
    named = {"obs": obs, "reward": reward, "terminated": terminated, "truncated": truncated}
    return {name: one.clone() for name, one in {**named, "final_obs": info["final_obs"], **info["episode"]}.items()}


def pair(name: str, backend: str, mode: AutoresetMode) -> tuple[VecEnv, VecEnv]:
    """Return environments that are alike, of which the second keep faults."""
    settings = {"autoreset_mode": mode, "max_episode_steps": 5}
    return make_cpu(name, 21, backend, **settings), make_cpu(name, 21, backend, **settings, debug="faults")


@every_form
def test_environments_that_keep_faults_do_what_others_do(name: str, backend: str, mode: AutoresetMode) -> None:
    usual, keeping = pair(name, backend, mode)
    for env in (usual, keeping):
        env.reset(seed=4)
    for step in range(8):
        actions = random_actions(usual, default_rng(step))
        results = [outputs(env.step(actions)) for env in (usual, keeping)]
        assert_same_tensors(results[1], results[0])
        if mode is AutoresetMode.DISABLED:
            for env in (usual, keeping):
                env.reset(options={"reset_mask": results[0]["terminated"] | results[0]["truncated"]})
    actions = torch.stack([random_actions(usual, default_rng(step)) for step in range(7)])
    for policy in (actions, policy_for(usual)):
        names = [one for one in all_names(usual) if policy is not actions or one not in POLICY_OUTPUTS]
        stored = [env.rollout(7, policy, out=names) for env in (usual, keeping)]
        assert_same_tensors(stored[1], stored[0])
    found = everything(keeping)
    assert not found.pop("columns.stopped").any()
    assert_same_tensors(found, everything(usual))
    assert not len(keeping.faults())
    assert not keeping.stopped.any()


POLICY_OUTPUTS = ("policy_action", "log_prob", "value", "final_value")


@every_form
def test_a_refused_action_stops_its_environment_alone(name: str, backend: str, mode: AutoresetMode) -> None:
    usual, keeping = pair(name, backend, mode)
    for env in (usual, keeping):
        env.reset(seed=4)
        env.step(random_actions(env, default_rng(0)))
    before = {key: one.clone() for key, one in everything(keeping).items()}
    sound = random_actions(usual, default_rng(1))
    bad = (~keeping._columns.ended).nonzero()[:2, 0].tolist()
    others = [row for row in range(21) if row not in bad]
    expected = outputs(usual.step(sound))
    found = outputs(keeping.step(invalid_actions(keeping, sound, bad)))
    assert_same_tensors(*({key: one[others] for key, one in part.items()} for part in (found, expected)))
    assert (found["reward"][bad] == 0).all()
    assert not (found["terminated"] | found["truncated"])[bad].any()
    # What a refused step left, and one that was never taken.
    after = everything(keeping)
    clock = ("columns.elapsed", "columns.ended", "columns.episode_return", "columns.stopped")
    for key in after:
        if key not in clock:
            assert after[key][bad].equal(before[key][bad]), key
    assert keeping.stopped.nonzero()[:, 0].tolist() == bad
    faults = keeping.faults()
    assert [(fault.row, fault.found) for fault in faults] == [(row, ("the action is refused",)) for row in bad]
    assert (len(faults), faults.total) == (2, 2)
    if mode is not AutoresetMode.DISABLED:
        keeping.check()
    # They stay so, whatever comes, until they are reset.
    state = {key: one[bad].clone() for key, one in keeping.state._asdict().items()}
    keeping.rollout(4, torch.stack([sound] * 4))
    assert_same_tensors({key: one[bad] for key, one in keeping.state._asdict().items()}, state)
    keeping.reset(options={"reset_mask": torch.arange(21) == bad[0]})
    assert keeping.stopped.nonzero()[:, 0].tolist() == bad[1:]
    assert len(keeping.faults()) == 2


def fallen(kind: int, num_envs: int = 8, steps: int = 25, **settings: Any) -> VecEnv:
    """Return balls most of which have gone wrong: of kind 2 all."""
    env = Ball(num_envs, device="cpu", debug="faults", kind=kind, **settings)
    env.reset(seed=1)
    env.rollout(steps, torch.zeros(steps, num_envs, dtype=torch.int64))
    return env


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_what_is_not_finite_stops_before_it_is_seen(kind: int, backend: str) -> None:
    env = fallen(kind, backend=backend)
    assert env.stopped.all()
    faults = env.faults()
    assert sorted(fault.row for fault in faults) == list(range(8))
    assert {fault.found for fault in faults} == {("the state is not finite", "the observation is not finite")}
    assert env.observe().isfinite().all()
    assert all(column.isfinite().all() for column in env.state)
    # The same step goes wrong anywhere.
    again = Ball(len(faults), device="cpu", kind=kind, autoreset_mode="disabled")
    again.restore(faults.snapshot)
    for fault, row in zip(faults, again.step([0] * 8)[0], strict=True):
        assert not row.isfinite().all(), fault
        assert (fault.seed, fault.env_id, fault.episode) == (1, fault.row, 0)


def test_boards_and_rewards_are_looked_at_too() -> None:
    env = Plates(64, device="cpu", debug="faults")
    env.reset(seed=1)
    env.rollout(60)
    faults = env.faults()
    assert faults.total >= 10
    assert any("the reward is not finite" in fault.found for fault in faults)
    assert all(column.isfinite().all() for column in env.state)


def test_statistics_leave_out_what_went_wrong() -> None:
    env = fallen(0, num_envs=200, steps=60)
    logs, usual = env.get_logs(), Ball(200, device="cpu", kind=0)
    usual.reset(seed=1)
    usual.rollout(60, torch.zeros(60, 200, dtype=torch.int64))
    assert usual.get_logs()["episode_count"] > logs["episode_count"] >= 0


def test_the_first_hundred_are_kept_and_all_are_counted() -> None:
    env = fallen(2, num_envs=CAPACITY + 30)
    faults = env.faults()
    assert (len(faults), faults.total) == (CAPACITY, CAPACITY + 30)
    assert repr(faults) == f"Faults(Ball-v0, {CAPACITY} of {CAPACITY + 30})"
    assert [fault.row for fault in faults[:3]] == [faults[0].row, faults[1].row, faults[2].row]
    assert faults[-1].row == faults[CAPACITY - 1].row
    first = {fault.row for fault in faults}
    env.reset(options={"reset_mask": torch.ones(CAPACITY + 30, dtype=torch.bool)})
    env.rollout(10)
    assert {fault.row for fault in env.faults()} == first
    assert env.faults().total == 2 * (CAPACITY + 30)


def test_faults_in_a_file_are_the_same(tmp_path: Path) -> None:
    env = fallen(1)
    path = tmp_path / "faults.pt"
    env.save_faults(path)
    read, faults = Faults.load(path), env.faults()
    assert list(read) == list(faults)
    assert list(map(str, read)) == list(map(str, faults))
    assert_same_tensors(dict(read.snapshot.state), dict(faults.snapshot.state))
    assert str(read.explain(Ball, 2)) == str(env.explain(faults.snapshot, faults[2].action, 2))
    with pytest.raises(InvalidConfig, match=r"^env: the faults are of Ball-v0, got Plates-v0: give its own"):
        read.explain(Plates)
    path.write_bytes(archived({"format": 1}))
    with pytest.raises(CheckpointError, match="it lacks actions"):
        Faults.load(path)
    env.snapshot().save(path)
    with pytest.raises(CheckpointError, match="it lacks actions"):
        Faults.load(path)
    with pytest.raises(InvalidConfig, match=r"^path: there is no file .*"):
        Faults.load(tmp_path / "none.pt")


def test_without_the_mode_nothing_is_kept() -> None:
    env = operant_gpu.make("CartPole-v1", 4, device="cpu")
    assert env.stopped is env.fault_count is None
    with pytest.raises(InvalidConfig, match=r"^debug: no faults are kept: make the environments with debug='faults'"):
        env.faults()
    with pytest.raises(InvalidConfig, match=r"^debug: expected 'faults', or True or False, got 'all'"):
        operant_gpu.make("CartPole-v1", 4, device="cpu", debug="all")


def test_twins_keep_faults_of_their_own() -> None:
    env = fallen(2)
    twin = copy.deepcopy(env)
    assert twin.faults().total == 0
    assert twin.stopped.equal(env.stopped)
    twin.reset(options={"reset_mask": torch.ones(8, dtype=torch.bool)})
    assert env.stopped.all()


def test_what_was_written_to_a_parameter_is_replayed_though_nobody_may_give_it(tmp_path: Path) -> None:
    lengths = torch.full((6,), 0.5)
    env = operant_gpu.make("CartPole-v1", 6, length=lengths, gravity=torch.tensor(9.0), device="cpu", debug="faults")
    env.reset(seed=0)
    env.params.length[4] = 0.0
    env.params.gravity.fill_(1.5)
    env.rollout(3)
    env.save_faults(tmp_path / "faults.pt")
    explanation = Faults.load(tmp_path / "faults.pt").explain(env.environment)
    first = explanation.first_fault
    assert first is not None
    assert first.text.startswith("theta_acc = (params.gravity * sin")
    assert str(explanation) == str(env.explain(env.faults().snapshot, env.faults()[0].action))


def test_what_becomes_another_environment_goes_on() -> None:
    def broken(row: int) -> VecEnv:
        env = operant_gpu.make("CartPole-v1", 4, length=torch.full((4,), 0.5), device="cpu", debug="faults")
        env.reset(seed=0)
        env.params.length[row] = 0.0
        env.rollout(3)
        assert env.stopped.tolist() == [place == row for place in range(4)]
        return env

    good = operant_gpu.make("CartPole-v1", 4, length=torch.full((4,), 0.5), device="cpu")
    good.reset(seed=0)
    for make_well in (
        lambda env: env.restore(good.snapshot([1]), [2]),
        lambda env: env.restore(good.snapshot()),
        lambda env: env.branch([1], [2]),
        lambda env: env.branch([1, 1, 1, 1]),
        lambda env: env.load_state_dict(good.state_dict()),
    ):
        env = broken(2)
        make_well(env)
        assert not env.stopped.any()
        x = env.state.x.clone()
        env.rollout(3)
        assert (env.state.x != x).all()
        assert env.faults().total == 1
    # Others stay where they are.
    env = broken(2)
    env.branch([1], [3])
    assert env.stopped.tolist() == [False, False, True, False]


def test_values_of_what_has_stopped_are_none() -> None:
    env = Ball(16, device="cpu", debug="faults", kind=1)
    env.reset(seed=1)
    stored = env.rollout(3, policy_for(env), out=["value", "final_value", "reward", "obs", "final_obs"])
    assert env.stopped.any()
    assert all(tensor.isfinite().all() for tensor in stored.values())
    assert (stored["final_value"][-1, env.stopped] == 0).all()
    assert (stored["final_value"][-1, ~env.stopped] != 0).all()


BROKEN = {
    "rows": None,
    "kinds": torch.zeros(8, 2),
    "actions": torch.zeros(3),
    "params": [1],
    "tables": {"prices": 1},
    "max_episode_steps": "ten",
    "total": None,
    "snapshot": {},
}


@pytest.mark.parametrize("part", BROKEN)
def test_files_that_hold_something_else_are_refused(part: str, tmp_path: Path) -> None:
    path = tmp_path / "faults.pt"
    fallen(1).save_faults(path)
    content = torch.load(path, weights_only=True)
    path.write_bytes(archived({**content, part: BROKEN[part]}))
    with pytest.raises(CheckpointError, match="does not hold together"):
        Faults.load(path)


def test_a_fault_that_is_not_there_is_refused() -> None:
    faults = fallen(1).faults()
    for place in (8, -1, 1.5, None, "a"):
        with pytest.raises(InvalidConfig, match=r"^place: expected an integer from 0 to 7"):
            faults.explain(Ball, place)
    with pytest.raises(InvalidConfig, match=r"^environment: expected an Environment or a CudaEnvironment"):
        faults.explain("Ball-v0")


def test_a_definition_that_has_changed_since_is_refused() -> None:
    faults = fallen(1).faults()

    class OtherParams(NamedTuple):
        kind: int = 0
        friction: float = 0.1

    class OtherState(NamedTuple):
        height: tl.float32
        speed: tl.float64
        heat: tl.float32

    for change, message in (
        ({"params": OtherParams}, "params of Ball-v0 were drag, kind when the faults were kept, now friction, kind"),
        (
            {"state": Plates.state},
            "state of Ball-v0 were heat, height, speed when .* now heights, place",
        ),
        ({"state": OtherState}, "the state or the actions of Ball-v0 had other dtypes when"),
        ({"action_space": spaces.MultiDiscrete([3, 3])}, "the state or the actions of Ball-v0 had other dtypes when"),
    ):
        with pytest.raises(InvalidConfig, match=f"^env: {message}"):
            faults.explain(dataclasses.replace(Ball, **change))


class ShadeState(NamedTuple):
    left: tl.int32


@jit
def shade_reset(rng, params):
    return ShadeState(integers(rng, 0, 2, 6))


@jit
def shade_step(state, action, rng, params):
    left = state.left - 1
    return ShadeState(left), 1.0, left < params.last


@jit
def shade_observe(state, params):
    return (1.0 / state.left,)


class ShadeParams(NamedTuple):
    last: int = 1


# What is seen alone is not finite: in the last step of an episode, or of one that goes on.
Shade = Environment(
    id="Shade-v0",
    state=ShadeState,
    params=ShadeParams,
    reset=shade_reset,
    step=shade_step,
    observe=shade_observe,
    observation_space=spaces.Box(-np.inf, np.inf, (1,)),
    action_space=spaces.Discrete(2),
)


@pytest.mark.parametrize("last", [1, 0], ids=["final observation", "observation"])
@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name.lower())
def test_an_observation_that_is_not_finite_is_found_and_leaves_no_trace(last: int, mode: AutoresetMode) -> None:
    env = Shade(40, device="cpu", debug="faults", autoreset_mode=mode, last=last)
    env.reset(seed=1)
    left = env.state.left.clone()
    for step in range(1, 8):
        obs, reward, terminated, truncated, info = env.step([0] * 40)
        wrong = left - step == 0
        assert env.stopped.equal(left - step <= 0)
        # Whoever stopped, in this step or before, is as it was, and has not ended.
        assert obs.isfinite().all()
        assert info["final_obs"].isfinite().all()
        assert (reward[env.stopped] == 0).all()
        assert not (terminated | truncated)[env.stopped].any()
        assert (env.state.left[wrong] == 1).all()
        assert (obs[env.stopped] == 1.0).all()
        assert (info["final_obs"][env.stopped] == 1.0).all()
        assert not info["_episode"][env.stopped].any()
    faults = env.faults()
    assert faults.total == 40
    assert {fault.found for fault in faults} == {("the observation is not finite",)}
    # The rows before, and not after.
    assert faults.snapshot.state["left"].tolist() == [1] * 40
    assert [fault.step for fault in faults] == [int(left[fault.row]) - 1 for fault in faults]
    assert env.get_logs()["episode_count"] == 0


def test_what_stops_at_the_beginning_of_an_episode_ended_the_one_before_once() -> None:
    env = Ball(30, device="cpu", debug="faults", kind=1, max_episode_steps=1)
    env.reset(seed=2)
    pushes = torch.full((30,), 2)
    env.step(pushes)
    assert env._columns.ended.all()
    # A push down, from a speed that is below -1.
    env.state.speed[:9] = -5.0
    for _ in range(3):
        *_, info = env.step(pushes)
        assert env.stopped.nonzero()[:, 0].tolist() == list(range(9))
        assert not info["_episode"][:9].any()
        assert (info["episode"]["l"][:9] == 0).all()
        assert (info["episode"]["r"][:9] == 0).all()
        assert (info["metrics"]["way"][:9] == 0).all()
        assert info["_episode"][9:].all()
    assert env.get_logs()["episode_count"] == 30 + 3 * 21
