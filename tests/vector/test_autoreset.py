"""When episodes end and begin: timelines of the three auto-reset modes, masked resets, seeds, statistics."""

from __future__ import annotations

import types
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from contract_envs import Drift, assert_same_tensors, every_mode, everything, random_actions
from gymnasium import spaces
from gymnasium.wrappers import vector as wrappers

from operant_gpu import ActionError, AutoresetMode, Environment, VecEnv
from operant_gpu.lang import jit, tl
from operant_gpu.random import uniform


class CounterState(NamedTuple):
    steps: tl.int32
    length: tl.int32
    token: tl.float32


class CounterParams(NamedTuple):
    length: int = 2


@jit
def counter_reset(rng, params):
    return CounterState(steps=0, length=params.length, token=uniform(rng, 0))


@jit
def counter_step(state, action, rng, params):
    steps = state.steps + 1
    return CounterState(steps, state.length, state.token), steps, steps >= state.length


@jit
def counter_observe(state, params):
    return state.steps, state.token


# Step k of an episode earns k. `length` can be written through the state; `token` tells an episode from all others.
Counter = Environment(
    id="Counter-v0",
    state=CounterState,
    params=CounterParams,
    reset=counter_reset,
    step=counter_step,
    observe=counter_observe,
    observation_space=spaces.Box(0.0, np.inf, (2,)),
    action_space=spaces.Discrete(2),
)


def counter(num_envs: int, backend: str, **settings: Any) -> VecEnv:
    return Counter(num_envs, device="cpu", backend=backend, **settings)


def drift(num_envs: int, backend: str, **settings: Any) -> VecEnv:
    return Drift(num_envs, device="cpu", backend=backend, max_episode_steps=5, **settings)


# One line per step, one cell per environment: reward, flags, return and length so far, final_obs, obs.
# Flags: T terminated, t truncated, * the masks `_final_obs` and `_episode`. Observations: steps taken in the episode,
# and a letter that names it. Last cell: episodes, sum of returns and sum of lengths in the logs, "late" where `check`
# raises. "reset 0 2" resets those environments by mask; its cells are observations.
# First episodes have the lengths 1, 2, 9 and 3, later ones 2; the limit is 3: it cuts the third environment's first
# episode short, and coincides with the end of the fourth's.
LENGTHS, LIMIT = [1, 2, 9, 3], 3

TIMELINES = {
    AutoresetMode.SAME_STEP: """
        1 T-* 1 1 1a 0b | 1 --- 1 1 1a 1a | 1 --- 1 1 1a 1a | 1 --- 1 1 1a 1a | 1 1 1
        1 --- 1 1 1b 1b | 2 T-* 3 2 2a 0b | 2 --- 3 2 2a 2a | 2 --- 3 2 2a 2a | 2 4 3
        2 T-* 3 2 2b 0c | 1 --- 1 1 1b 1b | 3 -t* 6 3 3a 0b | 3 Tt* 6 3 3a 0b | 5 19 11
        1 --- 1 1 1c 1c | 2 T-* 3 2 2b 0c | 1 --- 1 1 1b 1b | 1 --- 1 1 1b 1b | 6 22 13
        reset 0 1       | 0d | 0d | 1b | 1b
        1 --- 1 1 1d 1d | 1 --- 1 1 1d 1d | 2 T-* 3 2 2b 0c | 2 T-* 3 2 2b 0c | 8 28 17
        2 T-* 3 2 2d 0e | 2 T-* 3 2 2d 0e | 1 --- 1 1 1c 1c | 1 --- 1 1 1c 1c | 10 34 21
    """,
    # The masked reset comes in the second environment's stead: its next step is a step, not a reset.
    AutoresetMode.NEXT_STEP: """
        1 T-* 1 1 1a 1a | 1 --- 1 1 1a 1a | 1 --- 1 1 1a 1a | 1 --- 1 1 1a 1a | 1 1 1
        0 --- 0 0 0b 0b | 2 T-* 3 2 2a 2a | 2 --- 3 2 2a 2a | 2 --- 3 2 2a 2a | 2 4 3
        1 --- 1 1 1b 1b | 0 --- 0 0 0b 0b | 3 -t* 6 3 3a 3a | 3 Tt* 6 3 3a 3a | 4 16 9
        reset 0 2       | 0c | 0b | 0b | 3a
        1 --- 1 1 1c 1c | 1 --- 1 1 1b 1b | 1 --- 1 1 1b 1b | 0 --- 0 0 0b 0b | 4 16 9
        2 T-* 3 2 2c 2c | 2 T-* 3 2 2b 2b | 2 T-* 3 2 2b 2b | 1 --- 1 1 1b 1b | 7 25 15
        0 --- 0 0 0d 0d | 0 --- 0 0 0c 0c | 0 --- 0 0 0c 0c | 2 T-* 3 2 2b 2b | 8 28 17
    """,
    # An ended episode that the caller forgets stands still, earns nothing and is not counted again.
    AutoresetMode.DISABLED: """
        1 T-* 1 1 1a 1a | 1 --- 1 1 1a 1a | 1 --- 1 1 1a 1a | 1 --- 1 1 1a 1a | 1 1 1
        0 --* 1 1 1a 1a | 2 T-* 3 2 2a 2a | 2 --- 3 2 2a 2a | 2 --- 3 2 2a 2a | 2 4 3 late
        reset 0 1       | 0b | 0b | 2a | 2a
        1 --- 1 1 1b 1b | 1 --- 1 1 1b 1b | 3 -t* 6 3 3a 3a | 3 Tt* 6 3 3a 3a | 4 16 9
        reset 0 2       | 0c | 1b | 0b | 3a
        1 --- 1 1 1c 1c | 2 T-* 3 2 2b 2b | 1 --- 1 1 1b 1b | 0 --* 6 3 3a 3a | 5 19 11 late
        reset 1 3       | 1c | 0c | 1b | 0b
        2 T-* 3 2 2c 2c | 1 --- 1 1 1c 1c | 2 T-* 3 2 2b 2b | 1 --- 1 1 1b 1b | 7 25 15
    """,
}


