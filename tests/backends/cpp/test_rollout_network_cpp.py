"""Networks that act in C++: the same with any number of threads, and PyTorch where there is no compiler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract_envs import assert_same_tensors
from here import HAS_TRITON
from network_rollouts import assert_network_rollout
from rollouts import Outputs, Policy, all_names, make, make_network

from operant_gpu import BackendError
from operant_gpu.backends.cpp import rollout as cpp_rollout

pytestmark = pytest.mark.quick

if HAS_TRITON:
    pytest.skip("of the C++ alone", allow_module_level=True)

STEPS = 12
every_kind = pytest.mark.parametrize("name", ["CartPole-v1", "Drift-v0", "MaskedDials-v0", "CudaSnake-v0"])


def played(name: str, num_envs: int = 601) -> Outputs:
    env = make(name, "cpp" if name.startswith("Cuda") else "numba", num_envs=num_envs)
    env.reset(seed=3)
    return env.rollout(STEPS, Policy(make_network(env)), all_names(env))


@every_kind
def test_any_number_of_threads_gives_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpp_rollout, "_STEPS_PER_THREAD", 1)
    runs, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            runs.append(played(name))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert_same_tensors(run, runs[0])


@every_kind
def test_without_a_compiler_pytorch_evaluates_the_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = played(name, 41)

    def fails() -> Any:
        raise BackendError("no compiler")

    monkeypatch.setattr(cpp_rollout, "library", fails)
    found = played(name, 41)
    # By a float of the network a choice may differ, but not in the first step of so few environments.
    for key in ("obs", "action"):
        torch.testing.assert_close(found[key][0], expected[key][0], rtol=1e-4, atol=1e-4)
    if not name.startswith("Cuda"):
        env, reference = (make(name, "numba") for _ in range(2))
        for each in (env, reference):
            each.reset(seed=4)
        assert_network_rollout(env, reference, make_network(env))


def test_only_what_is_named_is_stored_and_the_rest_is_as_if_all_were() -> None:
    env, other = (make("CartPole-v1", "numba", num_envs=41, max_episode_steps=5) for _ in range(2))
    policy = Policy(make_network(env))
    for each in (env, other):
        each.reset(seed=3)
    everything = env.rollout(STEPS, policy, all_names(env))
    for name in ("final_value", "log_prob"):
        other.reset(seed=3)
        assert torch.equal(other.rollout(STEPS, policy, [name])[name], everything[name])
    assert_same_tensors(other.state_dict()["state"], env.state_dict()["state"])
