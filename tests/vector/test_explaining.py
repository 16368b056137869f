"""Explanations name each statement, what it came to, and the first that is not finite."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from contract_envs import MAKERS, Ledge, make_cpu, random_actions
from cuda_twins import FOLDER, twin
from faulty_envs import Ball, Plates
from gymnasium import spaces
from numpy.random import default_rng
from reporting_envs import MARKET, Market
from varied_envs import LEDGE, Tiles, varied

import operant_gpu
from operant_gpu import ActionError, Environment, InvalidConfig, VecEnv
from operant_gpu.backends.cpp import sanitizers
from operant_gpu.backends.lowering.watching import Statement
from operant_gpu.lang import jit, tl
from operant_gpu.philox import philox
from operant_gpu.randomization import Uniform
from operant_gpu.vector import Explanation


def returned(explanation: Explanation, function: str) -> dict[str, Any]:
    """Return what a function gave, by the names of an explanation."""
    return next(one.values for one in reversed(explanation.statements) if one.function == function and is_return(one))


def is_return(statement: Statement) -> bool:
    return statement.text.startswith("return")


@pytest.mark.quick
@pytest.mark.parametrize("name", MAKERS)
def test_a_step_explained_is_the_step_taken(name: str) -> None:
    env = make_cpu(name, 9, "numpy", autoreset_mode="disabled", max_episode_steps=-1)
    env.reset(seed=6)
    definition = env.environment
    for step in range(3):
        snapshot, actions = env.snapshot(), random_actions(env, default_rng(step))
        obs, reward, terminated, *_ = env.step(actions)
        for row in (0, 8):
            if snapshot.clock["ended"][row]:
                continue
            explanation = env.explain(snapshot, actions[row], row)
            given = returned(explanation, definition.step.fn.__name__)
            assert np.asarray(given["return[1]"], np.float32).item() == reward[row]
            assert bool(np.asarray(given["return[2]"]).item()) == terminated[row]
            for field, column in env.state._asdict().items():
                found = np.ravel(given[f"{definition.state.__name__}.{field}"])
                expected = column[row].flatten().numpy()
                # Beyond an array's cells there may be anything; a number stands for all.
                found = np.broadcast_to(found, expected.shape) if found.size == 1 else found[: expected.size]
                assert np.array_equal(found.astype(expected.dtype), expected, equal_nan=True), field
            shown = returned(explanation, definition.observe.fn.__name__)
            parts = [np.ravel(one).astype(obs.numpy().dtype) for one in shown.values()]
            share = obs[row].numel() // len(parts)
            seen = np.concatenate([np.broadcast_to(one, share) if one.size == 1 else one[:share] for one in parts])
            assert np.array_equal(seen, obs[row].flatten().numpy())
            assert explanation.first_fault is None
            assert str(explanation).endswith("every number is finite")


PLANTED: dict[str, tuple[Any, dict[str, Any], str, str]] = {
    "division by zero": (Ball, {"kind": 0}, "ball_step", "share = 1.0 / state.height"),
    "root of a negative number": (Ball, {"kind": 1}, "drag_of", "root = tl.sqrt(speed + 1.0)"),
    "overflow": (Ball, {"kind": 2}, "ball_step", "heat = tl.exp(state.heat * 40.0)"),
    "division on a board": (
        Plates,
        {"kind": 0},
        "plates_step",
        "shares = state.heights / (here[:, None] - 0.25 * action[:, None])",
    ),
    "root on a board": (
        Plates,
        {"kind": 1},
        "plates_step",
        "shares = tl.sqrt(state.heights - 0.3 * (1 - action)[:, None])",
    ),
    "overflow on a board": (
        Plates,
        {"kind": 2},
        "plates_step",
        "shares = state.heights * tl.exp(state.heights * 20.0)",
    ),
}


@pytest.mark.quick
@pytest.mark.parametrize("backend", ["auto", "numpy"])
@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_found_kept_and_its_line_named(planted: str, backend: str) -> None:
    definition, params, function, text = PLANTED[planted]
    env = definition(64, device="cpu", backend=backend, debug="faults", **params)
    env.reset(seed=1)
    env.rollout(60)
    faults = env.faults()
    assert len(faults) > 3
    for place in range(4):
        explanation = env.explain(faults.snapshot, faults[place].action, place)
        first = explanation.first_fault
        assert first is not None
        assert (first.function, first.text) == (function, text)
        source = Path(first.file).read_text().splitlines()
        assert source[first.line - 1].strip() == text
        told = str(explanation)
        assert told.endswith(f"first not finite: {first.file}:{first.line}: {text}")
        assert f"\n> {first.line:4}  {text}\n" in told


class PairState(NamedTuple):
    x: tl.float32
    y: tl.float32


@jit
def pair_reset(rng, params):
    return PairState(1.0, 0.0)


@jit
def pair_step(state, action, rng, params):
    a = state.x * 2.0
    b = state.x / state.y
    c: tl.constexpr = 3
    d = a + b
    for i in tl.static_range(2):
        d += i * c
    return PairState(d, state.y), 0.0, d < 0.0


@jit
def pair_observe(state, params):
    return state.x, state.y


Pair = Environment(
    id="Pair-v0",
    state=PairState,
    reset=pair_reset,
    step=pair_step,
    observe=pair_observe,
    observation_space=spaces.Box(-np.inf, np.inf, (2,)),
    action_space=spaces.Discrete(2),
)


def test_statements_are_told_one_by_one_wherever_they_stand() -> None:
    env = Pair(2, device="cpu")
    env.reset(seed=1)
    explanation = env.explain(env.snapshot(), 1)
    texts = [one.text for one in explanation.statements if one.function == "pair_step"]
    expected = [
        "a = state.x * 2.0",
        "b = state.x / state.y",
        "c: tl.constexpr = 3",
        "d = a + b",
        "d += i * c",
        "d += i * c",
    ]
    assert texts[:-1] == expected
    assert explanation.first_fault is explanation.statements[1]


def test_a_refused_action_is_said_to_be() -> None:
    for env, action, message in (
        (Ball(2, device="cpu"), 7, "the action 7 is out of range: it may be 0 to 2"),
        (operant_gpu.make("Pendulum-v1", 2, device="cpu"), [float("nan")], "the action nan is not finite"),
        (Plates(2, device="cpu"), -1, "the action -1 is out of range: it may be 0 to 1"),
        (make_cpu("Dials-v0", 2, "numpy"), [0, -3], r"the action [0, -3] is out of range: it may be "),
    ):
        env.reset(seed=1)
        explanation = env.explain(env.snapshot(), action)
        assert explanation.refused is not None
        assert explanation.refused.startswith(message)
        assert not explanation.statements
        assert "refused: " in str(explanation)


def test_the_reset_that_follows_is_explained_too() -> None:
    make = varied(Ledge, **LEDGE)
    env = make(40, device="cpu", max_episode_steps=3)
    env.reset(seed=2)
    env.rollout(2)
    # The third step reaches the limit, and the next episode draws parameters of its own.
    snapshot, actions = env.snapshot(), random_actions(env, default_rng(0))
    env.step(actions)
    explanation = env.explain(snapshot, actions[5], 5)
    fresh = returned(explanation, "ledge_reset")
    for field, column in env.state._asdict().items():
        assert np.ravel(fresh[f"{type(env.state).__name__}.{field}"]).item() == column[5].item()


def test_the_parameters_of_the_next_episode_are_drawn() -> None:
    env = Tiles(40, device="cpu", max_episode_steps=1, growth=Uniform(0.1, 0.9))
    env.reset(seed=2)
    snapshot, actions = env.snapshot(), random_actions(env, default_rng(0))
    env.step(actions)
    fresh = returned(env.explain(snapshot, actions[5], 5), "tiles_reset")["TilesState.heights"].ravel()[:6]
    assert fresh.max() == env.params.growth[5]
    assert fresh.tolist() == env.state.heights[5].flatten().tolist()


@pytest.mark.parametrize("mode", ["next_step", "disabled"])
def test_a_step_of_what_has_ended_is_what_the_mode_makes_of_it(mode: str) -> None:
    env = Ball(4, device="cpu", kind=1, autoreset_mode=mode, max_episode_steps=2)
    env.reset(seed=2)
    env.rollout(2, torch.ones(2, 4, dtype=torch.int64) * 2)
    explanation = env.explain(env.snapshot(), 1)
    if mode == "disabled":
        assert explanation.refused == "its episode has ended: it stays as it is until it is reset"
        return
    env.step([1] * 4)
    assert {one.function for one in explanation.statements} == {"ball_reset", "ball_observe"}
    assert returned(explanation, "ball_reset")["BallState.height"][0] == env.state.height[0]


def test_indices_beyond_tables_are_told() -> None:
    env = varied(Market, **MARKET)(4, device="cpu", autoreset_mode="disabled", max_episode_steps=-1)
    env.reset(seed=1)
    env.state.day.fill_(10_000)
    explanation = env.explain(env.snapshot(), 1)
    assert explanation.outside
    assert "of the table" in explanation.outside[0]
    assert f"beyond a table: {explanation.outside[0]}" in str(explanation)


def test_what_makes_no_sense_is_refused() -> None:
    env, other = Ball(2, device="cpu"), Plates(2, device="cpu")
    for one in (env, other):
        one.reset(seed=1)
    with pytest.raises(
        ActionError, match=r"expected the action of one environment, integers of shape \(\), got int64 \(2,\)"
    ):
        env.explain(env.snapshot(), [1, 1])
    with pytest.raises(InvalidConfig, match=r"^snapshot: is of Plates-v0, these environments are Ball-v0"):
        env.explain(other.snapshot(), 1)
    for row in (2, -1, [0, 1], None):
        with pytest.raises(InvalidConfig, match=r"^row: expected an integer from 0 to 1, got "):
            env.explain(env.snapshot(), 1, row)
    with pytest.raises(InvalidConfig, match=r"^snapshot: expected what `snapshot` returned"):
        env.explain({}, 1)


def test_explaining_changes_nothing() -> None:
    env = make_cpu("CartPole-varied", 5, "numpy")
    env.reset(seed=1)
    before = env.state_dict()
    env.explain(env.snapshot(), 1, 3)
    after = env.state_dict()
    for part in ("state", "columns", "memory"):
        assert all(after[part][name].equal(column) for name, column in before[part].items())


needs_sanitizers = pytest.mark.skipif(sanitizers.runtime() is None, reason="needs g++ with its sanitizers")


def started(definition: Any) -> VecEnv:
    env: VecEnv = definition(3, device="cpu", max_episode_steps=9)
    env.reset(seed=4)
    env.rollout(2)
    return env


@needs_sanitizers
def test_a_step_in_cuda_is_taken_under_the_sanitizers() -> None:
    env = started(operant_gpu.envs.Breakout)
    snapshot = env.snapshot()
    explanation = env.explain(snapshot, 1, 2)
    words = philox(4, 2, 0, 2, 1 << 28)
    assert explanation.draws == tuple(float((word >> 8) * np.float32(2.0**-24)) for word in words)
    env.step([1, 1, 1])
    assert explanation.compiled is not None
    assert "the step is clean" in explanation.compiled
    for field, column in env.state._asdict().items():
        assert f"  {field} = {column[2].item()}\n" in explanation.compiled


@needs_sanitizers
def test_a_write_beyond_an_observation_is_found_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, module = tmp_path / "bad.cu", tmp_path / "bad_ledge.py"
    bad.write_text((FOLDER / "ledge.cu").read_text().replace("obs[2] =", "obs[2000000] ="))
    # A definition of a module, as a process of its own finds it.
    module.write_text(
        "import dataclasses\nfrom contract_envs import Ledge\nfrom cuda_twins import twin\n"
        f"Bad = dataclasses.replace(twin(Ledge, 'ledge.cu'), source={str(bad)!r})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    env = started(twin(Ledge, "ledge.cu"))
    # Made, but never stepped here.
    told = importlib.import_module("bad_ledge").Bad(3, device="cpu").explain(env.snapshot(), 1, 1).compiled
    assert "the step fails" in told
    assert "bad.cu:" in told


def test_what_has_no_sanitizers_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitizers, "runtime", lambda: None)
    env = started(operant_gpu.envs.Breakout)
    assert env.explain(env.snapshot(), 1).compiled.startswith("the sanitizers of addresses and of undefined behaviour")
    monkeypatch.setattr(sanitizers, "runtime", lambda: "there")
    local = started(twin(Ledge, "ledge.cu"))
    told = local.explain(local.snapshot(), 1).compiled
    assert told is not None
    assert told.startswith("not stepped under the sanitizers, which takes a process of its own: environment: ")
