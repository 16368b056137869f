"""What the MinAtar games share: their spaces and the check of their parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gymnasium import Space, spaces

from operant_gpu.errors import InvalidConfig

_SIZE = 10
_ACTIONS = "nlurdf"


def image(channels: int) -> spaces.MultiBinary:
    """Return the space of boards with so many channels."""
    return spaces.MultiBinary((channels, _SIZE, _SIZE))


def action_space(minimal: str) -> Callable[[Any], Space[Any]]:
    """Return the actions of a game that needs these letters of "nlurdf", as a function of its parameters."""
    return lambda params: spaces.Discrete(len(minimal if params.minimal_actions else _ACTIONS))


def validate(params: Any) -> None:
    """Refuse what is no probability."""
    if not 0.0 <= params.sticky_action_prob <= 1.0:
        raise InvalidConfig("sticky_action_prob", f"expected 0 to 1, got {params.sticky_action_prob}")
