"""Adapters by the names of their modules, where their trainers are installed."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from operant_gpu.adapters import ADAPTERS

# What each imports.
TRAINERS = {"sb3": "stable_baselines3", "skrl": "skrl", "torchrl": "torchrl", "rsl_rl": "rsl_rl"}


def adapter(module: str) -> Any:
    """Return the class of an adapter, or skip the test for want of its trainer."""
    pytest.importorskip(TRAINERS[module])
    return getattr(importlib.import_module(f"operant_gpu.adapters.{module}"), ADAPTERS[module].name)
