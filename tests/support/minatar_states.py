"""Random states of the MinAtar games, and how the MinAtar package writes them.

Each field of a state is drawn by itself over all that it can be, so that any two conditions meet, those that play leads
to and others. What the two cannot both mean is left out, and named where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Columns = dict[str, np.ndarray]
CELLS = 1 << np.arange(10)


class Game(NamedTuple):
    """What is a game's own in the comparison with the package."""

    # The name of the package's module.
    package: str
    # Our fields that are numbers of the package's, with their names there.
    numbers: dict[str, str]
    # Draws so many states.
    draw: Callable[[np.random.Generator, int], Columns]
    # Writes what is no mere number from a state of ours into the package's game, and reads it from there.
    write: Callable[[Any, Any], None]
    read: Callable[[Any], dict[str, Any]]
    # Empties what a state holds in places that mean nothing.
    tidy: Callable[[Columns], Columns] = lambda columns: columns


def whole(rng: np.random.Generator, low: int, high: int, *shape: int) -> np.ndarray:
    """Return whole numbers from `low` to `high`, every other one at an end or beside it."""
    ends = np.clip([low, low + 1, high - 1, high], low, high)
    return np.where(rng.random(shape) < 0.5, rng.choice(ends, shape), rng.integers(low, high + 1, shape))


