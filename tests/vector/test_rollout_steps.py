"""A rollout is as many single steps: the same states, flags, rewards, observations and statistics, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contract_envs import assert_same_tensors, every_mode, everything
from here import HAS_TRITON
from rollouts import (
    LIMIT,
    NUM_ENVS,
    assert_same_environments,
    every_environment,
    every_form,
    future,
    given_actions,
    joined,
    make,
    output_names,
    random_by_hand,
    single_steps,
    single_steps_and_streams,
)

from operant_gpu import ActionError, AutoresetMode, VecEnv
from operant_gpu.spaces import action_layout

STEPS = 7


def reset_some(*envs: VecEnv) -> None:
    """Begin anew in the midst of episodes, and where they ended if that is the caller's business."""
    for env in envs:
        mask = torch.arange(env.num_envs) % 4 == 1
        if env.autoreset_mode is AutoresetMode.DISABLED:
            mask |= everything(env)["columns.ended"]
        env.reset(options={"reset_mask": mask})


@pytest.mark.quick
@every_environment
def test_a_rollout_equals_single_steps(name: str, backend: str, mode: AutoresetMode) -> None:
    env, reference = make(name, backend, mode), make(name, backend, mode)
    present, expected_present = (each.reset(seed=3)[0] for each in (env, reference))
    ends = 0
    # The interpreter has one of each.
    for run, is_random in enumerate([True, False] if backend == "triton" else [True, False, True, False]):
        # Each rollout begins in the middle of episodes, where some have just ended.
        before = given_actions(env, 1 + run, seed=run)
        assert_same_tensors(single_steps(env, before), single_steps(reference, before))
        late = everything(env)["columns.late_steps"]
        actions = given_actions(env, STEPS, seed=run)
        stored = env.rollout(STEPS, "random" if is_random else actions, output_names(env))
        assert is_random or stored["action"].equal(actions)
        assert_same_tensors(stored, single_steps(reference, stored["action"]))
        assert_same_environments(env, reference)
        assert everything(env)["columns.late_steps"].equal(late)
        # Without a call of `observe`.
        assert present.equal(expected_present)
        if env.action_mask is not None:
            assert env.action_mask.equal(reference.action_mask)
        assert env.observe().equal(expected_present)
        ends += int((stored["terminated"] | stored["truncated"]).sum())
        reset_some(env, reference)
    assert ends >= NUM_ENVS


@every_mode
@pytest.mark.parametrize("name", ["CartPole-v1", "Ledge-v0", *([] if HAS_TRITON else ["Drift-v0", "Dials-v0"])])
def test_long_episodes_end_by_termination_and_by_the_limit(name: str, backend: str, mode: AutoresetMode) -> None:
    # Of the interpreter's poles, which are seldom down so soon, all begin tilted.
    steps, limit, tilt = (24, 9, 0.12) if backend == "triton" else (45, 18, 0.0)
    settings = {"max_episode_steps": limit, "num_envs": 41}
    env, reference = make(name, backend, mode, **settings), make(name, backend, mode, **settings)
    for each in (env, reference):
        each.reset(seed=8)
        if name == "CartPole-v1":
            each.state.theta.add_(tilt)
    stored = env.rollout(steps, "random", output_names(env))
    assert_same_tensors(stored, single_steps(reference, stored["action"]))
    assert_same_environments(env, reference)
    assert stored["terminated"].any()
    assert stored["truncated"].any()
    # What is beyond the statistics of one step: those of all.
    logs = env.get_logs()
    assert logs["episode_count"] == int((stored["terminated"] | stored["truncated"]).sum())


@every_mode
@pytest.mark.parametrize("name", ["Drift-v0", "Ledge-v0"])
@pytest.mark.parametrize("num_envs", [1, 5])
def test_episodes_of_one_step_and_rollouts_of_one(name: str, backend: str, mode: AutoresetMode, num_envs: int) -> None:
    settings = {"max_episode_steps": 1, "num_envs": num_envs}
    env, reference = make(name, backend, mode, **settings), make(name, backend, mode, **settings)
    for each in (env, reference):
        each.reset(seed=2)
    for steps in (1, 1, np.int64(4), 1):
        stored = env.rollout(steps, "random", output_names(env))
        assert stored["reward"].shape == (steps, num_envs)
        assert_same_tensors(stored, single_steps(reference, stored["action"]))
        assert_same_environments(env, reference)


def test_ended_episodes_wait_without_reward_and_without_being_late(backend: str) -> None:
    env = make("Ledge-v0", backend, AutoresetMode.DISABLED)
    env.reset(seed=1)
    stored = env.rollout(3 * LIMIT, "random", output_names(env))
    done = (stored["terminated"] | stored["truncated"]).int()
    assert done.sum(0).equal(torch.ones(NUM_ENVS, dtype=torch.int64))
    waits = (done.cumsum(0) - done).bool()
    assert waits[LIMIT:].all()
    assert not stored["reward"][waits].any()
    assert stored["final_obs"][waits].equal(stored["obs"][waits])
    env.check()
    assert env.get_logs()["episode_count"] == NUM_ENVS
    # A single step is late, as ever, and a rollout forgets none of those.
    env.step(given_actions(env, 1)[0])
    env.rollout(2)
    with pytest.raises(ActionError, match=rf"^{NUM_ENVS} steps of ended episodes"):
        env.check()