class Letters:
    """Writes observations as in the timelines: each environment's tokens are a, b, c, ... as they turn up."""

    def __init__(self) -> None:
        self.tokens: list[list[float]] = [[] for _ in LENGTHS]

    def written(self, obs: torch.Tensor) -> list[str]:
        words = []
        for tokens, (steps, token) in zip(self.tokens, obs.tolist(), strict=True):
            if token not in tokens:
                tokens.append(token)
            words.append(f"{steps:g}{chr(ord('a') + tokens.index(token))}")
        return words


def written_step(env: VecEnv, letters: Letters) -> list[str]:
    obs, reward, terminated, truncated, info = env.step(torch.zeros(env.num_envs, dtype=torch.int32))
    # Final observations first: where both show a new episode, the letters have to come out wrong.
    final_words = letters.written(info["final_obs"])
    words = letters.written(obs)
    assert info["_final_obs"].equal(info["_episode"])
    flags = [
        "".join(mark if flag else "-" for mark, flag in zip("Tt*", row, strict=True))
        for row in torch.stack([terminated, truncated, info["_episode"]], 1).tolist()
    ]
    sums = zip(info["episode"]["r"].tolist(), info["episode"]["l"].tolist(), strict=True)
    columns = zip(reward.tolist(), flags, sums, final_words, words, strict=True)
    return [f"{r:g} {marks} {total:g} {length} {final} {now}" for r, marks, (total, length), final, now in columns]


def written_logs(env: VecEnv) -> str:
    late = ""
    try:
        env.check()
    except ActionError:
        late = " late"
    logs = env.get_logs()
    count = logs["episode_count"]
    return f"{count} {logs['mean_reward'] * count:g} {logs['mean_length'] * count:g}{late}"


@every_mode
def test_timeline(mode: AutoresetMode, backend: str) -> None:
    env, letters = counter(len(LENGTHS), backend, autoreset_mode=mode, max_episode_steps=LIMIT), Letters()
    obs, _ = env.reset(seed=3)
    assert letters.written(obs) == ["0a"] * len(LENGTHS)
    env.state.length.copy_(torch.tensor(LENGTHS))
    for line in TIMELINES[mode].strip().splitlines():
        first, *rest = expected = [cell.strip() for cell in line.split("|")]
        if first.startswith("reset"):
            mask = torch.zeros(len(LENGTHS), dtype=torch.bool)
            mask[[int(row) for row in first.split()[1:]]] = True
            assert letters.written(env.reset(options={"reset_mask": mask})[0]) == rest
        else:
            assert [*written_step(env, letters), written_logs(env)] == expected
    everyone = [token for tokens in letters.tokens for token in tokens]
    assert len(set(everyone)) == len(everyone), "two episodes drew the same number"


