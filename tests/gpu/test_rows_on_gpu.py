"""Snapshots and branches on a GPU: what a CPU copies is copied, in graphs too, and nothing waits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from contract_envs import EVERY_MAKER, assert_same_tensors, everything, random_actions
from faulty_envs import Ball
from gpu_checks import NUM_ENVS, needs, no_synchronisation, reference_of

from operant_gpu import InvalidConfig, VecEnv
from operant_gpu.models import PPO, PPOConfig

pytestmark = pytest.mark.gpu

# Floats, what is drawn with tables and metrics, boards in Triton and in C++.
NAMES = ["CartPole-v1", "Market-varied", "Snake-v0", "MinAtar-Breakout-v1"]
every_form = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the executor's memory, which is the host's, for a GPU's: indices there are not looked at."""
    monkeypatch.setattr("operant_gpu.vector.checks._check_rows", lambda *_: None)


def started(name: str, num_envs: int = NUM_ENVS) -> VecEnv:
    env = EVERY_MAKER[name](num_envs, device="cuda", max_episode_steps=9)
    env.reset(seed=11)
    env.step(random_actions(env, np.random.default_rng(0)).cuda())
    return env


def drawn(env: VecEnv, count: int, seed: int, distinct: bool = False) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    rows = rng.permutation(env.num_envs)[:count] if distinct else rng.integers(0, env.num_envs, count)
    return torch.as_tensor(rows, device=env.device)


def on_cpu(env: VecEnv) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu() for name, tensor in everything(env).items()}


@every_form
def test_rows_are_copied_as_on_a_cpu(name: str) -> None:
    env, cpu = started(name), reference_of(name, NUM_ENVS, max_episode_steps=9)
    cpu.reset(seed=0)
    cpu.load_state_dict(env.state_dict())
    for count, seed in ((1, 1), (64, 2), (NUM_ENVS, 3)):
        sources, targets = drawn(env, count, seed), drawn(env, count, seed + 10, distinct=True)
        for new_streams in (False, True):
            env.branch(sources, targets, new_streams=new_streams)
            cpu.branch(sources.cpu(), targets.cpu(), new_streams=new_streams)
            assert_same_tensors(on_cpu(env), everything(cpu))
    snapshot = env.snapshot(drawn(env, 300, 5))
    for one, taken in ((env, snapshot.to("cpu")), (cpu, snapshot)):
        one.rollout(3)
        one.restore(taken, list(range(40, 340)), new_streams=True)
    part = [{name: tensor[40:340] for name, tensor in on_cpu(one).items() if "log_" not in name} for one in (env, cpu)]
    assert_same_tensors(*part)
    env.check()


@every_form
def test_a_graph_reads_the_indices_anew(name: str) -> None:
    eager, captured = started(name), started(name)
    for env in (eager, captured):
        env.branch([0], [1])
    sources, targets = drawn(eager, 100, 1), drawn(eager, 100, 2, distinct=True)
    actions = random_actions(eager, np.random.default_rng(1)).cuda()

    def search(env: VecEnv) -> Any:
        env.branch(sources, targets, new_streams=True)
        return env.step(actions)

    replay = captured.capture(lambda: search(captured))
    for seed in range(3, 8):
        sources.copy_(drawn(eager, 100, seed))
        targets.copy_(drawn(eager, 100, seed + 20, distinct=True))
        search(eager)
        replay()
        assert_same_tensors(everything(captured), everything(eager))


@needs("waiting")
@every_form
def test_copying_does_not_wait(name: str) -> None:
    env = started(name)
    sources, targets = drawn(env, 100, 1), drawn(env, 100, 2, distinct=True)
    env.branch(sources, targets)
    with no_synchronisation():
        env.branch(sources, targets, new_streams=True)
        env.restore(env.snapshot(sources), targets)


def test_rows_that_do_not_exist_are_left_out_and_told() -> None:
    env = started("CartPole-v1")
    before = on_cpu(env)
    pairs = torch.tensor([[NUM_ENVS, 3, -1, 5], [1, NUM_ENVS, 2, 4]], device="cuda")
    env.branch(pairs[0], pairs[1])
    expected = {name: tensor.clone() for name, tensor in before.items()}
    for name, tensor in expected.items():
        if not any(part in name for part in ("log_", "bad_actions", "late_steps", "branches")):
            tensor[4] = tensor[5]
    assert_same_tensors(on_cpu(env), expected)
    every = torch.arange(NUM_ENVS, device="cuda")
    every[7] = NUM_ENVS
    env.branch(every)
    assert_same_tensors(on_cpu(env), expected)
    assert env.snapshot(every).state["x"][7] == 0
    with pytest.raises(InvalidConfig, match=r"^indices: 5 pairs with a row out of range were not copied"):
        env.check()
    env.check()


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_faults_are_those_of_a_cpu(kind: int) -> None:
    gpu, cpu = (Ball(200, device=device, debug="faults", kind=kind) for device in ("cuda", "cpu"))
    for env in (gpu, cpu):
        env.reset(seed=3)
        env.rollout(12)
    found, expected = gpu.faults(), cpu.faults()
    assert found.total == expected.total > 5
    assert list(found) == list(expected)
    assert gpu.stopped.cpu().equal(cpu.stopped)
    assert gpu.observe().isfinite().all()


@needs("waiting")
def test_keeping_faults_does_not_wait() -> None:
    env = Ball(200, device="cuda", debug="faults", kind=1)
    env.reset(seed=3)
    actions = torch.zeros(200, dtype=torch.int64, device="cuda")
    env.step(actions)
    env.rollout(2)
    with no_synchronisation():
        env.step(actions)
        env.rollout(2)
    assert env.faults().total == 200


def test_training_without_what_went_wrong_is_captured() -> None:
    settings = {"num_envs": 64, "n_steps": 8, "batch_size": 128, "on_fault": "skip"}
    learner = PPO(Ball(64, device="cuda", debug="faults", kind=1), PPOConfig(**settings))
    learner.learn(64 * 8 * 6)
    assert learner.env.faults().total > 20
    assert all(parameter.isfinite().all() for parameter in learner.policy.parameters())
    assert learner.engine in ("fused", "graph")
