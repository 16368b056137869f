"""Snapshots and branches on every backend, in every auto-reset mode, and from each backend to each other."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from contract_envs import (
    CASES,
    FORMS,
    assert_same_tensors,
    every_form,
    everything,
    make_cpu,
    modes_of,
    random_actions,
)
from gymnasium import spaces
from here import BACKENDS, HAS_TRITON
from numpy.random import default_rng

from operant_gpu import AutoresetMode, Environment, VecEnv
from operant_gpu.lang import jit, tl
from operant_gpu.philox import philox
from operant_gpu.random import integers
from operant_gpu.randomization import Uniform
from operant_gpu.vector.snapshots import Snapshot

NUM_ENVS, LIMIT = 37, 9
# Interpreter and executor are slow.
AFTER = 4 if HAS_TRITON else 50
# What belongs to a place in the batch.
OF_PLACES = ("log_", "bad_actions", "late_steps", "branches")


def quick_on_triton(test: Any) -> Any:
    """Mark a test that stands for the others where kernels are executed or interpreted."""
    return pytest.mark.quick(test) if HAS_TRITON else test


def started(name: str, backend: str, mode: AutoresetMode, num_envs: int = NUM_ENVS, seed: int = 3) -> VecEnv:
    """Return environments in the middle of episodes of different lengths, some of which have ended."""
    env = make_cpu(name, num_envs, backend, autoreset_mode=mode, max_episode_steps=LIMIT)
    env.reset(seed=seed)
    env.reset(options={"elapsed": "random"})
    for step in range(4):
        env.step(random_actions(env, default_rng(step)))
    return env


def rows(env: VecEnv, chosen: Any = slice(None)) -> dict[str, torch.Tensor]:
    """Return copies of what makes some environments what they are, and what they show."""
    own = {name: one for name, one in everything(env).items() if not any(part in name for part in OF_PLACES)}
    return {name: one[chosen].clone() for name, one in {**own, "obs": env.observe()}.items()}


def follow(env: VecEnv, chosen: torch.Tensor, actions_of: torch.Tensor, steps: int) -> list[dict[str, torch.Tensor]]:
    """Step with actions that depend on the rows that the chosen ones stem from; return what came of those."""
    seen, rng = [], default_rng(5)
    for _ in range(steps):
        drawn = random_actions(env, rng)
        taken = drawn.clone()
        taken[chosen] = drawn[actions_of]
        obs, reward, terminated, truncated, info = env.step(taken)
        results = {"reward": reward, "terminated": terminated, "truncated": truncated, "final_obs": info["final_obs"]}
        results |= {"return": info["episode"]["r"], "length": info["episode"]["l"], "step": obs}
        seen.append({name: one[chosen].clone() for name, one in results.items()} | rows(env, chosen))
        if env.autoreset_mode is AutoresetMode.DISABLED:
            env.reset(options={"reset_mask": terminated | truncated})
    return seen


@pytest.mark.quick
@every_form
def test_branches_have_the_future_of_their_sources(name: str, backend: str, mode: AutoresetMode) -> None:
    env = started(name, backend, mode)
    # Rows that are both, a source of several, and one that becomes what it is.
    sources, targets = torch.tensor([5, 5, 0, 9, 20, 36, 7]), torch.tensor([0, 9, 5, 36, 1, 20, 7])
    others = torch.tensor([row for row in range(NUM_ENVS) if row not in targets])
    before, untouched = rows(env), rows(env, others)
    logs = {name: one for name, one in everything(env).items() if any(part in name for part in OF_PLACES)}
    env.branch(sources, targets)
    assert_same_tensors(rows(env, targets), {name: one[sources] for name, one in before.items()})
    assert_same_tensors(rows(env, others), untouched)
    assert_same_tensors({name: everything(env)[name] for name in logs}, logs)

    # Three of one source, which itself has become another: alike, step by step.
    env.branch([9], [12])
    for step in follow(env, torch.tensor([0, 9, 12]), torch.tensor([5, 5, 5]), AFTER):
        assert_same_tensors(*({name: one[i] for name, one in step.items()} for i in (0, 1)))
        assert_same_tensors(*({name: one[i] for name, one in step.items()} for i in (0, 2)))


@quick_on_triton
@every_form
def test_all_rows_at_once_and_rollouts_go_on_as_single_steps(name: str, backend: str, mode: AutoresetMode) -> None:
    env, single = (started(name, backend, mode) for _ in range(2))
    order = torch.from_numpy(default_rng(1).integers(0, NUM_ENVS, NUM_ENVS))
    before = rows(env)
    for one in (env, single):
        one.branch(order)
    assert_same_tensors(rows(env), {name: one[order] for name, one in before.items()})
    actions = torch.stack([random_actions(env, default_rng(step)) for step in range(6)])
    stored = env.rollout(6, actions, out=["obs", "reward", "terminated"])
    for step, action in enumerate(actions):
        assert stored["obs"][step].equal(single.observe())
        _, reward, terminated, *_ = single.step(action)
        assert stored["reward"][step].equal(reward)
        assert stored["terminated"][step].equal(terminated)
    assert_same_tensors(rows(env), rows(single))


PAIRS = [
    (name, backend, other)
    for name, backend in CASES
    for other in (*BACKENDS, "cpp")
    if (name, other) in CASES and name in FORMS and ("triton" in (backend, other)) is HAS_TRITON
]


@quick_on_triton
@pytest.mark.parametrize(("name", "backend", "other"), PAIRS)
def test_a_snapshot_goes_on_elsewhere_as_it_would_there(name: str, backend: str, other: str) -> None:
    taken, places = torch.tensor([4, 30, 11, 11, 0]), torch.tensor([40, 3, 21, 8, 0])
    first = torch.arange(5)
    for mode in modes_of(name, "triton", tells_modes=False) if HAS_TRITON else modes_of(name):
        env, elsewhere = started(name, backend, mode), started(name, other, mode, NUM_ENVS + 6, seed=8)
        snapshot, kept = env.snapshot(taken), rows(env, taken)
        env.step(random_actions(env, default_rng(9)))
        elsewhere.restore(snapshot, places)
        # What is seen of the state, a backend computes in its own way.
        assert_same_tensors(*(one if backend == other else without_obs(one) for one in (rows(elsewhere, places), kept)))

        # That backend's own future of the same moment, in a batch of another size.
        there = started(name, other, mode)
        write(there, snapshot)
        for ours, theirs in zip(follow(elsewhere, places, first, AFTER), follow(there, first, first, AFTER)):
            assert_same_tensors(ours, theirs)


def without_obs(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: one for name, one in found.items() if name != "obs"}


def write(env: VecEnv, snapshot: Snapshot) -> None:
    """Write the rows of a snapshot into the first environments by hand."""
    saved, size = env.state_dict(), len(snapshot)
    for part, columns in (("state", snapshot.state), ("columns", snapshot.clock), ("memory", snapshot.params)):
        for name, column in columns.items():
            place = saved[part][name]
            (place.T if name == "metrics" else place)[:size] = column
    env.load_state_dict(saved)


class DiceState(NamedTuple):
    begun: tl.int32
    thrown: tl.int32
    sum: tl.int32


class DiceParams(NamedTuple):
    sides: int = 6


@jit
def dice_reset(rng, params):
    return DiceState(integers(rng, 0, 0, 2147483647), 0, 0)


@jit
def dice_step(state, action, rng, params):
    thrown = integers(rng, 0, 0, 2147483647)
    total = state.sum + thrown % params.sides
    return DiceState(state.begun, thrown, total), thrown * 1.0, total < 0


@jit
def dice_observe(state, params):
    return state.begun, state.thrown


# Shows all that it draws.
Dice = Environment(
    id="Dice-v0",
    state=DiceState,
    params=DiceParams,
    reset=dice_reset,
    step=dice_step,
    observe=dice_observe,
    observation_space=spaces.Box(0, 2**31 - 1, (2,), np.int32),
    action_space=spaces.Box(-1.0, 1.0, (1,)),
)


@pytest.mark.quick
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name.lower())
def test_branches_with_new_streams_never_draw_what_anything_has_drawn(backend: str, mode: AutoresetMode) -> None:
    # Draws of all kinds, from one moment again and again: it is what a search does that looks at many futures.
    env = Dice(NUM_ENVS, device="cpu", backend=backend, autoreset_mode=mode, sides=Uniform(2, 2000))
    env.reset(seed=[4] * NUM_ENVS)
    root = env.snapshot([0] * NUM_ENVS)
    drawn: dict[str, list[Any]] = {name: [] for name in ("steps", "actions", "starts", "sides")}
    for again in range(8):
        if again % 2:
            env.restore(root, new_streams=True)
        else:
            env.restore(root)
            env.branch(torch.zeros(NUM_ENVS, dtype=torch.int64), new_streams=True)
        stored = env.rollout(3, out=["action", "obs"])
        drawn["steps"] += stored["obs"][1:, :, 1].flatten().tolist()
        drawn["actions"] += stored["action"].flatten().tolist()
        # The next episodes are of streams of their own too.
        env.reset(options={"reset_mask": torch.ones(NUM_ENVS, dtype=torch.bool)})
        drawn["starts"] += env.state.begun.tolist()
        drawn["sides"] += env.params.sides.tolist()
    total = 8 * NUM_ENVS
    assert len(set(drawn["steps"])) == 2 * total
    assert len(set(drawn["starts"])) == total
    # Of fewer values: 24 bits, and 2,000.
    assert len(set(drawn["actions"])) >= 3 * total - 3
    assert len(set(drawn["sides"])) > 200


@pytest.mark.parametrize("backend", BACKENDS)
def test_new_streams_depend_on_nothing_but_the_seed_and_what_was_asked(backend: str) -> None:
    def drawn(seed: int, num_envs: int) -> list[list[int]]:
        env = Dice(num_envs, device="cpu", backend=backend)
        env.reset(seed=1)
        # What came before a seed was given makes no difference.
        env.branch([3, 2], [2, 3], new_streams=True)
        env.reset(seed=seed)
        env.branch([0, 0, 5], [1, 2, 5], new_streams=True)
        keys = env.state_dict()["columns"]
        expected = [philox(seed, row, 0, 0, 6 << 28) for row in (1, 2, 5)]
        for row, (lower, upper, *_) in zip((1, 2, 5), expected):
            assert keys["seed"][row] == (int(upper) & 0x7FFFFFFF) << 32 | int(lower)
        assert keys["env_id"].tolist() == list(range(num_envs))
        assert keys["branches"].tolist() == [0, 1, 1, 0, 0, 1, *[0] * (num_envs - 6)]
        # After as many as fill a word of the counter.
        env._streams.counts[4] = 2**32 * 3 + 7
        env.branch([0], [4], new_streams=True)
        lower, upper, *_ = philox(seed, 4, 7, 3, 6 << 28)
        assert env.state_dict()["columns"]["seed"][4] == (int(upper) & 0x7FFFFFFF) << 32 | int(lower)
        env.branch([1], [2], new_streams=True)
        env.rollout(2)
        return [env.state.thrown[:6].tolist(), env.state.begun[:6].tolist()]

    assert drawn(7, 6) == drawn(7, 19)
    assert drawn(7, 6) != drawn(8, 6)
