"""States of environments that several processes step: as that of one with all of them, and dealt out again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from operant_gpu.parameters import described

# Columns whose rows are metrics: environments come second.
_BY_METRIC = ("metrics", "log_metrics")
_PARTS = ("state", "columns", "memory")

Values = Mapping[str, Any]


def joined(
    states: Sequence[Values], given: Sequence[Values], names: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the state of environments that are all those of some sets, one after the other, and what makes them.

    Args:
        states: `VecEnv.state_dict` of each set; all have as many environments.
        given: `VecEnv.given` of each.
        names: Those of it that are parameters, which may have a number for each environment.
    """
    state, size = states[0], states[0]["num_envs"]
    parts = {part: _mapped(lambda axis, *ones: torch.cat(ones, axis), states, part) for part in _PARTS}
    every = {
        name: torch.cat([one[name] for one in given]) if name in names and _is_own(value, size) else value
        for name, value in given[0].items()
    }
    return {**state, **parts, "params": described(every), "num_envs": size * len(states)}, every


def dealt(
    state: Values, given: Values, names: Collection[str], rank: int, size: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the state of set number `rank` of `size`, which have all environments of a state, and what makes it."""
    total = state["num_envs"]
    count, first = total // size, rank * (total // size)
    parts = {part: _mapped(lambda axis, one: one.narrow(axis, first, count), [state], part) for part in _PARTS}
    own = part_of(given, names, total, range(first, first + count))
    ids = state.get("first_env_id", 0) + first
    return {**state, **parts, "params": described(own), "num_envs": count, "first_env_id": ids}, own


def part_of(given: Values, names: Collection[str], total: int, own: range) -> dict[str, Any]:
    """Return what makes some of `total` environments; arguments as above."""
    return {
        name: value[own.start : own.stop] if name in names and _is_own(value, total) else value
        for name, value in given.items()
    }


def _mapped(function: Any, states: Sequence[Values], part: str) -> dict[str, Any]:
    """Apply a function to the axis of environments of each column, and to what each state has there."""
    return {
        name: function(1 if name in _BY_METRIC else 0, *(state[part][name] for state in states)) if one.ndim else one
        for name, one in states[0].get(part, {}).items()
    }


def _is_own(value: Any, size: int) -> bool:
    """Tell whether a parameter has a number for each environment."""
    return isinstance(value, Tensor) and tuple(value.shape) == (size,)
