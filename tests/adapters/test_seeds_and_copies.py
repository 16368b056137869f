"""Adapters take seeds, and are copied and pickled as the environments in them are."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from trainers import adapter

import operant_gpu
from operant_gpu import InvalidConfig
from operant_gpu.adapters import ADAPTERS

pytestmark = pytest.mark.adapters

# What the first observation of an adapter is.
FIRST = {
    "sb3": lambda env: torch.from_numpy(env.reset()),
    "skrl": lambda env: env.reset()[0],
    "torchrl": lambda env: env.reset()["observation"],
    "rsl_rl": lambda env: env.get_observations()["policy"],
}


def made(module: str, **settings: Any) -> Any:
    return adapter(module)("Pendulum-v1", 4, device="cpu", **settings)


@pytest.mark.parametrize("module", FIRST)
def test_a_seed_is_that_of_the_first_reset(module: str) -> None:
    expected, _ = operant_gpu.make("Pendulum-v1", 4, device="cpu").reset(seed=5)
    assert FIRST[module](made(module, seed=5)).equal(expected)
    assert not FIRST[module](made(module, seed=6)).equal(expected)


@pytest.mark.parametrize("module", FIRST)
@pytest.mark.parametrize("seed", [-1, "x", 0.5, True])
def test_seeds_that_are_none_are_refused_at_once(module: str, seed: Any) -> None:
    with pytest.raises(InvalidConfig, match=r"^seed: expected an integer"):
        made(module, seed=seed)


@pytest.mark.parametrize("module", FIRST)
def test_adapters_print_as_their_environments(module: str) -> None:
    env = made(module)
    assert repr(env) == f"{ADAPTERS[module].name}({env.env!r})"


@pytest.mark.parametrize("module", FIRST)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["copy", "pickle"])
def test_copies_have_environments_of_their_own(module: str, copied: Any) -> None:
    env = made(module, seed=5)
    first = FIRST[module](env)
    twin = copied(env)
    assert twin.env is not env.env
    actions = torch.ones(4, 1)
    twin.env.step(actions)
    assert env.env.shown.equal(first)
    env.env.step(actions)
    assert env.env.shown.equal(twin.env.shown)
