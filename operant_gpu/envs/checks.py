"""Checks of parameters that several environments share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from operant_gpu.errors import InvalidConfig


def positive(*names: str) -> Callable[[Any], None]:
    """Return a `validate` function that wants these parameters above zero."""

    def validate(params: Any) -> None:
        for name in names:
            if getattr(params, name) <= 0:
                raise InvalidConfig(name, f"expected a number above 0, got {getattr(params, name)}")

    return validate
