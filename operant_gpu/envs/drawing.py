"""Pictures of environments: functions from one environment's state, in plain numbers, to an RGB array."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from operant_gpu.errors import needed

Frame = np.ndarray[Any, np.dtype[np.uint8]]

_CELL = 32  # pixels
_PAPER, _LINE, _GOAL, _WALKER = (250, 250, 247), (214, 214, 208), (88, 166, 92), (52, 101, 164)
_GROUND, _TAIL, _BODY, _HEAD, _FOOD = np.array(
    [(28, 31, 39), (40, 84, 62), (74, 190, 120), (190, 245, 190), (232, 86, 74)]
)
# Of 2048: an empty cell and the tiles 2, 4, 8, ...; all beyond look like the last.
_TILES = (
    *("cdc1b4", "eee4da", "ede0c8", "f2b179", "f59563", "f67c5f", "f65e3b", "edcf72", "edcc61", "edc850", "edc53f"),
    *("edc22e", "3c3a32"),
)
# Of a frozen lake, by its letters.
_LAKE = np.zeros((256, 3), np.uint8)
_LAKE[list(b"SFHG")] = (205, 222, 205), (226, 238, 245), (44, 62, 92), _GOAL
_DIGITS = ("757557", "262227", "717477", "717117", "557111", "747117", "747577", "711111", "757577", "757117")
_TILE = 48  # pixels


def gymnasium_drawing(gymnasium_id: str) -> Callable[[Any, Any], Frame]:
    """Return a draw function that lets Gymnasium's environment of this id draw the state.

    The fields of the state must be those of Gymnasium's state, in order. Needs pygame.
    """

    def draw(state: Any, params: Any) -> Frame:
        artist = _artist(gymnasium_id)
        for name, value in params._asdict().items():
            setattr(artist, name, value)
        artist.state = np.array(state)
        return np.asarray(artist.render(), np.uint8)

    return draw


@functools.cache
def _artist(gymnasium_id: str) -> Any:
    # Without a screen SDL would say so on the standard error, and then look for loudspeakers.
    if not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")) and sys.platform == "linux":
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    # pygame would take SIGTERM and Ctrl-C for itself, and do nothing with them.
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")
    needed(f"drawing {gymnasium_id}", "pygame")
    artist: Any = gymnasium.make(gymnasium_id, render_mode="rgb_array").unwrapped
    # Pendulum draws the torque of the last step as an arrow: here there is none.
    artist.last_u = None
    return artist


def draw_grid(state: Any, params: Any) -> Frame:
    """Draw GridWalk: a round walker, a square goal, on a grid of at most 16 pixels per cell of large grids."""
    size = params.grid_size
    cell = _CELL if size <= 32 else max(1, 1024 // size)
    frame = np.full((size * cell, size * cell, 3), _PAPER, np.uint8)
    if cell > 4:
        frame[::cell] = frame[:, ::cell] = _LINE
    across = (np.arange(cell) + 0.5) / cell * 2.0 - 1.0
    disc = across[:, None] ** 2 + across**2 < 0.5
    _cell(frame, state.goal_x, state.goal_y, cell)[...] = _GOAL
    _cell(frame, state.x, state.y, cell)[disc] = _WALKER
    return frame


def draw_lake(state: Any, params: Any, tables: Any) -> Frame:
    """Draw FrozenLake: ice, holes, the starts and the goal, and a round walker."""
    frame = draw_board(_LAKE[tables.desc], _CELL, _LINE)
    across = (np.arange(_CELL) + 0.5) / _CELL * 2.0 - 1.0
    _cell(frame, state.column, state.row, _CELL)[across[:, None] ** 2 + across**2 < 0.4] = _WALKER
    return frame


def draw_board(colours: Frame, cell: int, line: tuple[int, int, int]) -> Frame:
    """Draw a board whose cells have these colours (rows, columns, 3), with lines of one pixel between them."""
    frame = colours.repeat(cell, 0).repeat(cell, 1)
    frame[::cell] = frame[:, ::cell] = line
    return frame


def draw_snake(state: Any, params: Any) -> Frame:
    """Draw the board of Snake: the body fades toward the tail."""
    board = np.full((10, 10, 3), _GROUND)
    age = np.asarray(state.body)[..., None] / state.length
    board = np.where(age > 0, _TAIL + age * (_BODY - _TAIL), board)
    board[divmod(state.head, 10)] = _HEAD
    if state.food < 100:
        board[divmod(state.food, 10)] = _FOOD
    return draw_board(board.astype(np.uint8), 24, (38, 42, 52))


def draw_2048(state: Any, params: Any) -> Frame:
    """Draw the board of 2048, with the tiles' numbers."""
    board = np.asarray(state.board)
    palette = np.array([list(bytes.fromhex(colour)) for colour in _TILES], np.uint8)
    frame = draw_board(palette[board.clip(max=len(palette) - 1)], _TILE, (187, 173, 160))
    for (row, column), power in np.ndenumerate(board):
        if power:
            number = _number(2 ** int(power))
            top, left = row * _TILE + (_TILE - number.shape[0]) // 2, column * _TILE + (_TILE - number.shape[1]) // 2
            cell = frame[top : top + number.shape[0], left : left + number.shape[1]]
            cell[number] = (119, 110, 101) if power <= 2 else (249, 246, 242)
    return frame


def _number(value: int) -> np.ndarray[Any, Any]:
    """Return the pixels of a number: digits of 3 by 5 dots, larger where there are few."""
    digits = [np.array([[int(line) >> bit & 1 for bit in (2, 1, 0)] for line in _DIGITS[int(d)]]) for d in str(value)]
    text = np.concatenate([np.pad(digit, ((0, 0), (0, 1))) for digit in digits], 1)[:, :-1] > 0
    dot = min(3, (_TILE - 6) // text.shape[1])
    return text.repeat(dot, 0).repeat(dot, 1)


def _cell(frame: Frame, x: int, y: int, cell: int) -> Frame:
    return frame[y * cell : (y + 1) * cell, x * cell : (x + 1) * cell]
