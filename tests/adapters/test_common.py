"""Spaces as trainers count them, and how the environments of adapters are made. No trainer is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from operant_gpu import ActionError, AutoresetMode, InvalidConfig, make
from operant_gpu.adapters.common import Actions, Units, made

pytestmark = pytest.mark.quick

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("space", "counted"),
    [
        (spaces.Discrete(4, start=-3), spaces.Discrete(4)),
        (spaces.Discrete(4), spaces.Discrete(4)),
        (spaces.MultiDiscrete([2, 3], start=[5, -1]), spaces.MultiDiscrete([2, 3])),
        (spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (2,))),
    ],
)
def test_whole_numbers_are_counted_from_0(space: Any, counted: Any) -> None:
    units = Units(space, CPU)
    assert units.space == counted
    for _ in range(5):
        own = torch.as_tensor(space.sample())
        assert counted.contains(np.asarray(units.seen(own)) if own.ndim else int(units.seen(own)))
        assert units.given(units.seen(own)).equal(own)


def test_actions_come_in_rows_of_any_dtype() -> None:
    discrete, box = Actions(make("CartPole-v1", 3, device="cpu")), Actions(make("Pendulum-v1", 3, device="cpu"))
    for actions in (torch.ones(3), torch.ones(3, 1, dtype=torch.int32), torch.ones(3, dtype=torch.int64)):
        assert discrete.read(actions).equal(torch.ones(3, dtype=torch.int64))
    assert box.read(torch.ones(3, 1, dtype=torch.float64)).equal(torch.ones(3, 1))
    for actions in (torch.ones(1, 3), torch.ones(2), torch.ones(())):
        with pytest.raises(ActionError, match=r"must be of shape \(3,\) or \(3, 1\), got .*: one row per environment"):
            discrete.read(actions)
    with pytest.raises(ActionError, match=r"must be of shape \(3, 1\), got \(3,\)"):
        box.read(torch.ones(3))


def test_modes_are_given_by_name_or_member() -> None:
    for mode in ("next_step", "NextStep", AutoresetMode.NEXT_STEP):
        env = made("CartPole-v1", 2, {"autoreset_mode": mode, "device": "cpu"}, ("same_step", "next_step"), "it")
        assert env.autoreset_mode is AutoresetMode.NEXT_STEP
    with pytest.raises(InvalidConfig, match="expected 'same_step', as it needs it, got 'DISABLED'"):
        made("CartPole-v1", 2, {"autoreset_mode": AutoresetMode.DISABLED}, ("same_step",), "it")
    with pytest.raises(InvalidConfig, match="did you mean 'CartPole-v1'"):
        made("Cartpole-v1", 2, {}, ("same_step",), "it")
