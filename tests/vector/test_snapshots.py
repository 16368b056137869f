"""Snapshots, `restore` and `branch`: beside a model that copies whole environments, in files, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from contract_envs import assert_same_tensors, everything
from faulty_envs import Ball
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reporting_envs import MARKET, Market
from varied_envs import varied

import operant_gpu
from operant_gpu import (
    AutoresetMode,
    CheckpointError,
    Environment,
    InvalidConfig,
    OperantError,
    ResetNeeded,
    Snapshot,
    VecEnv,
)
from operant_gpu.archives import archived
from operant_gpu.arrays import cells
from operant_gpu.envs import CartPole, Snake
from operant_gpu.lang import Array, jit, tl
from operant_gpu.metrics import Max
from operant_gpu.philox import philox
from operant_gpu.random import integers
from operant_gpu.randomization import Uniform
from operant_gpu.vector import Faults

SEED, ROWS, LIMIT = 11, 5, 6
CELLS = tl.constexpr(3)


class TrailState(NamedTuple):
    place: tl.int32
    visits: Array(tl.int16, (3,))


class TrailParams(NamedTuple):
    wind: int = 0


class TrailMetrics(NamedTuple):
    farthest: Max = 0.0


@jit
def trail_reset(rng, params):
    return TrailState(integers(rng, 0, -3, 4), cells(CELLS) * 0)


@jit
def trail_step(state, action, rng, params):
    place = state.place + action - 1 + params.wind + integers(rng, 0, -1, 2)
    visits = state.visits + (cells(CELLS) == (tl.abs(place) % CELLS)[:, None]).to(tl.int16)
    return TrailState(place, visits), place * 1.0, tl.abs(place) > 5, TrailMetrics(tl.abs(place))


@jit
def trail_observe(state, params):
    return (state.visits + state.place[:, None],)


Trail = Environment(
    id="Trail-v0",
    state=TrailState,
    params=TrailParams,
    metrics=TrailMetrics,
    reset=trail_reset,
    step=trail_step,
    observe=trail_observe,
    observation_space=spaces.Box(-(2**15), 2**15, (3,), np.int32),
    action_space=spaces.Discrete(3),
    max_episode_steps=LIMIT,
)


class One:
    """An environment in plain Python."""

    def __init__(self, own_id: int, mode: AutoresetMode) -> None:
        self.seed, self.env_id, self.episode = SEED, own_id, -1
        self.mode, self.ended = mode, False
        self.begin()

    def draw(self, stream: int, step: int, low: int, high: int) -> int:
        word = int(philox(self.seed, self.env_id, self.episode, step, stream << 28)[0])
        return low + (word * (high - low) >> 32)

    def begin_clock(self) -> None:
        self.ended, self.elapsed, self.total, self.farthest = False, 0, 0.0, -np.inf

    def begin(self) -> None:
        self.begin_clock()
        self.begin_episode()

    def begin_episode(self) -> None:
        self.episode += 1
        self.wind, self.place, self.visits = self.draw(4, 0, -1, 2), self.draw(0, 0, -3, 4), [0, 0, 0]

    def step(self, action: int) -> None:
        if self.ended and self.mode is AutoresetMode.DISABLED:
            return
        if self.ended and self.mode is AutoresetMode.NEXT_STEP:
            self.begin()
            return
        if self.ended:
            self.begin_clock()
        self.place += action - 1 + self.wind + self.draw(1, self.elapsed, -1, 2)
        self.visits = [count + (cell == abs(self.place) % 3) for cell, count in enumerate(self.visits)]
        self.elapsed, self.total = self.elapsed + 1, self.total + self.place
        self.farthest = max(self.farthest, abs(self.place))
        self.ended = abs(self.place) > 5 or self.elapsed >= LIMIT
        if self.ended and self.mode is AutoresetMode.SAME_STEP:
            self.begin_episode()


class Model:
    """A batch of them: whatever is copied, whole environments are."""

    def __init__(self, mode: AutoresetMode) -> None:
        self.rows, self.keys = [One(own_id, mode) for own_id in range(ROWS)], [0] * ROWS

    def snapshot(self, indices: list[int]) -> list[One]:
        return [copy.copy(self.rows[index]) for index in indices]

    def restore(self, snapshot: list[One], targets: list[int], new_streams: bool) -> None:
        for one, target in zip(snapshot, targets, strict=True):
            self.rows[target] = copied = copy.copy(one)
            if new_streams:
                lower, upper, *_ = philox(one.seed, target, self.keys[target], 0, 6 << 28)
                copied.seed, copied.env_id = (int(upper) & 0x7FFFFFFF) << 32 | int(lower), target
                self.keys[target] += 1

    def columns(self) -> dict[str, list[Any]]:
        names = {"seed": "seed", "env_id": "env_id", "episode": "episode", "elapsed": "elapsed", "ended": "ended"}
        names |= {"episode_return": "total", "metrics[0]": "farthest"}
        clock = {f"columns.{name}": [getattr(one, own) for one in self.rows] for name, own in names.items()}
        state = {name: [getattr(one, name) for one in self.rows] for name in ("place", "visits")}
        return clock | state | {"params.wind": [one.wind for one in self.rows], "columns.branches": self.keys}


def some(distinct: bool) -> Any:
    return st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=ROWS, unique=distinct)


OPERATIONS = st.one_of(
    st.tuples(st.just("step"), st.lists(st.integers(0, 2), min_size=ROWS, max_size=ROWS)),
    st.tuples(st.just("branch"), some(distinct=False), some(distinct=True), st.booleans()),
    st.tuples(st.just("snapshot"), some(distinct=False)),
    st.tuples(st.just("restore"), st.integers(0, 10**6), some(distinct=True), st.booleans()),
    st.tuples(st.just("reset"), some(distinct=True)),
)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(list(AutoresetMode)), st.lists(OPERATIONS, min_size=100, max_size=100))
def test_ten_thousand_operations_agree_with_a_model_that_copies_whole_environments(
    mode: AutoresetMode, operations: list[Any]
) -> None:
    model = Model(mode)
    env = Trail(ROWS, device="cpu", autoreset_mode=mode, wind=Uniform(-1, 1))
    env.reset(seed=SEED)
    kept = [(env.snapshot(), model.snapshot(list(range(ROWS))))]
    for name, *arguments in operations:
        if name == "step":
            env.step(arguments[0])
            for one, action in zip(model.rows, arguments[0], strict=True):
                one.step(action)
        elif name == "branch":
            sources, targets, new_streams = arguments
            targets = targets[: len(sources)]
            sources = sources[: len(targets)]
            env.branch(sources, targets, new_streams=new_streams)
            model.restore(model.snapshot(sources), targets, new_streams)
        elif name == "snapshot":
            kept.append((env.snapshot(arguments[0]), model.snapshot(arguments[0])))
        elif name == "restore":
            (snapshot, copies), targets, new_streams = kept[arguments[0] % len(kept)], *arguments[1:]
            targets = targets[: len(snapshot)]
            env.restore(snapshot[: len(targets)], targets, new_streams=new_streams)
            model.restore(copies[: len(targets)], targets, new_streams)
        else:
            env.reset(options={"reset_mask": torch.tensor([row in arguments[0] for row in range(ROWS)])})
            for row in arguments[0]:
                model.rows[row].begin()
        found = everything(env)
        for column, expected in model.columns().items():
            assert found[column].tolist() == expected, (name, column)


def stepped(definition: Callable[..., VecEnv] = CartPole, num_envs: int = 8, steps: int = 7, **named: Any) -> VecEnv:
    env = definition(num_envs, device="cpu", **named)
    env.reset(seed=1)
    env.rollout(steps)
    return env


def ways(folder: Path) -> dict[str, Callable[[Snapshot], Snapshot]]:
    def filed(snapshot: Snapshot) -> Snapshot:
        snapshot.save(folder / "snapshot.pt")
        return Snapshot.load(folder / "snapshot.pt")

    pickled = {"pickle": lambda one: pickle.loads(pickle.dumps(one)), "copy": copy.copy, "deepcopy": copy.deepcopy}
    return {**pickled, "file": filed, "to": lambda one: one.to("cpu"), "slice": lambda one: one[:]}


@pytest.mark.parametrize("definition", [CartPole, Snake, varied(Market, **MARKET)])
@pytest.mark.parametrize("way", ["pickle", "copy", "deepcopy", "file", "to", "slice"])
def test_a_snapshot_is_the_same_by_whatever_way(definition: Any, way: str, tmp_path: Path) -> None:
    env = stepped(definition)
    before, snapshot = everything(env), env.snapshot()
    assert repr(snapshot) == f"Snapshot({env.environment.id}, 8 rows, device='cpu')"
    env.rollout(5)
    again = ways(tmp_path)[way](snapshot)
    assert len(again) == 8
    env.restore(again)
    own = {name: one for name, one in everything(env).items() if "log_" not in name}
    assert_same_tensors(own, {name: before[name] for name in own})


def test_a_snapshot_has_memory_of_its_own_and_parts() -> None:
    env = stepped()
    snapshot, x = env.snapshot([3, 3, 1]), env.state.x.clone()
    env.rollout(3)
    assert snapshot.state["x"].tolist() == x[[3, 3, 1]].tolist()
    part = snapshot[torch.tensor([2, 0])]
    snapshot.state["x"].zero_()
    assert part.state["x"].tolist() == x[[1, 3]].tolist()
    assert len(snapshot[1]) == 1
    assert len(snapshot[1:]) == 2
    assert len(snapshot[[0] * 64]) == 64
    assert part.state["x"].tolist() == snapshot.with_rows(part.rows)[::-1].state["x"].tolist()[::-1]
    assert [len(one) for one in part] == [1, 1]
    assert part[-1].state["x"].tolist() == [x[3].item()]
    for index in (
        torch.tensor(1),
        np.uint8(1),
        torch.tensor([1], dtype=torch.uint32),
        torch.tensor([1], dtype=torch.int8),
    ):
        assert part[index].state["x"].tolist() == [x[3].item()]


def test_snapshots_are_joined() -> None:
    env = stepped(gravity=torch.linspace(1.0, 20.0, 8))
    one = env.snapshot([3, 1])
    env.rollout(3)
    other = env.snapshot([5])
    joined = Snapshot.join([one, env.snapshot([]), other])
    assert len(joined) == 3
    for name, column in joined.rows.clock.items():
        assert column.tolist() == [*one.clock[name].tolist(), *other.clock[name].tolist()]
    assert joined.params["gravity"].tolist() == env.params.gravity[[3, 1, 5]].tolist()
    for wrong, message in (
        ([], r"expected some snapshots, got \[\]"),
        ([one, 3], r"expected some snapshots, got \[Snapshot"),
        ([one, stepped().snapshot()], r"expected all to be like Snapshot\(CartPole-v1, 2 rows"),
        ([one, stepped(Snake).snapshot()], r"expected all to be like .*, got Snapshot\(Snake-v0, 8 rows"),
    ):
        with pytest.raises(InvalidConfig, match=f"^snapshots: {message}"):
            Snapshot.join(wrong)


def test_columns_are_found_by_their_names() -> None:
    env = stepped()
    snapshot, expected = env.snapshot(), {name: one.clone() for name, one in env.state._asdict().items()}
    env.rollout(4)
    turned = dataclasses.replace(
        snapshot,
        state=dict(reversed(list(snapshot.state.items()))),
        clock=dict(reversed(list(snapshot.clock.items()))),
    )
    env.restore(turned)
    assert_same_tensors(env.state._asdict(), expected)


def test_what_is_given_a_key_never_gets_it_again() -> None:
    env = stepped()
    keys: set[tuple[int, int]] = set()
    for again in range(6):
        env.branch([0] * 7, range(1, 8), new_streams=True)
        columns = env.state_dict()["columns"]
        keys |= set(zip(columns["seed"][1:].tolist(), columns["env_id"][1:].tolist(), strict=True))
        # Neither of these restarts all streams.
        if again == 1:
            env.reset(seed=1, options={"reset_mask": torch.arange(8) == 3})
        if again == 3:
            env.first_env_id = 1
        if again == 4:
            env.reset(seed=[*[None] * 7, 5])
    assert len(keys) == 6 * 7


@pytest.mark.parametrize("device", ["cuda:99", "meta", "there", 3.5, torch.float64])
def test_a_device_that_is_none_is_refused(device: Any) -> None:
    with pytest.raises(OperantError, match=r"device|cuda"):
        stepped().snapshot().to(device)


def test_environments_that_were_never_reset_begin_with_a_snapshot() -> None:
    env, fresh = stepped(), CartPole(8, device="cpu")
    fresh.restore(env.snapshot())
    assert fresh.observe().equal(env.observe())
    assert fresh.rollout(20, out=["obs"])["obs"].equal(env.rollout(20, out=["obs"])["obs"])


@pytest.mark.parametrize("other", ["next_step", "disabled"])
def test_what_has_ended_goes_on_in_another_mode(other: str) -> None:
    one = stepped(Trail, 200, 20)
    ended = int(one._columns.ended.int().argmax())
    assert one._columns.ended[ended]
    elsewhere = stepped(Trail, 200, 3, autoreset_mode=other)
    # Where the step that ends an episode resets, the next one has begun.
    elsewhere.restore(one.snapshot())
    returns, lengths = elsewhere.episode_so_far
    assert (returns[ended], lengths[ended], elsewhere._columns.ended[ended]) == (0.0, 0, False)
    assert elsewhere.observe().equal(one.observe())
    actions = torch.ones(200, dtype=torch.int64)
    (_, reward, _, _, info), (_, expected, _, _, shown) = elsewhere.step(actions), one.step(actions)
    assert reward.equal(expected)
    assert info["metrics"]["farthest"].equal(shown["metrics"]["farthest"])
    assert all(info["episode"][name].equal(shown["episode"][name]) for name in "rl")


def test_an_ended_episode_is_refused_where_the_next_would_have_begun() -> None:
    env = stepped(Trail, 8, 30, autoreset_mode="disabled")
    target = stepped(Trail, 8)
    before = everything(target)
    with pytest.raises(InvalidConfig, match=r"^snapshot: the episode of row 0 has ended: take it before"):
        target.restore(env.snapshot())
    assert_same_tensors(everything(target), before)


def test_parameters_of_each_environment_go_along_and_numbers_have_to_be_the_same() -> None:
    gravity = torch.linspace(1.0, 20.0, 8)
    env, numbers, own = stepped(gravity=gravity), stepped(), stepped(gravity=torch.full((8,), 3.0))
    own.restore(env.snapshot([6, 7]), [0, 1])
    assert own.params.gravity[:3].tolist() == [gravity[6].item(), gravity[7].item(), 3.0]
    # A number is that of each.
    own.restore(numbers.snapshot([0]), [2])
    assert own.params.gravity[2] == torch.tensor(9.8)
    for snapshot, message in (
        (
            env.snapshot(),
            r"^snapshot: gravity is a tensor in it, and 9.8 here: make .* gravity=a tensor \(num_envs,\)$",
        ),
        (stepped(gravity=1.5).snapshot(), r"^snapshot: gravity is 1.5 in it, and 9.8 here: make .* with gravity=1.5$"),
        (stepped(Snake).snapshot(), "^snapshot: is of Snake-v0, these environments are CartPole-v1$"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            numbers.restore(snapshot)


BAD_ROWS: dict[str, tuple[Any, str]] = {
    "too far": ([1, 8], "row 8 is out of range: there are 8"),
    "negative": (torch.tensor([-1]), "row -1 is out of range"),
    "a mask": (torch.ones(8, dtype=torch.bool), r"torch.bool \(8,\): of a mask, give mask.nonzero\(\)\[:, 0\]"),
    "floats": ([0.5], r"expected integers of one axis, .* got torch.float64 \(1,\)"),
    "two axes": ([[1]], "expected integers of one axis"),
    "text": ("one", "expected numbers of rows, got 'one'"),
    "meta": (torch.ones(2, dtype=torch.int64, device="meta"), "expected integers of one axis"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_are_refused_and_nothing_has_changed(case: str) -> None:
    env, (given_rows, message) = stepped(), BAD_ROWS[case]
    before, snapshot = everything(env), env.snapshot([0])
    calls: dict[str, Callable[[], Any]] = {
        "indices": lambda: env.snapshot(given_rows),
        "sources": lambda: env.branch(given_rows, [0, 1]),
        "targets": lambda: env.branch([0, 1], given_rows),
    }
    for param, call in calls.items():
        with pytest.raises(InvalidConfig, match=f"^{param}: .*({message})"):
            call()
    for call in (lambda: env.restore(snapshot, given_rows), lambda: env.snapshot()[given_rows]):
        with pytest.raises(InvalidConfig, match=f"^indices: .*({message})"):
            call()
    assert_same_tensors(everything(env), before)


@pytest.mark.parametrize("none", [[], torch.zeros(0, dtype=torch.int64), np.zeros(0, np.int32)])
def test_of_no_rows_nothing_is_copied(none: Any) -> None:
    env = stepped()
    before, snapshot = everything(env), env.snapshot(none)
    assert len(snapshot) == len(env.snapshot()[none]) == 0
    env.restore(snapshot, none, new_streams=True)
    env.branch(none, none)
    assert_same_tensors(everything(env), before)


def test_numbers_of_rows_that_do_not_fit_are_refused() -> None:
    env = stepped()
    snapshot = env.snapshot([0, 1])
    for call, message in (
        (lambda: env.branch([0, 1, 2], [3, 4]), "^sources: 3 sources for 2 targets: give one for each"),
        (lambda: env.branch([0, 1, 2]), "^sources: 3 sources for 8 targets"),
        (lambda: env.branch([0, 1, 2], [3, 5, 3]), "^targets: row 3 is there 2 times: name each once"),
        (lambda: env.restore(snapshot), r"^snapshot: has 2 rows, for 8 environments: snapshot\[indices\]"),
        (lambda: env.restore(snapshot, [4, 4]), "^indices: row 4 is there 2 times"),
        (lambda: env.restore(snapshot, [4, 5], new_streams=1), "^new_streams: expected True or False"),
        (lambda: env.restore({"x": 1}), "^snapshot: expected what `snapshot` returned"),
    ):
        before = everything(env)
        with pytest.raises(InvalidConfig, match=message):
            call()
        assert_same_tensors(everything(env), before)


def test_before_the_first_reset_and_after_close_there_are_no_rows() -> None:
    env, snapshot = CartPole(8, device="cpu"), stepped().snapshot()
    for call in (env.snapshot, lambda: env.branch([0], [1]), lambda: env.restore(snapshot[:1], [1])):
        with pytest.raises(ResetNeeded, match="call reset"):
            call()
    env.close()
    with pytest.raises(ResetNeeded, match="is closed"):
        env.restore(snapshot)


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "format": (lambda saved: saved | {"format": 9}, "has format 9, this version reads formats 1"),
    "missing": (lambda saved: {key: one for key, one in saved.items() if key != "clock"}, "it lacks clock"),
    "lengths": (lambda saved: saved | {"state": {"x": torch.zeros(3)}}, "does not hold together"),
    "no tensor": (lambda saved: saved | {"state": {"x": [1.0]}}, "does not hold together"),
    "mode": (lambda saved: saved | {"autoreset_mode": "at times"}, "does not hold together"),
    "numbers": (lambda saved: saved | {"numbers": [1.0]}, "does not hold together"),
    "sparse": (lambda saved: saved | {"state": {"x": torch.zeros(8, 2).to_sparse()}}, "does not hold together"),
    "no axis": (lambda saved: saved | {"state": {"x": torch.tensor(1.0)}}, "does not hold together"),
    "no seed": (lambda saved: saved | {"clock": {}}, "does not hold together"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_are_no_snapshots_are_refused(case: str, tmp_path: Path) -> None:
    change, message = BROKEN[case]
    path = tmp_path / "snapshot.pt"
    path.write_bytes(archived(change(stepped().snapshot().content())))
    with pytest.raises(CheckpointError, match=message):
        Snapshot.load(path)


def test_damaged_files_and_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.pt"
    with pytest.raises(InvalidConfig, match=r"^path: there is no file .*"):
        Snapshot.load(path)
    stepped().snapshot().save(path)
    path.write_bytes(path.read_bytes().replace(b"CartPole", b"CartPale"))
    with pytest.raises(CheckpointError, match=r"is damaged, or not a snapshot"):
        Snapshot.load(path)
    with pytest.raises(CheckpointError, match=r"cannot write .* nothing of it is left"):
        stepped().snapshot().save(tmp_path)


def test_pairs_that_nobody_could_look_at_are_told_by_check() -> None:
    # As the kernel for GPUs leaves it.
    env = stepped()
    env._misses.fill_(3)
    assert env.would_raise()
    with pytest.raises(InvalidConfig, match=r"^indices: 3 pairs with a row out of range were not copied"):
        env.check()
    env.check()


def test_a_step_of_an_older_release_has_no_branches() -> None:
    env, other = stepped(), stepped()
    saved = env.state_dict()
    other.branch([0], [1], new_streams=True)
    other.load_state_dict(
        {**saved, "format": 2, "columns": {k: v for k, v in saved["columns"].items() if k != "branches"}}
    )
    assert_same_tensors(everything(other), everything(env))
    assert operant_gpu.Snapshot is Snapshot


FILES = Path(__file__).parent / "files"


def test_files_of_the_first_format_are_read() -> None:
    snapshot = Snapshot.load(FILES / "snapshot-format-1.pt")
    assert snapshot.state["day"].tolist() == [3, 1]
    env = varied(Market, **MARKET)(4, device="cpu", backend="numpy")
    env.reset(seed=9)
    env.restore(snapshot, [3, 1])
    assert env.state.paid[[3, 1]].tolist() == snapshot.state["paid"].tolist()
    assert env._columns.metrics[:, [3, 1]].T.equal(snapshot.clock["metrics"])
    faults = Faults.load(FILES / "faults-format-1.pt")
    assert str(faults[1]).startswith("environment 1, episode 0, step 1, action 1: the state is not finite, the obs")
    first = faults.explain(Ball, 1).first_fault
    assert first is not None
    assert first.text == "root = tl.sqrt(speed + 1.0)"
