"""The MinAtar games against the `MinAtar` package: one step from random states, whether play leads to them or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from chance import STEP, Chance, words
from minatar_states import GAMES, Columns

import operant_gpu

minatar = pytest.importorskip("minatar", reason="needs the MinAtar package")

BATCH = 1000
RAMPING = {"MinAtar-Asterix-v1", "MinAtar-Seaquest-v1", "MinAtar-SpaceInvaders-v1"}


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param(2, id="2000 states"),
        pytest.param(100, id="100000 states", marks=pytest.mark.thorough),
    ],
)
@pytest.mark.parametrize("id", GAMES)
def test_a_step_from_any_state_is_the_packages(id: str, batches: int) -> None:
    calm = {"sticky_action_prob": 0.0} | ({"difficulty_ramping": False} if id in RAMPING else {})
    pairs = [Pair(id, minimal=False), Pair(id, minimal=True, **calm)]
    for batch in range(batches):
        pairs[batch % 2].compare(seed=batch)


class Pair:
    """A batch of games of ours, and one of the package's that takes their steps one by one."""

    def __init__(self, id: str, minimal: bool, **settings: Any) -> None:
        self.game = GAMES[id]
        self.env = operant_gpu.make(
            id, BATCH, device="cpu", backend="cpp", autoreset_mode="Disabled", minimal_actions=minimal, **settings
        )
        self.reference, self.chance = minatar.Environment(self.game.package, **settings), Chance()
        self.reference.random = self.reference.env.random = self.chance
        # The package's action for each of ours.
        self.actions = self.reference.minimal_action_set() if minimal else list(range(6))

    def compare(self, seed: int) -> None:
        """Take a step from each of a batch of random states, in both."""
        self.env.reset(seed=seed)
        rng = np.random.default_rng(seed)
        states = self.game.draw(rng, BATCH) | {"last_action": rng.integers(0, 6, BATCH)}
        actions = rng.integers(0, len(self.actions), BATCH)
        before = {f"{name} before": values for name, values in states.items()} | {"action": actions}
        shown, expected = self._package_steps(states, np.array(self.actions)[actions])

        assert states.keys() == self.env.state._asdict().keys()
        for name, column in self.env.state._asdict().items():
            column.copy_(torch.from_numpy(states[name]))
        assert_same(before, {"obs": self.env.observe().numpy()}, {"obs": shown})
        obs, reward, terminated, *_ = self.env.step(torch.from_numpy(actions))
        after = self.game.tidy({name: column.numpy() for name, column in self.env.state._asdict().items()})
        results = {"obs": obs.numpy(), "reward": reward.numpy(), "terminated": terminated.numpy()}
        assert_same(before, after | results, expected)

    def _package_steps(self, states: Columns, actions: np.ndarray) -> tuple[np.ndarray, Columns]:
        """Return what the package shows of each state, and what it makes of it."""
        game, reference = self.game, self.reference
        rows = zip(*(values.tolist() for values in states.values()), strict=True)
        shown, results = [], []
        for row, action, drawn in zip(rows, actions.tolist(), words(self.env, STEP), strict=True):
            state = self.env.environment.state(**dict(zip(states, row, strict=True)))
            for name, theirs in game.numbers.items():
                setattr(reference.env, theirs, getattr(state, name))
            game.write(reference.env, state)
            reference.env.terminal, reference.last_action = False, state.last_action
            shown.append(reference.state())
            self.chance.begin(drawn)
            reward, terminated = reference.act(action)
            result = {name: getattr(reference.env, theirs) for name, theirs in game.numbers.items()}
            result |= game.read(reference.env) | {"last_action": reference.last_action}
            results.append(result | {"obs": reference.state(), "reward": reward, "terminated": terminated})
        columns = {name: np.array([result[name] for result in results]) for name in results[0]}
        columns["obs"] = columns["obs"].transpose(0, 3, 1, 2)
        return np.array(shown).transpose(0, 3, 1, 2), columns


def assert_same(before: Columns, actual: Columns, expected: Columns) -> None:
    assert actual.keys() == expected.keys()
    different = {name: (actual[name] != values).reshape(BATCH, -1).any(1) for name, values in expected.items()}
    rows = np.flatnonzero(np.any(list(different.values()), axis=0))
    if len(rows):
        row = rows[0]
        names = [name for name, wrong in different.items() if wrong[row]]
        lines = [f"{len(rows)} of {BATCH} steps differ, the first in {', '.join(names)}"]
        lines += [f"{name}: {values[row].tolist()}" for name, values in before.items()]
        lines += [f"{name}: {actual[name][row].tolist()}, expected {expected[name][row].tolist()}" for name in names]
        pytest.fail("\n".join(lines))
