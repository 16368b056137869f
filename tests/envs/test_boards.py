"""Snake and 2048 beside plain Python that plays by their rules."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch
from here import BACKENDS

import operant_gpu

UP, DOWN, LEFT, RIGHT = range(4)
boards = pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "numba"])


def merged(line: list[int]) -> tuple[list[int], int]:
    """Slide a line of powers toward its start; return it and what was gained."""
    tiles, gained, done = [power for power in line if power], 0, []
    while tiles:
        power = tiles.pop(0)
        if tiles and tiles[0] == power < 15:
            tiles.pop(0)
            power += 1
            gained += 2**power
        done.append(power)
    return done + [0] * (4 - len(done)), gained


def slid(board: np.ndarray, action: int) -> tuple[np.ndarray, int]:
    turned = board.T if action in (UP, DOWN) else board
    turned = turned[:, ::-1] if action in (DOWN, RIGHT) else turned
    lines, gains = zip(*(merged(line.tolist()) for line in turned), strict=True)
    turned = np.array(lines)
    turned = turned[:, ::-1] if action in (DOWN, RIGHT) else turned
    return turned.T if action in (UP, DOWN) else turned, sum(gains)


def is_legal(board: np.ndarray, action: int) -> bool:
    return not np.array_equal(slid(board, action)[0], board)


@boards
def test_2048_slides_and_merges_by_its_rules(backend: str) -> None:
    rng = np.random.default_rng(0)
    env = operant_gpu.make("Game2048-v0", 500, device="cpu", backend=backend, autoreset_mode="Disabled")
    env.reset(seed=1)
    # Crowded with few kinds of tiles, so that lines merge in every way; the highest tile; full boards without a move.
    before = np.concatenate(
        [rng.integers(0, high, (120, 4, 4)) for high in (2, 3, 4, 16)]
        + [np.where(np.indices((4, 4)).sum(0) % 2, 1, 2)[None].repeat(20, 0)]
    )
    before[400:410] = rng.choice([0, 15], (10, 4, 4))
    env.state.board.copy_(torch.from_numpy(before))
    env.observe()
    legal = env.action_mask.numpy().copy()
    actions = rng.integers(0, 4, 500)
    _, reward, terminated, *_ = env.step(torch.from_numpy(actions))
    after = env.state.board.numpy()
    for i, action in enumerate(actions):
        assert legal[i].tolist() == [is_legal(before[i], one) for one in range(4)]
        expected, gained = slid(before[i], action)
        assert reward[i] == gained
        new = np.argwhere(after[i] != expected)
        if np.array_equal(expected, before[i]):
            assert len(new) == 0
        else:
            assert len(new) == 1
            assert expected[tuple(new[0])] == 0
            assert after[i][tuple(new[0])] in (1, 2)
        assert bool(terminated[i]) == (not any(is_legal(after[i], one) for one in range(4)))
    assert terminated.any()
    assert not legal.all()


@boards
def test_2048_shows_each_tile_in_its_plane(backend: str) -> None:
    env = operant_gpu.make("Game2048-v0", 2, device="cpu", backend=backend)
    env.reset(seed=1)
    env.state.board[0] = torch.arange(16).view(4, 4)
    shown = env.observe()[0]
    assert shown.shape == (15, 4, 4)
    for plane in range(15):
        assert torch.equal(shown[plane] != 0, env.state.board[0] == plane + 1)


def test_2048_begins_with_two_tiles_and_adds_fours_one_time_in_ten() -> None:
    env = operant_gpu.make("Game2048-v0", 20_000, device="cpu")
    env.reset(seed=1)
    board = env.state.board
    assert ((board > 0).sum((1, 2)) == 2).all()
    assert abs((board == 2).sum() / (board > 0).sum() - 0.1) < 0.005
    per_cell = (board > 0).sum(0) / 40_000
    assert (per_cell - 1 / 16).abs().max() < 0.004


def place(cell: int) -> tuple[int, int]:
    return divmod(cell, 10)


@boards
def test_snake_moves_eats_and_bites_by_its_rules(backend: str) -> None:
    env = operant_gpu.make("Snake-v0", 8, device="cpu", backend=backend)
    env.reset(seed=3)
    snakes = [deque([int(head)]) for head in env.state.head]
    lengths, foods = [3] * 8, env.state.food.tolist()
    rng, ends, meals = np.random.default_rng(0), 0, 0
    for _ in range(90):
        actions = [towards_food(snake, food, rng) for snake, food in zip(snakes, foods, strict=True)]
        _, reward, terminated, *_ = env.step(torch.tensor(actions))
        for i, action in enumerate(actions):
            y, x = place(snakes[i][0])
            y, x = y + (action == DOWN) - (action == UP), x + (action == RIGHT) - (action == LEFT)
            head = 10 * y + x
            outside = not (0 <= y < 10 and 0 <= x < 10)
            eats = not outside and head == foods[i]
            lengths[i] += eats
            while len(snakes[i]) >= lengths[i]:
                snakes[i].pop()
            bites = outside or head in snakes[i]
            assert reward[i] == eats - bites
            assert bool(terminated[i]) == bites
            ends, meals = ends + bites, meals + eats
            if bites:
                snakes[i], lengths[i] = deque([int(env.state.head[i])]), 3
            else:
                snakes[i].appendleft(head)
                assert env.state.head[i] == head
            foods[i] = int(env.state.food[i])
            ages = env.state.body[i].flatten()
            occupied = {cell for cell, age in enumerate(ages.tolist()) if age}
            assert occupied == set(snakes[i])
            assert foods[i] not in occupied
            assert env.state.length[i] == lengths[i]
    assert ends > 5
    assert meals > 12


def towards_food(snake: deque[int], food: int, rng: np.random.Generator) -> int:
    (y, x), (food_y, food_x) = place(snake[0]), place(food)
    ways = [UP] * (food_y < y) + [DOWN] * (food_y > y) + [LEFT] * (food_x < x) + [RIGHT] * (food_x > x)
    return int(rng.choice(ways)) if rng.random() < 0.95 else int(rng.integers(4))


@boards
def test_a_snake_that_fills_the_board_has_won(backend: str) -> None:
    env = operant_gpu.make("Snake-v0", 1, device="cpu", backend=backend, autoreset_mode="Disabled")
    env.reset(seed=3)
    # The last free cell, with the food, is the first; the head is beside it, and all others are behind it in a row.
    ages = np.arange(100).reshape(10, 10)
    ages[1::2] = ages[1::2, ::-1]
    env.state.body[0] = torch.from_numpy(np.where(ages == 0, 0, 100 - ages))
    env.state.head[:], env.state.food[:], env.state.length[:] = 1, 0, 99
    _, reward, terminated, *_ = env.step(torch.tensor([LEFT]))
    assert float(reward) == 1.0
    assert bool(terminated)
    assert int(env.state.length) == 100
    assert int((env.state.body == 0).sum()) == 0
    obs = env.observe()[0]
    assert (obs[2] == 0).all(), "no cell is left for food"


def test_snake_food_is_uniform_on_the_free_cells() -> None:
    env = operant_gpu.make("Snake-v0", 50_000, device="cpu")
    env.reset(seed=1)
    assert (env.state.head != env.state.food).all()
    counts = torch.bincount(env.state.food.long(), minlength=100)
    assert (counts / 500 - 1).abs().max() < 0.2