def test_disabled_with_a_reset_at_once_is_same_step(backend: str) -> None:
    same, disabled = (drift(9, backend, autoreset_mode=mode) for mode in ("SameStep", "Disabled"))
    assert same.reset(seed=2)[0].equal(disabled.reset(seed=2)[0])
    rng = np.random.default_rng(0)
    for _ in range(12):
        actions = random_actions(same, rng)
        obs, *flags, info = same.step(actions)
        last_obs, *disabled_flags, disabled_info = disabled.step(actions)
        assert all(one.equal(other) for one, other in zip(flags, disabled_flags, strict=True))
        assert info["final_obs"].equal(last_obs)
        # The mask is the environment's own memory, which the reset itself clears.
        assert obs.equal(disabled.reset(options={"reset_mask": disabled_info["_episode"]})[0])
    assert same.get_logs() == disabled.get_logs()
    assert same.get_logs()["episode_count"] > 9


CHOSEN = [False, True, True, False, True]
MASKS = {
    "torch": torch.tensor(CHOSEN),
    "numpy": np.array(CHOSEN),
    "strided torch": torch.tensor(CHOSEN).repeat_interleave(2)[::2],
    "strided numpy": np.repeat(CHOSEN, 2)[::2],
    "reversed numpy": np.array(CHOSEN[::-1])[::-1],
    # What np.asarray makes of a JAX array.
    "read-only numpy": np.frombuffer(bytes(CHOSEN), bool),
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("seed", [None, 8], ids=["going on", "reseeded"])
def test_a_masked_reset_leaves_all_other_rows_alone(kind: str, seed: int | None, backend: str) -> None:
    env, chosen = counter(5, backend, length=5), torch.tensor(CHOSEN)
    env.reset(seed=1)
    for _ in range(3):
        obs = env.step([0] * 5)[0]
    before, before_obs = everything(env), obs.clone()
    # A dict that cannot be written.
    options = types.MappingProxyType({"reset_mask": MASKS[kind]})
    obs, info = env.reset(seed=seed, options=options)
    assert info == {}
    assert MASKS[kind].tolist() == CHOSEN
    after = everything(env)
    for name, column in after.items():
        assert column[~chosen].equal(before[name][~chosen]), name
    assert obs[~chosen].equal(before_obs[~chosen])
    assert not obs[chosen, 0].any()
    assert (obs[chosen, 1] != before_obs[chosen, 1]).all()
    if seed is not None:
        fresh, _ = counter(5, backend).reset(seed=seed)
        assert obs[chosen].equal(fresh[chosen])


def test_an_empty_mask_resets_nothing_and_none_resets_all(backend: str) -> None:
    env = counter(3, backend, length=5)
    env.reset(seed=1)
    env.step([0] * 3)
    before = everything(env)
    env.reset(options={"reset_mask": np.zeros(3, bool)})
    assert_same_tensors(everything(env), before)
    assert not env.reset(options={"reset_mask": None})[0][:, 0].any()


def tokens(env: VecEnv, episodes: int = 3, **reset: Any) -> torch.Tensor:
    """Reset, step through whole episodes, and return what their resets drew, (episodes, num_envs)."""
    drawn = [env.reset(**reset)[0][:, 1].clone()]
    for _ in range(episodes - 1):
        for _ in range(env.params.length):
            obs = env.step([0] * env.num_envs)[0]
        drawn.append(obs[:, 1].clone())
    return torch.stack(drawn)


def test_a_seed_gives_the_same_episodes_again_and_no_seed_gives_new_ones(backend: str) -> None:
    env = counter(4, backend)
    first = tokens(env, seed=6)
    going_on = tokens(env)
    assert tokens(env, seed=6).equal(first)
    assert tokens(env).equal(going_on)
    everything_drawn = torch.cat([first, going_on, tokens(env, seed=7)])
    assert len(everything_drawn.unique()) == everything_drawn.numel()
    # Seeds one by one leave no trace once there is one for all.
    env.reset(seed=[1, 2, 1, 2])
    assert tokens(env, seed=6).equal(first)


def test_without_any_seed_two_environments_differ(backend: str) -> None:
    one, other = (counter(4, backend) for _ in range(2))
    assert not (tokens(one) == tokens(other)).any()


def test_environments_with_equal_seeds_behave_alike_wherever_they_stand(backend: str) -> None:
    drawn = tokens(counter(5, backend), seed=[7, 2**63 - 1, 7, 0, 7])
    assert drawn[:, 0].equal(drawn[:, 2])
    assert drawn[:, 0].equal(drawn[:, 4])
    assert len(drawn.unique()) == 3 * 3
    elsewhere = tokens(counter(2, backend, first_env_id=1000), seed=np.array([0, 7]))
    assert elsewhere.equal(drawn[:, [3, 0]])


def test_none_among_seeds_leaves_a_stream_as_it_is(backend: str) -> None:
    env, unseeded = counter(4, backend), counter(4, backend)
    assert tokens(env, seed=3).equal(tokens(unseeded, seed=3))
    drawn, going_on = tokens(env, seed=[9, None, 9, None]), tokens(unseeded)
    assert drawn[:, [1, 3]].equal(going_on[:, [1, 3]])
    assert drawn[:, 0].equal(drawn[:, 2])
    assert not (drawn[:, [0, 2]] == going_on[:, [0, 2]]).any()


def test_none_among_the_very_first_seeds_comes_from_the_operating_system(backend: str) -> None:
    one, other = (tokens(counter(2, backend), seed=[9, None]) for _ in range(2))
    assert one[:, 0].equal(other[:, 0])
    assert not (one[:, 1] == other[:, 1]).any()


@every_mode
def test_an_environment_does_the_same_in_any_batch(mode: AutoresetMode, backend: str) -> None:
    many = 4096 if backend == "numpy" else 64
    # Rows of the large batch, and the batch of their own in which they must do the same.
    parts = [
        (slice(0, 8), drift(8, backend, autoreset_mode=mode)),
        (slice(7, 8), drift(1, backend, autoreset_mode=mode, first_env_id=7)),
        (slice(many - 5, many), drift(5, backend, autoreset_mode=mode, first_env_id=many - 5)),
    ]
    batch = drift(many, backend, autoreset_mode=mode)
    obs, _ = batch.reset(seed=12)
    for rows, env in parts:
        assert env.reset(seed=12)[0].equal(obs[rows])
    rng = np.random.default_rng(5)
    for _ in range(8):
        actions = random_actions(batch, rng)
        obs, reward, *_ = batch.step(actions)
        for rows, env in parts:
            own_obs, own_reward, *_ = env.step(actions[rows])
            assert own_obs.equal(obs[rows])
            assert own_reward.equal(reward[rows])
    state = everything(batch)
    for rows, env in parts:
        assert_same_tensors(everything(env), {name: column[rows] for name, column in state.items()})


@pytest.mark.parametrize("output", ["numpy", "torch"])
@every_mode
def test_statistics_are_those_of_gymnasium(mode: AutoresetMode, output: str, backend: str) -> None:
    env = arrays = drift(6, backend, autoreset_mode=mode, output=output)
    if output == "torch":
        pytest.importorskip("array_api_compat", reason="Gymnasium's ArrayConversion needs array-api-compat")
        arrays = wrappers.ArrayConversion(env, env_xp=torch, target_xp=np)
    gym_env = wrappers.RecordEpisodeStatistics(arrays, buffer_length=1000, stats_key="gym")
    gym_env.reset(seed=4)
    rng = np.random.default_rng(6)
    for _ in range(15):
        _, _, terminated, truncated, info = gym_env.step(random_actions(env, rng).numpy())
        done = terminated | truncated
        assert np.array_equal(info["_episode"], info.get("_gym", np.zeros(6, bool)))
        if done.any():
            np.testing.assert_array_equal(info["episode"]["l"][done], info["gym"]["l"][done])
            # Gymnasium adds up in float64.
            np.testing.assert_allclose(info["episode"]["r"][done], info["gym"]["r"][done], rtol=1e-5, atol=1e-6)
            if mode is AutoresetMode.DISABLED:
                gym_env.reset(options={"reset_mask": done.copy()})
    logs = env.get_logs()
    assert logs["episode_count"] == gym_env.episode_count > 6
    assert logs["mean_length"] == pytest.approx(np.mean(gym_env.length_queue))
    assert logs["mean_reward"] == pytest.approx(np.mean(gym_env.return_queue), rel=1e-5, abs=1e-6)