@every_environment
def test_random_actions_come_from_the_policys_stream_by_step_within_the_episode(
    name: str, backend: str, mode: AutoresetMode
) -> None:
    env, reference = make(name, backend, mode, first_env_id=7), make(name, backend, mode, first_env_id=7)
    for each in (env, reference):
        each.reset(seed=2**40 + 3)
    names = output_names(env)
    stored = joined(env.rollout(2, "random", names), env.rollout(STEPS, "random", names))
    streams = single_steps_and_streams(reference, stored["action"])[1]
    layout = action_layout(env.single_action_space)
    masks = stored.get("action_mask", [None] * len(streams))
    for action, stream, mask in zip(stored["action"], streams, masks, strict=True):
        assert action.equal(random_by_hand(layout, stream, mask))


@every_form
def test_two_rollouts_equal_one(name: str, backend: str, mode: AutoresetMode) -> None:
    halves, whole = make(name, backend, mode), make(name, backend, mode)
    for env in (halves, whole):
        env.reset(seed=4)
    actions, names = given_actions(whole, STEPS), output_names(whole)
    for first, second, both in (("random",) * 3, (actions[:4], actions[4:], actions)):
        parts = halves.rollout(4, first, names), halves.rollout(STEPS - 4, second, names)
        assert_same_tensors(joined(*parts), whole.rollout(STEPS, both, names))
        assert_same_tensors(everything(halves), everything(whole))
        reset_some(halves, whole)


@every_form
def test_a_rollout_depends_neither_on_the_batch_nor_on_the_place_in_it(
    name: str, backend: str, mode: AutoresetMode
) -> None:
    large = make(name, backend, mode, num_envs=1041)
    large.reset(seed=6)
    names = output_names(large)
    expected = large.rollout(STEPS, "random", names)
    for first, count in ((5, 1), (1000, 41)):
        env = make(name, backend, mode, num_envs=count, first_env_id=first)
        env.reset(seed=6)
        rows = slice(first, first + count)
        assert_same_tensors(
            env.rollout(STEPS, "random", names), {key: tensor[:, rows] for key, tensor in expected.items()}
        )
        assert_same_tensors(everything(env), {key: column[rows] for key, column in everything(large).items()})


@every_form
def test_seeds_repeat_and_differ(name: str, backend: str, mode: AutoresetMode) -> None:
    env = make(name, backend, mode)
    names = output_names(env)

    def run(seed: int) -> dict[str, torch.Tensor]:
        env.reset(seed=seed)
        return env.rollout(STEPS, "random", names)

    first = run(9)
    assert_same_tensors(first, run(9))
    other = run(10)
    assert not first["action"].equal(other["action"])
    assert not first["obs"].equal(other["obs"])
    # Later episodes of one stream are others than the first.
    env.reset(seed=9)
    env.reset()
    assert not env.rollout(STEPS, "random", names)["action"].equal(first["action"])
    # Environments of one seed act alike, wherever they stand.
    env.reset(seed=[9] * NUM_ENVS)
    action = env.rollout(STEPS, "random", names)["action"]
    assert action.equal(action[:, :1].expand_as(action))


@every_form
def test_what_is_stored_changes_nothing(name: str, backend: str, mode: AutoresetMode) -> None:
    def after(is_stored: bool) -> dict[str, torch.Tensor]:
        env = make(name, backend, mode)
        obs = env.reset(seed=12)[0]
        env.rollout(2 * LIMIT, out=output_names(env) if is_stored else ())
        return {"obs": obs, **future(env)}

    assert_same_tensors(after(False), after(True))


def test_a_state_that_was_written_is_where_a_rollout_begins(backend: str) -> None:
    env, reference = make("Ledge-v0", backend, num_envs=400), make("Ledge-v0", backend, num_envs=400)
    for each in (env, reference):
        each.reset(seed=1)
        each.state.x.zero_()
        each.state.breath.fill_(4)
        each.state.winded.fill_(True)
    stored = env.rollout(2, "random", output_names(env))
    assert stored["obs"][0].unique(dim=0).tolist() == [[0.0, 4.0, 1.0]]
    assert stored["action_mask"][0].unique(dim=0).tolist() == [[True, False, True, True, True]]
    # Actions 1 to 5: not to the left, from the ledge's end.
    assert stored["action"][0].unique().tolist() == [1, 3, 4, 5]
    assert_same_tensors(stored, single_steps(reference, stored["action"]))
    # The mask is that of the state also where nobody asks for it.
    env.state.x.zero_()
    assert 2 not in env.rollout(1, "random", ["action"])["action"]


@every_mode
def test_the_arrays_of_a_step_are_not_written(backend: str, mode: AutoresetMode) -> None:
    env = make("Ledge-v0", backend, mode)
    env.reset(seed=1)
    _, reward, terminated, truncated, info = env.step(given_actions(env, 1)[0])
    arrays = {"reward": reward, "terminated": terminated, "truncated": truncated}
    if mode is AutoresetMode.SAME_STEP:
        arrays["final_obs"] = info["final_obs"]
    before = {key: array.clone() for key, array in arrays.items()}
    for names in ((), ("obs",), output_names(env)):
        env.rollout(LIMIT - 1, out=names)
        assert_same_tensors(arrays, before)


def test_copies_that_reset_returned_stay_as_they_were(backend: str) -> None:
    env = make("CartPole-v1", backend, copy=True)
    first = env.reset(seed=1)[0]
    kept = first.clone()
    stored = env.rollout(2, out=["obs"])["obs"]
    assert first.equal(kept)
    assert stored[0].equal(kept)
    assert not env.observe().equal(kept)


@every_mode
def test_a_restored_environment_goes_on_with_the_same_rollout(backend: str, mode: AutoresetMode) -> None:
    env, restored = make("MaskedDials-v0", backend, mode), make("MaskedDials-v0", backend, mode)
    env.reset(seed=1)
    env.rollout(LIMIT)
    restored.load_state_dict(env.state_dict())
    names = output_names(env)
    assert_same_tensors(env.rollout(STEPS, out=names), restored.rollout(STEPS, out=names))
