"""`VecEnv.compile`, and what the log says of compilations."""

from __future__ import annotations

from typing import Any

import pytest
from rollouts import assert_same_tensors, future, started

from operant_gpu.backends import compilations

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "MaskedDials-v0"])
def test_environments_stay_as_they_are(name: str, backend: str) -> None:
    env, twin = started(name, backend), started(name, backend)
    seen: list[Any] = []
    env.compile(lambda other: seen.append(other.rollout(3, out=["reward"])["reward"].shape))
    assert seen == [(3, env.num_envs)]
    assert_same_tensors(future(env), future(twin))


def test_what_is_compiled_is_told_with_its_time_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    before = compilations.count()
    with caplog.at_level("INFO", "operant_gpu"):
        with compilations.told("what was there", lambda: "nobody"):
            pass
        with compilations.told("step_kernel of CartPole-v1", lambda: "sm_90"):
            compilations.note()
    assert compilations.count() == before + 1
    (line,) = caplog.messages
    assert line.startswith("compiled step_kernel of CartPole-v1 for sm_90 in 0.0 s")
