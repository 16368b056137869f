"""The MinAtar games against the `MinAtar` package: both play with the same actions and the same decisions of chance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import operant_gpu
from operant_gpu import VecEnv
from operant_gpu.backends.lowering.operations import NumpyRng

minatar = pytest.importorskip("minatar", reason="needs the MinAtar package")

GAMES = {
    "MinAtar-Asterix-v1": "asterix",
    "MinAtar-Breakout-v1": "breakout",
    "MinAtar-Freeway-v1": "freeway",
    "MinAtar-Seaquest-v1": "seaquest",
    "MinAtar-SpaceInvaders-v1": "space_invaders",
}
NOTHING, LEFT, UP, RIGHT, DOWN, FIRE = range(6)


class Chance:
    """Stands in for the package's generator: its decisions are the words of one of our streams, in order."""

    def __init__(self) -> None:
        self._draw, self._stream = 0, None

    def begin(self, seed: int, env_id: int, episode: int, step: int, stream: int) -> None:
        self._draw = 0
        self._stream = NumpyRng(
            np.array([seed]), *(np.array([number], np.int32) for number in (env_id, episode, step)), stream
        )

    def _word(self) -> int:
        assert self._stream is not None
        i, self._draw = self._draw, self._draw + 1
        return int(self._stream.words(i // 4)[i % 4][0])

    def rand(self, size: int | None = None) -> Any:
        if size is not None:
            return np.array([self.rand() for _ in range(size)])
        return (self._word() >> 8) * 2.0**-24

    def randint(self, low: int, high: int | None = None, size: int | None = None) -> Any:
        if size is not None:
            return np.array([self.randint(low, high) for _ in range(size)])
        low, high = (0, low) if high is None else (low, high)
        return low + (self._word() * (high - low) >> 32)


class Pair:
    """One environment of ours and one of the package's, in step."""

    def __init__(self, id: str, seed: int, **settings: Any) -> None:
        self.env: VecEnv = operant_gpu.make(id, autoreset_mode="Disabled", minimal_actions=False, **settings)
        ramping = {"difficulty_ramping": settings["difficulty_ramping"]} if "difficulty_ramping" in settings else {}
        sticky = settings.get("sticky_action_prob", 0.1)
        self.reference = minatar.Environment(GAMES[id], sticky_action_prob=sticky, **ramping)
        self.chance = Chance()
        self.reference.random = self.reference.env.random = self.chance
        self.seed, self.steps, self.ends, self.reward = seed, 0, 0, 0.0
        self.reset(seed)

    def reset(self, seed: int | None = None) -> None:
        obs, _ = self.env.reset(seed=seed)
        self._begin(0)
        self.reference.reset()
        # The package goes on with the last action of the episode before.
        self.reference.last_action = NOTHING
        self._compare(obs)

    def step(self, action: int) -> bool:
        """Step both, compare, and return whether the episode ended."""
        self._begin(1 << 28)
        obs, reward, terminated, *_ = self.env.step(torch.tensor([action]))
        expected_reward, expected_end = self.reference.act(action)
        where = f"step {self.steps}, action {action}"
        assert float(reward) == float(expected_reward), where
        assert bool(terminated) == bool(expected_end), where
        self._compare(obs, where)
        self.steps, self.ends, self.reward = self.steps + 1, self.ends + bool(expected_end), self.reward + float(reward)
        return bool(expected_end)

    def survive(self) -> None:
        """Let both go on from the state in which an episode ended."""
        self.reference.env.terminal = False
        state = self.env.state_dict()
        state["columns"]["ended"].zero_()
        self.env.load_state_dict(state)

    def _begin(self, stream: int) -> None:
        columns = self.env.state_dict()["columns"]
        key = (int(columns[name]) for name in ("seed", "env_id", "episode", "elapsed"))
        self.chance.begin(*key, stream)

    def _compare(self, obs: torch.Tensor, where: str = "reset") -> None:
        expected = self.reference.state().transpose(2, 0, 1)
        different = np.argwhere(obs[0].numpy() != expected)
        assert not len(different), f"{where}: channel, y, x {different[:5].tolist()}"


Policy = Callable[[Pair, np.random.Generator], int]


def at_random(pair: Pair, rng: np.random.Generator) -> int:
    return int(rng.integers(6))


def after_the_ball(pair: Pair, rng: np.random.Generator) -> int:
    """Stay below the ball, so that walls are cleared."""
    state = pair.env.state
    goal = int(state.ball_x + state.velocity_x) if state.ball_y >= 6 else int(state.ball_x)
    return RIGHT if goal > state.paddle else LEFT if goal < state.paddle else NOTHING


def upwards(pair: Pair, rng: np.random.Generator) -> int:
    return UP if rng.random() < 0.9 else int(rng.integers(6))


def firing(pair: Pair, rng: np.random.Generator) -> int:
    return FIRE if rng.random() < 0.5 else int(rng.integers(6))


def diving(pair: Pair, rng: np.random.Generator) -> int:
    """Go for divers, shoot, and come up when six are aboard or the oxygen is low."""
    state = pair.env.state
    if rng.random() < 0.3:
        return FIRE
    if (state.crew == 6 or (state.oxygen < 60 and state.crew > 0)) and rng.random() < 0.9:
        return UP
    if state.num_divers > 0 and rng.random() < 0.8:
        x, y = int(state.diver_x[0, 0]), int(state.diver_y[0, 0])
        if y != state.y:
            return DOWN if y > state.y else UP
        return RIGHT if x > state.x else LEFT
    return int(rng.choice([LEFT, RIGHT, DOWN]))


@pytest.mark.parametrize("id", GAMES)
@pytest.mark.parametrize("seed", [0, 2**62 + 5])
def test_random_play_is_the_packages(id: str, seed: int) -> None:
    pair, rng = Pair(id, seed), np.random.default_rng(seed)
    for _ in range(3000):
        if pair.step(at_random(pair, rng)):
            pair.reset()
    assert pair.ends > 10 or "Freeway" in id


@pytest.mark.parametrize(
    ("id", "policy", "reward"),
    [
        ("MinAtar-Breakout-v1", after_the_ball, 60),
        ("MinAtar-Asterix-v1", at_random, 50),
        ("MinAtar-Freeway-v1", upwards, 20),
        ("MinAtar-SpaceInvaders-v1", firing, 100),
        ("MinAtar-Seaquest-v1", diving, 20),
    ],
)
def test_good_and_immortal_play_is_the_packages(id: str, policy: Policy, reward: int) -> None:
    # Episodes go on where they would end: difficulty rises as far as it can.
    pair, rng = Pair(id, seed=3), np.random.default_rng(3)
    for _ in range(6000):
        if pair.step(policy(pair, rng)):
            if "Asterix" in id or "SpaceInvaders" in id:
                pair.survive()
            else:
                pair.reset()
    assert pair.reward >= reward, pair.reward


@pytest.mark.parametrize("id", [id for id in GAMES if "Breakout" not in id and "Freeway" not in id])
def test_without_ramping(id: str) -> None:
    pair, rng = Pair(id, seed=1, difficulty_ramping=False, sticky_action_prob=0.0), np.random.default_rng(1)
    for _ in range(2000):
        if pair.step(at_random(pair, rng)):
            pair.reset()


@pytest.mark.parametrize(("spawn", "move"), [(2, 1), (1, 3)])
def test_asterix_at_its_hardest(spawn: int, move: int) -> None:
    pair, rng = Pair("MinAtar-Asterix-v1", seed=2), np.random.default_rng(2)
    pair.env.state.spawn_interval.fill_(spawn)
    pair.env.state.move_interval.fill_(move)
    pair.reference.env.spawn_speed, pair.reference.env.move_speed = spawn, move
    for _ in range(2000):
        if pair.step(at_random(pair, rng)):
            pair.survive()
    assert int(pair.env.state.spawn_interval) == int(pair.env.state.move_interval) == 1


@pytest.mark.parametrize(("spawn", "move"), [(6, 3), (1, 2), (1, 3)])
def test_seaquest_at_its_hardest_with_full_crews(spawn: int, move: int) -> None:
    pair, rng = Pair("MinAtar-Seaquest-v1", seed=2), np.random.default_rng(2)
    state, game = pair.env.state, pair.reference.env
    returned = 0
    for step in range(2500):
        if step % 50 == 0:
            state.spawn_interval.fill_(spawn)
            state.move_interval.fill_(move)
            game.e_spawn_speed, game.move_speed = spawn, move
            state.crew.fill_(6)
            game.diver_count = 6
        if pair.step(diving(pair, rng) if step % 100 < 70 else int(rng.choice([UP, LEFT, RIGHT]))):
            pair.reset()
            state.crew.fill_(6)
            game.diver_count = 6
        returned += int(state.crew) < 6
    assert returned > 10, returned
