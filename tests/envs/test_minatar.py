"""The MinAtar games against the `MinAtar` package: both play with the same actions and the same decisions of chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from chance import RESET, STEP, Chance, words
from minatar_states import GAMES

import operant_gpu
from operant_gpu import VecEnv

minatar = pytest.importorskip("minatar", reason="needs the MinAtar package")

NOTHING, LEFT, UP, RIGHT, DOWN, FIRE = range(6)


class Pair:
    """One environment of ours and one of the package's, in step."""

    def __init__(self, id: str, seed: int) -> None:
        self.env: VecEnv = operant_gpu.make(id, autoreset_mode="Disabled", minimal_actions=False)
        self.reference, self.chance = minatar.Environment(GAMES[id].package), Chance()
        self.reference.random = self.reference.env.random = self.chance
        self.steps, self.ends, self.reward = 0, 0, 0.0
        self.reset(seed)

    def reset(self, seed: int | None = None) -> None:
        obs, _ = self.env.reset(seed=seed)
        self.chance.begin(words(self.env, RESET)[0])
        self.reference.reset()
        # The package goes on with the last action of the episode before.
        self.reference.last_action = NOTHING
        self._compare(obs)

    def step(self, action: int) -> bool:
        """Step both, compare, and return whether the episode ended."""
        self.chance.begin(words(self.env, STEP)[0])
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
