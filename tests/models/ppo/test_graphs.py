"""What a stage asks of CUDA, and what it does where CUDA refuses: PyTorch's functions are replaced by a recorder."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import operant_gpu
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.models.ppo.graphs import Stage
from operant_gpu.vector import graphs

INVALID = RuntimeError("CUDA error: operation failed due to a previous error during capture")


class Generator:
    """Has a state that a failed capture leaves waiting."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.is_set_back = device, False

    def clone_state(self) -> Generator:
        return Generator(self.device)

    def graphsafe_set_state(self, state: Generator) -> None:
        self.is_set_back = True


class Stream(SimpleNamespace):
    def wait_stream(self, other: Any) -> None:
        pass


class Cuda:
    """Two devices; what is made belongs to the current one, and captures fail as PyTorch's do.

    Attributes:
        current: The current device.
        streams: The current stream of each device.
        pools: Those that a capture is under way with.
        made_on: Where generators were registered and graphs begun.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.current, self.made_on, self.pools, self.modes = 0, [], [], []
        self.streams = {index: Stream(device=torch.device("cuda", index), name="first") for index in (0, 1)}
        cuda = self

        class Graph:
            def register_generator_state(self, generator: Generator) -> None:
                warnings.warn("register_generator_state is deprecated", FutureWarning, stacklevel=2)
                cuda.made_on.append(cuda.current)

            def replay(self) -> None:
                cuda.replays += 1

        self.replays = 0
        names = {
            "CUDAGraph": Graph,
            "Stream": lambda device: Stream(device=device, name="side"),
            "device": self._device,
            "graph": self._graph,
            "graph_pool_handle": lambda: (0, 7),
            "current_stream": lambda device=None: self.streams[self.current if device is None else device.index],
            "set_stream": self._set_stream,
            "stream": self._stream,
            "default_generators": [Generator(torch.device("cuda", index)) for index in (0, 1)],
        }
        for name, value in names.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch._C, "_cuda_endAllocateToPool", lambda index, pool: self.pools.remove((index, pool)))
        patch.setattr(graphs, "_failed", [])

    @contextlib.contextmanager
    def _device(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, device.index
        yield
        self.current = before

    def _set_stream(self, stream: Stream) -> None:
        # PyTorch makes the stream's device the current one.
        self.current = stream.device.index
        self.streams[self.current] = stream

    @contextlib.contextmanager
    def _stream(self, stream: Stream) -> Iterator[None]:
        before = self.streams[stream.device.index]
        self.streams[stream.device.index] = stream
        yield
        self.streams[stream.device.index] = before

    @contextlib.contextmanager
    def _graph(self, graph: Any, pool: Any, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        self.made_on.append(self.current)
        self.modes.append(capture_error_mode)
        before = self.streams[stream.device.index]
        self._set_stream(stream)
        self.pools.append((self.current, pool))
        try:
            yield
        except BaseException:
            # The stream stays, and the allocator takes the capture to be under way.
            raise INVALID  # noqa: B904
        self.pools.remove((self.current, pool))
        self._set_stream(before)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def stage(function: Callable[[], None], index: int = 1) -> Stage:
    return Stage(function, Generator(torch.device("cuda", index)), capture=True)


def test_a_stage_on_a_device_that_is_not_current_is_captured_there(cuda: Cuda) -> None:
    devices: list[int] = []
    one = stage(lambda: devices.append(cuda.current))
    for _ in range(4):
        one()
        assert cuda.current == 0
    # Warmed up, captured, and from then on replayed.
    assert devices == [1, 1]
    assert cuda.replays == 3
    assert cuda.made_on == [1, 1]
    # Another thread may allocate meanwhile.
    assert cuda.modes == ["thread_local"]


def test_a_capture_that_fails_gives_the_authors_reason_and_leaves_all_as_it_was(cuda: Cuda) -> None:
    calls = []

    def function() -> None:
        calls.append(cuda.streams[1].name)
        if len(calls) == 2:
            raise ValueError("x.item() in the loss")

    one = stage(function)
    for _ in range(4):
        one()
    # The capture's call counts for nothing: what it was to do is done after it.
    assert calls == ["side", "side", "first", "first", "first"]
    assert not one.captured
    assert one.failure == "ValueError: x.item() in the loss"
    assert cuda.pools == []
    assert (cuda.current, cuda.streams[1].name) == (0, "first")
    assert one._generator.is_set_back
    assert torch.cuda.default_generators[1].is_set_back
    assert len(graphs._failed) == 1


def test_where_pytorch_itself_has_ended_the_pool_that_is_no_error(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(index: int, pool: Any) -> None:
        raise RuntimeError("endAllocatePool: not currently recording to mempool_id")

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", refuse)
    calls: list[int] = []

    def function() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError

    one = stage(function)
    for _ in range(3):
        one()
    assert one.failure == "ZeroDivisionError: "
    assert len(calls) == 4


def test_an_interrupt_ends_a_capture_and_the_training(cuda: Cuda) -> None:
    calls = []

    def function() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    one = stage(function)
    one()
    with pytest.raises(KeyboardInterrupt):
        one()
    assert len(calls) == 2
    assert cuda.pools == []
    assert one._generator.is_set_back


def test_newer_releases_have_no_generators_to_register(cuda: Cuda) -> None:
    del torch.cuda.CUDAGraph.register_generator_state
    one = stage(lambda: None)
    for _ in range(2):
        one()
    assert one.captured
    assert cuda.made_on == [1]


def freeze(learner: PPO) -> None:
    next(learner.policy.network.parameters()).requires_grad_(False)


def move(learner: PPO) -> None:
    weight = next(learner.policy.network.parameters())
    weight.data = weight.data.clone()


def compute_exactly(learner: PPO) -> None:
    learner.policy.precision = "ieee"


CHANGES = {
    "frozen parameters": freeze,
    "parameters in other memory": move,
    "train and eval": lambda learner: learner.policy.eval(),
    "bfloat16": lambda learner: setattr(learner.policy, "use_amp", True),
    "precision": compute_exactly,
}


@pytest.mark.parametrize("change", [None, *CHANGES])
def test_a_training_after_a_change_captures_anew(change: str | None) -> None:
    # An MLPPolicy keeps its parameters in one memory by itself.
    own = {"hidden_sizes": (8,), "activation": "tanh" if change == "precision" else "elu"}
    config = PPOConfig(n_steps=4, batch_size=8, n_epochs=1, engine="eager", **own)
    learner = PPO(operant_gpu.make("CartPole-v1", 4, device="cpu", backend="numpy"), config).learn(16)
    before = learner._loop.stages
    if change is not None:
        CHANGES[change](learner)
    learner.learn(16)
    assert (learner._loop.stages is before) is (change is None)
    assert learner.iterations == 2


def test_a_training_heeds_any_way_to_ask_for_tf32() -> None:
    config = PPOConfig(n_steps=4, batch_size=8, n_epochs=1, hidden_sizes=(8,), engine="eager")
    learner = PPO(operant_gpu.make("CartPole-v1", 4, device="cpu", backend="numpy"), config).learn(16)
    before, products = learner._loop.stages, torch.backends.cuda.matmul
    asked = products.fp32_precision
    try:
        # After it, PyTorch's older functions raise.
        products.fp32_precision = "tf32"
        learner.learn(16)
    finally:
        products.fp32_precision = asked
    assert learner._loop.stages is not before
