"""`VecEnv.capture` where there is no GPU, and what it does around a capture; `tests/gpu` replays real graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rollouts import assert_same_tensors, future, started

import operant_gpu
from operant_gpu import InvalidConfig
from operant_gpu.errors import ResetNeeded
from operant_gpu.vector import graphs

pytestmark = pytest.mark.quick


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A device that has graphs, and what is done with them."""
    done: list[str] = []

    class Graph:
        def replay(self) -> None:
            done.append("replay")

    def captured(function: Any, stream: Any) -> Any:
        done.append("captured")
        # Its kernels are written down, and not launched.
        return Graph(), "what it returned"

    monkeypatch.setattr(graphs, "has_graphs", lambda device: True)
    monkeypatch.setattr(graphs, "warmed_up", lambda function, device: function())
    monkeypatch.setattr(graphs, "captured", captured)
    monkeypatch.setattr(torch.cuda, "device", lambda device: graphs.contextlib.nullcontext())
    return done


def test_without_graphs_the_function_itself_comes_back() -> None:
    env = started("CartPole-v1", "numpy")
    step = lambda: env.step(torch.zeros(env.num_envs, dtype=torch.int64))  # noqa: E731
    assert env.capture(step) is step


def test_the_environments_stand_where_they_stood(replays: list[str]) -> None:
    env, twin = started("CartPole-v1", "numpy"), started("CartPole-v1", "numpy")
    actions = torch.ones(env.num_envs, dtype=torch.int64)
    shown = [tensor.clone() for tensor in env.step(actions)[:4]]
    twin.step(actions)
    replay = env.capture(lambda: [env.step(actions) for _ in range(30)])
    assert replays == ["captured"]
    assert replay() == "what it returned"
    assert replays == ["captured", "replay"]
    assert_same_tensors(
        dict(enumerate(shown)), dict(enumerate(env._results.present()[:1] + env._results.present()[2:5]))
    )
    assert_same_tensors(future(env), future(twin))


def test_a_function_that_raises_leaves_the_environments_alone(replays: list[str]) -> None:
    env, twin = started("CartPole-v1", "numpy"), started("CartPole-v1", "numpy")

    def function() -> None:
        env.step(torch.ones(env.num_envs, dtype=torch.int64))
        raise ValueError("of the author")

    with pytest.raises(ValueError, match="of the author"):
        env.capture(function)
    assert_same_tensors(future(env), future(twin))


def test_what_cannot_be_captured_is_refused(replays: list[str]) -> None:
    env = operant_gpu.make("CartPole-v1", 2, device="cpu", debug=True)
    with pytest.raises(ResetNeeded):
        env.capture(lambda: None)
    env.reset(seed=0)
    with pytest.raises(InvalidConfig, match="debug=True"):
        env.capture(lambda: None)
