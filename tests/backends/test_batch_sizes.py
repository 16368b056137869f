"""Batches of odd sizes, of several programs each: every row is written, completely, and no other."""

from __future__ import annotations

import pytest
import torch
from contract_envs import WITH_ARRAYS, assert_same_tensors
from here import EXECUTED, HAS_TRITON
from network_rollouts import assert_network_rollout
from rollouts import (
    Outputs,
    Policy,
    assert_same_environments,
    given_actions,
    make_network,
    output_names,
    single_steps,
    started,
)

from operant_gpu import VecEnv

STEPS = 3
# A masked one, and one of random steps.
NUMBERS = ["Drift-v0", "Ledge-v0"]
# The interpreter's programs are many and odd with 341; the last is for many threads.
every_size = pytest.mark.parametrize("num_envs", [1, 341] if HAS_TRITON else [1, 41, 341, 4_231])
# Rows that belong to the caller, before and after those of the environments.
BEFORE, AFTER = 2, 3


@pytest.fixture(autouse=True)
def _several_programs(backend: str, monkeypatch: pytest.MonkeyPatch, num_envs: int) -> None:
    """Have batches cut in two to six; the interpreter takes all environments in one program otherwise."""
    if backend == "triton":
        shape = max(32, 2 ** num_envs.bit_length() // 8), 1
        monkeypatch.setattr("operant_gpu.backends.triton.backend.launch_shape", lambda num_envs, width=1: shape)
        monkeypatch.setattr("operant_gpu.backends.triton.backend.rollout_shape", lambda num_envs, network, width: shape)
        if EXECUTED:
            # A GPU's logarithms and sines, of which Drift's normal numbers are made, are not NumPy's.
            monkeypatch.setattr(assert_same_tensors, "__defaults__", (128, 1e-6))


def poisoned(expected: Outputs) -> Outputs:
    """Return memory for outputs of this form, with rows around: NaN, flags that alternate, numbers out of range."""
    memories = {}
    for name, tensor in expected.items():
        steps, num_envs, *shape = tensor.shape
        memory = torch.arange(steps * (BEFORE + num_envs + AFTER) * tensor[0, 0].numel()) % 2 - 9
        memory = memory.view(steps, BEFORE + num_envs + AFTER, *shape)
        memories[name] = memory == -9 if tensor.dtype is torch.bool else memory.to(tensor.dtype)
        if tensor.is_floating_point():
            memories[name].fill_(torch.nan)
    return memories


def rows(memories: Outputs) -> Outputs:
    return {name: memory[:, BEFORE:-AFTER] for name, memory in memories.items()}


def assert_only_rows_written(memories: Outputs, expected: Outputs) -> None:
    untouched = poisoned(expected)
    for name, tensor in rows(untouched).items():
        tensor.copy_(expected[name])
    assert_same_tensors(memories, untouched)


def pair(name: str, backend: str, num_envs: int) -> tuple[VecEnv, VecEnv]:
    """Return environments and what they are compared with: NumPy, but for numba, whose normal numbers are its own."""
    reference = "numba" if backend == "numba" else "numpy"
    return started(name, backend, num_envs=num_envs), started(name, reference, num_envs=num_envs)


@every_size
@pytest.mark.parametrize("name", [*NUMBERS, "Lamps-v0"])
def test_steps_and_rollouts_write_their_rows_and_no_others(name: str, backend: str, num_envs: int) -> None:
    if backend == "numba" and name in WITH_ARRAYS:
        pytest.skip("numba has no arrays")
    env, reference = pair(name, backend, num_envs)
    assert_same_environments(env, reference)
    actions, names = given_actions(env, STEPS), output_names(env)
    for policy in (actions, "random"):
        # The form of what is stored, from a copy.
        future = env.state_dict()
        memories = poisoned(env.rollout(STEPS, policy, names))
        env.load_state_dict(future)
        stored = env.rollout(STEPS, policy, rows(memories))
        expected = single_steps(reference, stored["action"].clone())
        assert_only_rows_written(memories, expected)
        assert_same_environments(env, reference)
    stepped = single_steps(env, actions)
    assert_same_tensors(stepped, single_steps(reference, actions))
    assert_same_environments(env, reference)
    mask = torch.arange(num_envs) % 3 == 0
    fresh, expected_fresh = (each.reset(options={"reset_mask": mask})[0] for each in (env, reference))
    assert_same_tensors({"obs": fresh}, {"obs": expected_fresh})
    assert_same_environments(env, reference)


@every_size
@pytest.mark.parametrize("name", [*NUMBERS, "Lamps-v0"])
def test_rollouts_of_networks_write_their_rows_and_no_others(name: str, backend: str, num_envs: int) -> None:
    if backend == "numba" and name in WITH_ARRAYS:
        pytest.skip("numba has no arrays")
    env, reference = pair(name, backend, num_envs)
    network, start = make_network(env), env.state_dict()
    expected = assert_network_rollout(env, reference, network, STEPS)
    env.load_state_dict(start)
    memories = poisoned(expected)
    env.rollout(STEPS, Policy(network), rows(memories))
    assert_only_rows_written(memories, expected)
