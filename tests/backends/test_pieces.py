"""Long work on a CPU is done in pieces: with the same bits, and ended by a signal after a whole step."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract_envs import assert_same_tensors, everything
from gymnasium import spaces
from here import HAS_TRITON
from rollouts import Policy, all_names, given_actions, make, make_network, output_names, started
from updates import Fused, case

from operant_gpu.backends import threads
from operant_gpu.backends.cpp import update as cpp_update
from operant_gpu.models import PPO, PPOConfig

if HAS_TRITON:
    pytest.skip("Triton's kernels take all steps in one launch", allow_module_level=True)

STEPS = 12
NAMES = ("CartPole-v1", "Drift-v0", "MaskedDials-v0", "CudaSnake-v0")


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What cuts work into pieces of one step from then on."""
    return lambda: monkeypatch.setattr(threads, "_SECONDS_OF_PIECE", 1e-9)


@pytest.mark.quick
@pytest.mark.parametrize("policy", ["random", "given", "network"])
@pytest.mark.parametrize("name", NAMES)
def test_a_rollout_in_pieces_has_the_same_bits(name: str, policy: str, cut: Callable[[], None]) -> None:
    def played() -> tuple[Any, Any]:
        env = started(name, "cpp" if name.startswith("Cuda") else "numba")
        if policy == "network":
            return env.rollout(STEPS, Policy(make_network(env)), all_names(env)), everything(env)
        actions = given_actions(env, STEPS) if policy == "given" else policy
        return env.rollout(STEPS, actions, output_names(env)), everything(env)

    whole = played()
    cut()
    for found, expected in zip(played(), whole, strict=True):
        assert_same_tensors(found, expected)


@pytest.mark.quick
def test_gradient_steps_in_pieces_have_the_same_bits(cut: Callable[[], None]) -> None:
    def climbed() -> tuple[torch.Tensor, torch.Tensor]:
        given = case(spaces.Discrete(3), minibatches=3, n_epochs=3)
        table = Fused(given, cpp_update).run()
        return given.policy.flat.clone(), table.measured.clone()

    whole = climbed()
    cut()
    for found, expected in zip(climbed(), whole, strict=True):
        assert torch.equal(found, expected)


def test_pieces_go_by_the_slowest_steps_of_the_last_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(threads.time, "perf_counter", lambda: clock[0])
    pieces, taken = threads.Pieces(first=4), list[int]()

    def take(first: int, count: int) -> None:
        assert first == sum(taken)
        taken.append(count)
        # After ten steps an iteration has stopped.
        clock[0] += 0.05 * max(0, min(count, 10 - first))

    pieces.each(20, take)
    assert taken == [4, 5, 5, 6]
    taken.clear()
    pieces.each(20, take)
    assert taken[0] == 5
    assert sum(taken) == 20


@pytest.mark.parametrize("has_network", [False, True], ids=["random", "network"])
@pytest.mark.parametrize("name", ["CartPole-v1", "CudaCartPole-v1"])
def test_ctrl_c_ends_a_rollout_after_a_whole_step(name: str, has_network: bool) -> None:
    env = make(name, "cpp" if name.startswith("Cuda") else "numba", num_envs=3000, max_episode_steps=-1)
    env.reset(seed=1)
    policy = Policy(make_network(env)) if has_network else "random"
    # Compiled, before a signal comes.
    env.rollout(1, policy)
    threading.Timer(0.3, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        env.rollout(10**9, policy)
    # Each step has ended an episode, or made one longer.
    columns = env.state_dict()["columns"]
    steps = columns["log_length"] + columns["elapsed"].masked_fill(columns["ended"], 0)
    assert steps.min() == steps.max() > 1
    env.rollout(1, policy)


def test_ctrl_c_ends_a_training_between_gradient_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make("CartPole-v1", "numba", num_envs=64)
    learner = PPO(env, PPOConfig(n_steps=16, batch_size=64, n_epochs=8000, engine="fused"))
    steps = learner._loop.update._steps
    climb, calls = steps._library.climb, []

    def interrupted(fields: Any) -> Any:
        calls.append(fields)
        if len(calls) == 2:
            _thread.interrupt_main()
        return climb(fields)

    monkeypatch.setattr(steps._library, "climb", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learner.learn()
    assert learner.iterations == 0
    assert 0 < learner.optimizer.count < 8000 * 16
    assert all(parameter.isfinite().all() for parameter in learner.policy.parameters())


class Alarm(Exception):
    """What a signal's handler raises."""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers that signal")
@pytest.mark.parametrize("name", ["CartPole-v1", "CudaCartPole-v1"])
def test_signals_leave_all_threads_after_the_same_step(name: str) -> None:
    def ring(number: int, frame: object) -> None:
        raise Alarm

    before, handler = torch.get_num_threads(), signal.signal(signal.SIGALRM, ring)
    env = make(name, "cpp" if name.startswith("Cuda") else "numba", num_envs=32_768, max_episode_steps=-1)
    env.reset(seed=1)
    actions, rung = torch.zeros(32_768, dtype=torch.int64), 0
    try:
        torch.set_num_threads(3)
        env.step(actions)
        for delay in range(40):
            try:
                # The signal may come before the timer's own call is over.
                signal.setitimer(signal.ITIMER_REAL, 0.002 + 0.0001 * delay)
                while True:
                    env.step(actions)
            except Alarm:
                rung += 1
            columns = env.state_dict()["columns"]
            steps = columns["log_length"] + columns["elapsed"].masked_fill(columns["ended"], 0)
            assert steps.min() == steps.max()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        torch.set_num_threads(before)
    assert rung == 40


def test_all_parts_are_done_before_a_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    done: list[range] = []

    def part(first: int, last: int) -> None:
        if first == 0:
            raise MemoryError
        time.sleep(0.01)
        done.append(range(first, last))

    for _ in range(5):
        done.clear()
        with pytest.raises(MemoryError):
            threads.in_parts(part, lambda thread, first, last: (first, last), 30, 1, 1, 1)
        assert sorted(done, key=lambda part: part.start) == [range(10, 20), range(20, 30)]
