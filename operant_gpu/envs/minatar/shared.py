"""What the MinAtar games share: their spaces, the check of their parameters, and their pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces

from operant_gpu.envs.drawing import Frame, draw_board
from operant_gpu.errors import InvalidConfig
from operant_gpu.registry import make

_SIZE = 10
_ACTIONS = "nlurdf"
_CELL = 24  # pixels
_SEA, _LINE = (16, 20, 34), (26, 31, 48)


def image(channels: int) -> spaces.MultiBinary:
    """Return the space of boards with so many channels."""
    return spaces.MultiBinary((channels, _SIZE, _SIZE))


def action_space(minimal: str) -> Callable[[Any], Space[Any]]:
    """Return the actions of a game that needs these letters of "nlurdf", as a function of its parameters."""
    return lambda params: spaces.Discrete(len(minimal if params.minimal_actions else _ACTIONS))


def keys(minimal: str) -> dict[str, int]:
    """Return the keys of a game that needs these letters, with their actions."""
    names = dict(zip(_ACTIONS, ("none", "left", "up", "right", "down", "space"), strict=True))
    return {names[letter]: action for action, letter in enumerate(minimal)}


def validate(params: Any) -> None:
    """Refuse what is no probability."""
    if not 0.0 <= params.sticky_action_prob <= 1.0:
        raise InvalidConfig("sticky_action_prob", f"expected 0 to 1, got {params.sticky_action_prob}")


def board(id: str, *colours: str) -> Callable[[Any, Any], Frame]:
    """Return a draw function for the game of this id: a cell has the colour of the last channel that is set there.

    Args:
        id: Of the game.
        colours: Of the channels, as six hexadecimal digits.
    """
    palette = np.array([list(bytes.fromhex(colour)) for colour in colours], np.uint8)

    def draw(state: Any, params: Any) -> Frame:
        cells = np.full((_SIZE, _SIZE, 3), _SEA, np.uint8)
        for channel, colour in zip(_shown(id, params, state), palette, strict=True):
            cells[channel != 0] = colour
        return draw_board(cells, _CELL, _LINE)

    return draw


def _shown(id: str, params: Any, state: Any) -> np.ndarray[Any, Any]:
    """Return what the game shows of a state: its own `observe` says."""
    game = _game(id, params)
    for column, value in zip(game.state, state, strict=True):
        column[0] = torch.as_tensor(value)
    observation: np.ndarray[Any, Any] = game.observe()[0].numpy()
    return observation


@functools.cache
def _game(id: str, params: Any) -> Any:
    game = make(id, device="cpu", **params._asdict())
    game.reset(seed=0)
    return game
