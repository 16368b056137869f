"""Adapters on a GPU, where the trainers are installed, do what they do on a CPU."""

from __future__ import annotations

from typing import Any

import counters
import numpy as np
import pytest
import torch
from trainers import adapter

pytestmark = pytest.mark.gpu

STEPS = 12


def made(module: str, definition: Any, device: str) -> Any:
    return adapter(module)(definition, **{**counters.settings(), "device": device})


def test_stable_baselines_gets_the_same_arrays() -> None:
    gpu, cpu = (made("sb3", counters.Tally, device) for device in ("cuda", "cpu"))
    np.testing.assert_array_equal(gpu.reset(), cpu.reset())
    for actions in counters.choices("Tally-v0", STEPS):
        (*found, infos), (*expected, expected_infos) = gpu.step(actions), cpu.step(actions)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        for info, other in zip(infos, expected_infos, strict=True):
            assert info.keys() == other.keys()
            if info:
                np.testing.assert_array_equal(info["terminal_observation"], other["terminal_observation"])
                assert {**info["episode"], "t": 0} == {**other["episode"], "t": 0}


def test_skrl_gets_the_same_tensors() -> None:
    gpu, cpu = (made("skrl", counters.Tally, device) for device in ("cuda", "cpu"))
    assert gpu.reset()[0].cpu().equal(cpu.reset()[0])
    for actions in map(torch.from_numpy, counters.choices("Tally-v0", STEPS)):
        found, expected = gpu.step(actions[:, None].to("cuda")), cpu.step(actions[:, None])
        assert all(one.cpu().equal(other) for one, other in zip(found[:4], expected[:4], strict=True))


def test_torchrl_gets_the_same_tensors() -> None:
    gpu, cpu = (made("torchrl", counters.Tally, device) for device in ("cuda", "cpu"))
    found, expected = (
        env.rollout(STEPS, counters.scripted("Tally-v0", STEPS), break_when_any_done=False) for env in (gpu, cpu)
    )
    for key in expected.keys(include_nested=True, leaves_only=True):
        assert found[key].cpu().equal(expected[key]), key


def test_rsl_rl_gets_the_same_tensors() -> None:
    gpu, cpu = (made("rsl_rl", counters.TallyBox, device) for device in ("cuda", "cpu"))
    for actions in map(torch.from_numpy, counters.choices("TallyBox-v0", STEPS)):
        (obs, *found, extras), (other, *expected, other_extras) = gpu.step(actions.to("cuda")), cpu.step(actions)
        assert obs["policy"].cpu().equal(other["policy"])
        assert all(one.cpu().equal(two) for one, two in zip(found, expected, strict=True))
        assert extras["time_outs"].cpu().equal(other_extras["time_outs"])
