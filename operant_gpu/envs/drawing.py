"""Pictures of environments: functions from one environment's state, in plain numbers, to an RGB array."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from operant_gpu.errors import BackendError

Frame = np.ndarray[Any, np.dtype[np.uint8]]

_CELL = 32  # pixels
_PAPER, _LINE, _GOAL, _WALKER = (250, 250, 247), (214, 214, 208), (88, 166, 92), (52, 101, 164)


def gymnasium_drawing(gymnasium_id: str) -> Callable[[Any, Any], Frame]:
    """Return a draw function that lets Gymnasium's environment of this id draw the state.

    The fields of the state must be those of Gymnasium's state, in order. Needs pygame.
    """

    def draw(state: Any, params: Any) -> Frame:
        artist = _artist(gymnasium_id)
        for name, value in params._asdict().items():
            setattr(artist, name, value)
        artist.state = np.array(state)
        try:
            return np.asarray(artist.render(), np.uint8)
        except gymnasium.error.DependencyNotInstalled as error:
            raise BackendError(f"drawing {gymnasium_id} needs pygame: pip install 'operant-gpu[render]'") from error

    return draw


@functools.cache
def _artist(gymnasium_id: str) -> Any:
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


def draw_board(colours: Frame, cell: int, line: tuple[int, int, int]) -> Frame:
    """Draw a board whose cells have these colours (rows, columns, 3), with lines of one pixel between them."""
    frame = colours.repeat(cell, 0).repeat(cell, 1)
    frame[::cell] = frame[:, ::cell] = line
    return frame


def _cell(frame: Frame, x: int, y: int, cell: int) -> Frame:
    return frame[y * cell : (y + 1) * cell, x * cell : (x + 1) * cell]
