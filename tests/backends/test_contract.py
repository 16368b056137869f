"""What every environment promises, on every backend, in every auto-reset mode."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from contract_envs import (
    CASES,
    assert_same_tensors,
    every_environment,
    every_form,
    everything,
    make_cpu,
    random_actions,
)
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space

from operant_gpu import AutoresetMode, VecEnv
from operant_gpu.spaces import observation_layout

NUM_ENVS = 13
# Short episodes: each run below sees many ends, of both kinds where the environment terminates.
LIMIT = 3
STEPS = 7


def make(name: str, backend: str, mode: AutoresetMode, **settings: Any) -> VecEnv:
    settings = {"max_episode_steps": LIMIT, **settings}
    return make_cpu(name, NUM_ENVS, backend, autoreset_mode=mode, **settings)


class Transition(NamedTuple):
    """Copies of what one step returned."""

    obs: torch.Tensor
    reward: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    final_obs: torch.Tensor
    ended: torch.Tensor
    episode_return: torch.Tensor
    length: torch.Tensor

    @property
    def done(self) -> torch.Tensor:
        return self.terminated | self.truncated


def transition(env: VecEnv, actions: torch.Tensor) -> Transition:
    obs, reward, terminated, truncated, info = env.step(actions)
    assert info["_final_obs"].equal(info["_episode"])
    episode = info["episode"]
    parts = (obs, reward, terminated, truncated, info["final_obs"], info["_final_obs"], episode["r"], episode["l"])
    return Transition(*(part.clone() for part in parts))


def run(env: VecEnv, steps: int = STEPS, action_seed: int = 0) -> list[Transition]:
    """Step with random actions; where the caller has to reset, reset what ended at once."""
    rng = np.random.default_rng(action_seed)
    transitions = []
    for _ in range(steps):
        transitions.append(transition(env, random_actions(env, rng)))
        if env.autoreset_mode is AutoresetMode.DISABLED:
            env.reset(options={"reset_mask": transitions[-1].done})
    return transitions


def assert_observations(env: VecEnv, obs: torch.Tensor) -> None:
    assert obs.shape == (NUM_ENVS, *env.single_observation_space.shape)
    assert (obs.dtype, obs.device) == (observation_layout(env.single_observation_space).torch_dtype, env.device)
    outside = [row.tolist() for row in obs if not env.single_observation_space.contains(row.numpy())]
    assert not outside


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_an_environment_is_a_gymnasium_vector_env_with_batched_spaces(name: str, backend: str) -> None:
    env = make(name, backend, AutoresetMode.SAME_STEP)
    assert isinstance(env, VectorEnv)
    assert (env.num_envs, env.backend, env.device) == (NUM_ENVS, backend, torch.device("cpu"))
    assert env.observation_space == batch_space(env.single_observation_space, NUM_ENVS)
    assert env.action_space == batch_space(env.single_action_space, NUM_ENVS)
    columns = env.environment.column_types(env.given_params).values()
    assert [column.shape for column in env.state] == [(NUM_ENVS, *column.shape) for column in columns]


@every_form
def test_shapes_dtypes_and_bounds(name: str, backend: str, mode: AutoresetMode) -> None:
    env = make(name, backend, mode)
    assert env.autoreset_mode is env.metadata["autoreset_mode"] is mode
    obs, info = env.reset(seed=5)
    assert list(info) == ([] if env.action_mask is None else ["action_mask"])
    assert_observations(env, obs)
    for moved in run(env):
        assert_observations(env, moved.obs)
        assert_observations(env, moved.final_obs)
        assert moved.reward.isfinite().all()
        for part, dtype in (
            (moved.reward, torch.float32),
            (moved.terminated, torch.bool),
            (moved.truncated, torch.bool),
            (moved.ended, torch.bool),
            (moved.episode_return, torch.float64),
            (moved.length, torch.int32),
        ):
            assert (part.shape, part.dtype, part.device) == ((NUM_ENVS,), dtype, env.device)


@every_form
def test_the_same_seed_gives_the_same_run_bit_for_bit(name: str, backend: str, mode: AutoresetMode) -> None:
    def recorded(seed: int) -> dict[str, torch.Tensor]:
        env = make(name, backend, mode)
        first = env.reset(seed=seed)[0].clone()
        runs = {
            f"{step}.{part}": value for step, moved in enumerate(run(env)) for part, value in moved._asdict().items()
        }
        return {"first": first, **runs, **everything(env)}

    one = recorded(seed=7)
    assert_same_tensors(one, recorded(seed=7))
    other = recorded(seed=8)
    # Some games begin alike: chance shows as they go on.
    assert any(not one[key].equal(other[key]) for key in one if key != "columns.seed")


@pytest.mark.quick
@every_environment
def test_statistics_equal_sums_taken_by_hand(name: str, backend: str, mode: AutoresetMode) -> None:
    env = make(name, backend, mode)
    env.reset(seed=3)
    returns, lengths = np.zeros(NUM_ENVS), np.zeros(NUM_ENVS, int)
    finished: list[tuple[float, int]] = []
    resetting = np.zeros(NUM_ENVS, bool)
    for moved in run(env):
        # The step that resets (NEXT_STEP) belongs to no episode: it earns nothing and does not count.
        returns += moved.reward.double().numpy()
        lengths += ~resetting
        assert not moved.reward[torch.from_numpy(resetting)].any()
        done = moved.done.numpy()
        assert np.array_equal(moved.ended.numpy(), done)
        assert np.array_equal(moved.length.numpy(), lengths)
        np.testing.assert_allclose(moved.episode_return.numpy(), returns, rtol=1e-5, atol=1e-5)
        finished += zip(returns[done].tolist(), lengths[done].tolist())
        returns[done] = lengths[done] = 0
        resetting = done if mode is AutoresetMode.NEXT_STEP else resetting
    assert len(finished) >= NUM_ENVS

    logs = env.get_logs(clear=True)
    mean_return, mean_length = np.mean(finished, axis=0)
    assert logs["episode_count"] == len(finished)
    assert logs["mean_length"] == pytest.approx(mean_length)
    assert logs["mean_reward"] == pytest.approx(mean_return, rel=1e-5, abs=1e-5)
    cleared = env.get_logs()
    assert cleared["episode_count"] == 0
    assert np.isnan([cleared["mean_reward"], cleared["mean_length"]]).all()


@pytest.mark.quick
@every_environment
def test_ends_show_the_last_observation_and_begin_anew_when_the_mode_says(
    name: str, backend: str, mode: AutoresetMode
) -> None:
    env = make(name, backend, mode)
    env.reset(seed=3)
    rng = np.random.default_rng(0)
    previous: Transition | None = None
    for _ in range(STEPS):
        moved = transition(env, random_actions(env, rng))
        fresh = everything(env)["columns.elapsed"] == 0
        if mode is AutoresetMode.SAME_STEP:
            changed = (moved.obs != moved.final_obs).reshape(NUM_ENVS, -1).any(1)
            assert not changed[~moved.done].any()
            assert changed[moved.done].any() == bool(moved.done.any())
        else:
            assert moved.obs.equal(moved.final_obs)
        if previous is not None:
            restarted = previous.done if mode is AutoresetMode.NEXT_STEP else torch.zeros_like(previous.done)
            assert fresh.equal(restarted)
            if mode is AutoresetMode.DISABLED:
                # Left alone, an ended episode stands still.
                assert moved.obs[previous.ended].equal(previous.obs[previous.ended])
                assert moved.ended[previous.ended].all()
        previous = moved


@every_form
def test_a_restored_environment_goes_on_as_the_first_did(name: str, backend: str, mode: AutoresetMode) -> None:
    env, restored = make(name, backend, mode), make(name, backend, mode)
    env.reset(seed=11)
    run(env, 2)
    saved = env.state_dict()
    obs = env.observe().clone()
    expected = run(env, 4, action_seed=1)
    # What was saved is a copy: going on has not changed it.
    restored.load_state_dict(saved)
    assert restored.observe().equal(obs)
    for one, other in zip(expected, run(restored, 4, action_seed=1), strict=True):
        assert_same_tensors(one._asdict(), other._asdict())
    assert_same_tensors(everything(env), everything(restored))


@every_form
def test_arguments_are_read_only_and_results_are_the_same_memory(name: str, backend: str, mode: AutoresetMode) -> None:
    env = make(name, backend, mode)
    first = env.reset(seed=1)[0]
    actions = random_actions(env, np.random.default_rng(0))
    given = actions.clone()
    results = [env.step(actions) for _ in range(LIMIT)]
    assert actions.equal(given)
    assert len({obs.data_ptr() for obs, *_ in results} | {first.data_ptr()}) == 1
    for position in (1, 2, 3):
        assert len({result[position].data_ptr() for result in results}) == 1

    mask = results[-1][2] | results[-1][3]
    options = {"reset_mask": mask.clone()}
    env.reset(options=options)
    assert list(options) == ["reset_mask"]
    assert options["reset_mask"].equal(mask)


@every_form
def test_copies_are_fresh_and_stay_as_they_were(name: str, backend: str, mode: AutoresetMode) -> None:
    env, shared = make(name, backend, mode, copy=True), make(name, backend, mode)
    kept = [env.reset(seed=1)[0]]
    expected = [shared.reset(seed=1)[0].clone()]
    rng = np.random.default_rng(0)
    for _ in range(LIMIT + 1):
        actions = random_actions(env, rng)
        obs, reward, terminated, truncated, info = env.step(actions)
        kept += [obs, reward, terminated, truncated, info["final_obs"], info["episode"]["r"], info["episode"]["l"]]
        obs, reward, terminated, truncated, info = shared.step(actions)
        parts = [obs, reward, terminated, truncated, info["final_obs"], info["episode"]["r"], info["episode"]["l"]]
        expected += [part.clone() for part in parts]
    assert len({tensor.data_ptr() for tensor in kept}) == len(kept)
    assert all(one.equal(other) for one, other in zip(kept, expected, strict=True))
