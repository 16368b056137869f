"""Snake and 2048 beside plain Python that plays by their rules."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from chance import STEP, Chance, words
from here import BACKENDS

import operant_gpu

UP, DOWN, LEFT, RIGHT = range(4)
boards = pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "numba"])
# Seeds of 500 random states each.
states = pytest.mark.parametrize(
    ("backend", "seeds"),
    [
        *(pytest.param(name, range(1), id=name) for name in BACKENDS if name != "numba"),
        pytest.param("numpy", range(200), id="numpy-100000 states", marks=pytest.mark.thorough),
    ],
)


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


def with_tile(board: np.ndarray, chance: Chance) -> np.ndarray:
    free = np.argwhere(board == 0)
    cell = tuple(free[chance.randint(len(free))])
    board[cell] = 1 if chance.rand() < 0.9 else 2
    return board


def tiles(rng: np.random.Generator) -> np.ndarray:
    """Return boards of few kinds of tiles, so that lines merge in every way, and of all kinds, empty to full."""
    kinds, free = rng.choice([2, 3, 4, 16], (500, 1, 1)), rng.choice([0.0, 0.2, 0.9, 1.0], (500, 1, 1))
    board = np.where(rng.random((500, 4, 4)) < free, 0, rng.integers(1, kinds, (500, 4, 4)))
    # The highest tile alone, and boards without a move.
    board[400:450] = rng.choice([0, 15], (50, 4, 4))
    board[450:] = np.where(np.indices((4, 4)).sum(0) % 2, 1, 2)
    return board


@states
def test_2048_slides_and_merges_by_its_rules(backend: str, seeds: range) -> None:
    env = operant_gpu.make("Game2048-v0", 500, device="cpu", backend=backend, autoreset_mode="Disabled")
    for seed in seeds:
        rng, chance = np.random.default_rng(seed), Chance()
        env.reset(seed=seed)
        before, actions = tiles(rng), rng.integers(0, 4, 500)
        env.state.board.copy_(torch.from_numpy(before))
        env.observe()
        legal, drawn = env.action_mask.numpy().copy(), words(env, STEP)
        obs, reward, terminated, *_ = env.step(torch.from_numpy(actions))
        steps = []
        for board, action, drawn_here in zip(before, actions, drawn, strict=True):
            moves = [is_legal(board, one) for one in range(4)]
            after, gained = slid(board, action)
            if moves[action]:
                chance.begin(drawn_here)
                after = with_tile(after, chance)
            steps.append((moves, after, gained, not any(is_legal(after, one) for one in range(4))))
        moves, after, gained, over = map(np.array, zip(*steps, strict=True))
        np.testing.assert_array_equal(legal, moves)
        np.testing.assert_array_equal(env.state.board.numpy(), after)
        np.testing.assert_array_equal(obs.numpy(), after[:, None] == np.arange(1, 16)[:, None, None])
        np.testing.assert_array_equal(reward.numpy(), gained)
        np.testing.assert_array_equal(terminated.numpy(), over)
        assert 0 < over.mean() < 1
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


def crawled(snake: tuple[np.ndarray, int, int, int], action: int, chance: Chance) -> tuple[Any, ...]:
    """Take one step of a snake, whose body is the steps until the tail leaves each cell; also return reward and end."""
    body, head, food, length = snake
    y, x = place(head)
    y, x = y + (action == DOWN) - (action == UP), x + (action == RIGHT) - (action == LEFT)
    outside = not (0 <= y < 10 and 0 <= x < 10)
    eats = not outside and 10 * y + x == food
    body = body.copy() if eats else np.maximum(body - 1, 0)
    length += eats
    bites = outside or bool(body[y, x])
    if not bites:
        head, body[y, x] = 10 * y + x, length
    if eats:
        free = np.flatnonzero(body == 0)
        food = free[chance.randint(len(free))] if len(free) else 100
    return body, head, food, length, eats - bites, bites or length == 100


def scattered_snakes(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return any bodies, also torn ones, with heads at walls and food at heads as often as not."""
    length = np.where(rng.random(500) < 0.5, rng.choice([3, 4, 98, 99], 500), rng.integers(3, 100, 500))
    full = rng.random((500, 10, 10)) < rng.choice([0.0, 0.1, 0.5, 0.98, 1.0], (500, 1, 1))
    ages = np.minimum(rng.integers(1, rng.choice([3, 101], (500, 1, 1)), (500, 10, 10)), length[:, None, None])
    head = np.where(rng.random((2, 500)) < 0.5, rng.choice([0, 9], (2, 500)), rng.integers(0, 10, (2, 500)))
    beside = np.clip(head + rng.choice([-1, 0, 1], (2, 500)), 0, 9)
    food = np.where(rng.random(500) < 0.5, beside, rng.integers(0, 10, (2, 500)))
    return np.where(full, ages, 0), head[0] * 10 + head[1], food[0] * 10 + food[1], length


@states
def test_a_step_of_any_snake_is_by_its_rules(backend: str, seeds: range) -> None:
    env = operant_gpu.make("Snake-v0", 500, device="cpu", backend=backend, autoreset_mode="Disabled")
    for seed in seeds:
        rng, chance = np.random.default_rng(seed), Chance()
        env.reset(seed=seed)
        before, actions = scattered_snakes(rng), rng.integers(0, 4, 500)
        for column, values in zip(env.state, before, strict=True):
            column.copy_(torch.from_numpy(values))
        drawn = words(env, STEP)
        obs, reward, terminated, *_ = env.step(torch.from_numpy(actions))
        steps = []
        rows = zip(before[0], *(values.tolist() for values in before[1:]), strict=True)
        for snake, action, drawn_here in zip(rows, actions.tolist(), drawn, strict=True):
            chance.begin(drawn_here)
            steps.append(crawled(snake, action, chance))
        body, head, food, length, gained, over = map(np.array, zip(*steps, strict=True))
        np.testing.assert_array_equal(env.state.body.numpy(), body)
        np.testing.assert_array_equal(env.state.head.numpy(), head)
        # Any number beyond the board where no cell is left.
        np.testing.assert_array_equal(env.state.food.clamp(max=100).numpy(), food)
        np.testing.assert_array_equal(env.state.length.numpy(), length)
        np.testing.assert_array_equal(reward.numpy(), gained)
        np.testing.assert_array_equal(terminated.numpy(), over)
        cells = np.arange(100).reshape(10, 10)
        planes = [cells == head[:, None, None], body / length[:, None, None], cells == food[:, None, None]]
        np.testing.assert_allclose(obs.numpy(), np.stack(planes, axis=1), rtol=1e-6)
        assert 0 < over.mean() < 1


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