def directions(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.choice([-1, 1], shape)


def rows(rng: np.random.Generator, n: int, count: int = 10) -> np.ndarray:
    """Return rows of ten bits, from boards that are empty to full ones."""
    density = rng.choice([0.0, 0.02, 0.1, 0.5, 0.98, 1.0], (n, 1, 1))
    return (rng.random((n, count, 10)) < density) @ CELLS


def board(rows: list[int]) -> np.ndarray:
    """Return rows of bits as the package has them, an array of 0.0 and 1.0."""
    return ((np.array(rows)[:, None] & CELLS) != 0).astype(float)


def heading(to_right: bool) -> int:
    return 1 if to_right else -1


def padded(things: list[list[int]], length: int, width: int) -> np.ndarray:
    """Return a list of the package's as columns, empty where it has ended."""
    return np.array(things + [[0] * width] * (length - len(things))).T


def draw_asterix(rng: np.random.Generator, n: int) -> Columns:
    return {
        "player_x": whole(rng, 0, 9, n),
        "player_y": whole(rng, 1, 8, n),
        "x": whole(rng, 0, 9, n, 8),
        "heading": directions(rng, n, 8),
        "kind": rng.integers(0, 3, (n, 8)) * (rng.random((n, 8)) < rng.choice([0.0, 0.5, 1.0], (n, 1))),
        "spawn_interval": whole(rng, 1, 10, n),
        "spawn_timer": whole(rng, 0, 10, n),
        "move_interval": whole(rng, 1, 5, n),
        "move_timer": whole(rng, 0, 5, n),
        "ramp_timer": whole(rng, -1, 100, n),
        "ramp_index": whole(rng, 0, 12, n),
    }


def write_asterix(game: Any, state: Any) -> None:
    things = zip(range(1, 9), state.x, state.heading, state.kind, strict=True)
    game.entities = [[x, y, way > 0, kind == 2] if kind else None for y, x, way, kind in things]


def read_asterix(game: Any) -> dict[str, Any]:
    things = [(0, 0, 0) if e is None else (e[0], heading(e[2]), 1 + e[3]) for e in game.entities]
    return dict(zip(("x", "heading", "kind"), np.array(things).T, strict=True))


def tidy_asterix(columns: Columns) -> Columns:
    full = columns["kind"] != 0
    return columns | {"x": columns["x"] * full, "heading": columns["heading"] * full}


BALL_DIRECTIONS = [(-1, -1), (1, -1), (1, 1), (-1, 1)]


def draw_breakout(rng: np.random.Generator, n: int) -> Columns:
    ball_y, velocity_y = whole(rng, 0, 9, n), directions(rng, n)
    return {
        "ball_x": whole(rng, 0, 9, n),
        "ball_y": ball_y,
        "velocity_x": directions(rng, n),
        # A ball that is at the bottom and goes down has ended the game. The package reads beyond its board.
        "velocity_y": np.where(ball_y == 9, -1, velocity_y),
        "last_x": whole(rng, 0, 9, n),
        "last_y": whole(rng, 0, 9, n),
        "paddle": whole(rng, 0, 9, n),
        "bricks": rows(rng, n, 3) @ (1 << 10 * np.arange(3)),
        "strike": whole(rng, 0, 1, n),
    }


def write_breakout(game: Any, state: Any) -> None:
    game.ball_dir = BALL_DIRECTIONS.index((state.velocity_x, state.velocity_y))
    game.brick_map = np.zeros((10, 10))
    game.brick_map[1:4] = board([state.bricks >> 10 * row for row in range(3)])


def read_breakout(game: Any) -> dict[str, Any]:
    velocity_x, velocity_y = BALL_DIRECTIONS[game.ball_dir]
    bricks = game.brick_map[1:4] @ CELLS @ (1 << 10 * np.arange(3))
    return {"velocity_x": velocity_x, "velocity_y": velocity_y, "bricks": bricks}


def draw_freeway(rng: np.random.Generator, n: int) -> Columns:
    return {
        "chicken_y": whole(rng, 0, 9, n),
        # Every other car is beside the chicken's column or in it.
        "x": np.where(rng.random((n, 8)) < 0.5, whole(rng, 0, 9, n, 8), whole(rng, 3, 5, n, 8)),
        "timer": whole(rng, 0, 5, n, 8),
        "speed": whole(rng, 1, 5, n, 8) * directions(rng, n, 8),
        "move_timer": whole(rng, 0, 3, n),
        "time_left": whole(rng, 0, 2500, n),
    }


def write_freeway(game: Any, state: Any) -> None:
    game.cars = [list(car) for car in zip(state.x, range(1, 9), state.timer, state.speed, strict=True)]


def read_freeway(game: Any) -> dict[str, Any]:
    x, _, timer, speed = np.array(game.cars).T
    return {"x": x, "timer": timer, "speed": speed}


def draw_space_invaders(rng: np.random.Generator, n: int) -> Columns:
    aliens = rows(rng, n)
    return {
        "cannon_x": whole(rng, 0, 9, n),
        "aliens": aliens,
        "bullets": rows(rng, n),
        "alien_bullets": rows(rng, n),
        "heading": directions(rng, n),
        "move_interval": whole(rng, 6, 12, n),
        "move_timer": whole(rng, 0, 12, n),
        # The package fails where it looks for an alien to shoot and there is none.
        "shot_timer": np.maximum(whole(rng, 0, 10, n), ~aliens.any(1)),
        "cool_down": whole(rng, 0, 5, n),
    }


def write_space_invaders(game: Any, state: Any) -> None:
    game.alien_map, game.f_bullet_map, game.e_bullet_map = map(
        board, (state.aliens, state.bullets, state.alien_bullets)
    )


def read_space_invaders(game: Any) -> dict[str, Any]:
    maps = {"aliens": game.alien_map, "bullets": game.f_bullet_map, "alien_bullets": game.e_bullet_map}
    return {name: cells @ CELLS for name, cells in maps.items()}


ENEMY = ("enemy_x", "enemy_y", "enemy_heading", "enemy_timer", "enemy_shot")
DIVER = ("diver_x", "diver_y", "diver_heading", "diver_timer_of")


def present(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Return which places of the lists of enemies and of divers are taken."""
    return np.arange(32) < columns["num_enemies"][:, None], np.arange(4) < columns["num_divers"][:, None]


def draw_seaquest(rng: np.random.Generator, n: int) -> Columns:
    columns = {
        "x": whole(rng, 0, 9, n),
        "y": whole(rng, 0, 8, n),
        "oxygen": whole(rng, 0, 200, n),
        # Below 0 after full crews, by one for each return to the surface.
        "crew": whole(rng, -3, 6, n),
        "at_surface": whole(rng, 0, 1, n),
        "bullets_left": rows(rng, n),
        "bullets_right": rows(rng, n),
        "enemy_bullets_left": rows(rng, n),
        "enemy_bullets_right": rows(rng, n),
        "enemy_x": whole(rng, 0, 9, n, 32),
        "enemy_y": whole(rng, 1, 8, n, 32),
        "enemy_heading": directions(rng, n, 32),
        "enemy_timer": whole(rng, 0, 5, n, 32),
        "enemy_shot": np.where(rng.random((n, 32)) < 0.5, -1, whole(rng, 0, 10, n, 32)),
        "diver_x": whole(rng, 0, 9, n, 4),
        "diver_y": whole(rng, 1, 8, n, 4),
        "diver_heading": directions(rng, n, 4),
        "diver_timer_of": whole(rng, 0, 5, n, 4),
        "spawn_interval": whole(rng, 1, 20, n),
        "spawn_timer": whole(rng, 0, 20, n),
        "diver_timer": whole(rng, 0, 30, n),
        "move_interval": whole(rng, 2, 5, n),
        "ramp_index": whole(rng, 0, 21, n),
        "cool_down": whole(rng, 0, 5, n),
    }
    # Where something comes there is room for it. Play fills neither list.
    columns["num_enemies"] = np.minimum(whole(rng, 0, 32, n), 31 + (columns["spawn_timer"] > 0))
    columns["num_divers"] = np.minimum(whole(rng, 0, 4, n), 3 + (columns["diver_timer"] > 0))
    # At a side the submarine looks outwards, which is how it came there: its back is always on the board.
    x = columns["x"]
    columns["heading"] = np.where(x == 0, -1, np.where(x == 9, 1, directions(rng, n)))
    part_bullets(columns)
    enemies, divers = (tuple(columns[name] for name in names) for names in (ENEMY, DIVER))
    wait_for_equals(*enemies, columns["move_interval"])
    wait_for_equals(*divers, np.full((n, 4), -1), np.full(n, 5))
    return columns


def part_bullets(columns: Columns) -> None:
    """Leave out what would meet another bullet of the player: the order of the package's list tells which of both hits.

    The player is no faster than its bullets, so what it shoots to the left and to the right flies apart.
    """
    n, left, right = np.arange(len(columns["x"])), columns["bullets_left"], columns["bullets_right"]
    shot = (columns["cool_down"] == 0) << columns["x"]
    left[n, columns["y"]] &= ~(shot | shot << 2)
    right[n, columns["y"]] &= ~(shot | shot >> 2)
    right &= ~((left >> 1 & right << 1) >> 1)


def wait_for_equals(
    x: np.ndarray, y: np.ndarray, way: np.ndarray, timer: np.ndarray, shot: np.ndarray, interval: np.ndarray
) -> None:
    """Let no thing of a list become in this step what one before it in the list is already.

    Where it is then taken away, the package takes its equal by mistake, and moves the thing itself twice. It comes to
    the same if the two are neighbours in the list and do not shoot. In play only fish that come one step apart do so,
    and they are neighbours.
    """
    places = np.arange(x.shape[1])
    equal = (x[:, :, None] == (x + way)[:, None]) & (timer[:, :, None] == interval[:, None, None])
    for field in (y, way, shot):
        equal &= field[:, :, None] == field[:, None]
    rank = np.cumsum(shot < 0, axis=1)
    neighbours = (shot[:, None] < 0) & (rank[:, None] - rank[:, :, None] == 1)
    timer[(timer == 0) & (equal & (places[:, None] < places) & ~neighbours).any(1)] = 1


def write_seaquest(game: Any, state: Any) -> None:
    game.sub_or = state.heading > 0
    game.f_bullets = bullets(state.bullets_left, state.bullets_right)
    game.e_bullets = bullets(state.enemy_bullets_left, state.enemy_bullets_right)
    enemies = list(zip(*(getattr(state, name) for name in ENEMY), strict=True))[: state.num_enemies]
    game.e_fish = [[x, y, way > 0, timer] for x, y, way, timer, shot in enemies if shot < 0]
    game.e_subs = [[x, y, way > 0, timer, shot] for x, y, way, timer, shot in enemies if shot >= 0]
    divers = list(zip(*(getattr(state, name) for name in DIVER), strict=True))[: state.num_divers]
    game.divers = [[x, y, way > 0, timer] for x, y, way, timer in divers]


def bullets(left: list[int], right: list[int]) -> list[list[Any]]:
    """Return the bullets of two sets of rows as the package has them."""
    return [
        [x, y, to_right]
        for to_right, rows in enumerate((left, right))
        for y, row in enumerate(rows)
        for x in range(10)
        if row >> x & 1
    ]


def read_seaquest(game: Any) -> dict[str, Any]:
    enemies = [[x, y, heading(to_right), timer, -1] for x, y, to_right, timer in game.e_fish]
    enemies += [[x, y, heading(to_right), timer, shot] for x, y, to_right, timer, shot in game.e_subs]
    divers = [[x, y, heading(to_right), timer] for x, y, to_right, timer in game.divers]
    rows = np.zeros((4, 10), int)
    for i, flying in enumerate((game.f_bullets, game.e_bullets)):
        for x, y, to_right in flying:
            rows[2 * i + to_right, y] |= 1 << x
    names = ("bullets_left", "bullets_right", "enemy_bullets_left", "enemy_bullets_right")
    return {
        "heading": heading(game.sub_or),
        "num_enemies": len(enemies),
        "num_divers": len(divers),
        **dict(zip(names, rows, strict=True)),
        **dict(zip(ENEMY, padded(enemies, 32, 5), strict=True)),
        **dict(zip(DIVER, padded(divers, 4, 4), strict=True)),
    }


def tidy_seaquest(columns: Columns) -> Columns:
    """Put fish before submarines, as the package has them in lists of their own."""
    enemies, divers = present(columns)
    order = np.argsort(np.where(enemies, columns["enemy_shot"] >= 0, 2), axis=1, kind="stable")
    ordered = {name: np.take_along_axis(columns[name], order, 1) * enemies for name in ENEMY}
    return columns | ordered | {name: columns[name] * divers for name in DIVER}


def same(*names: str) -> dict[str, str]:
    return dict(zip(names, names, strict=True))


GAMES = {
    "MinAtar-Asterix-v1": Game(
        "asterix",
        {
            **same("player_x", "player_y", "spawn_timer", "move_timer", "ramp_timer", "ramp_index"),
            "spawn_interval": "spawn_speed",
            "move_interval": "move_speed",
        },
        draw_asterix,
        write_asterix,
        read_asterix,
        tidy_asterix,
    ),
    "MinAtar-Breakout-v1": Game(
        "breakout",
        {**same("ball_x", "ball_y", "last_x", "last_y", "strike"), "paddle": "pos"},
        draw_breakout,
        write_breakout,
        read_breakout,
    ),
    "MinAtar-Freeway-v1": Game(
        "freeway",
        {"chicken_y": "pos", "move_timer": "move_timer", "time_left": "terminate_timer"},
        draw_freeway,
        write_freeway,
        read_freeway,
    ),
    "MinAtar-Seaquest-v1": Game(
        "seaquest",
        {
            "x": "sub_x",
            "y": "sub_y",
            "oxygen": "oxygen",
            "crew": "diver_count",
            "at_surface": "surface",
            "spawn_interval": "e_spawn_speed",
            "spawn_timer": "e_spawn_timer",
            "diver_timer": "d_spawn_timer",
            "move_interval": "move_speed",
            "ramp_index": "ramp_index",
            "cool_down": "shot_timer",
        },
        draw_seaquest,
        write_seaquest,
        read_seaquest,
        tidy_seaquest,
    ),
    "MinAtar-SpaceInvaders-v1": Game(
        "space_invaders",
        {
            "cannon_x": "pos",
            "heading": "alien_dir",
            "move_interval": "enemy_move_interval",
            "move_timer": "alien_move_timer",
            "shot_timer": "alien_shot_timer",
            "cool_down": "shot_timer",
        },
        draw_space_invaders,
        write_space_invaders,
        read_space_invaders,
    ),
}
