"""Rollouts that make no sense are refused with advice, and change nothing."""

from __future__ import annotations

import contextlib
import math
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from contract_envs import Drift, assert_same_tensors, everything
from gymnasium import spaces
from rollouts import (
    NUM_ENVS,
    Policy,
    given_actions,
    make,
    make_network,
    output_names,
    started,
)

from operant_gpu import ActionError, InvalidConfig, OperantError, ResetNeeded, VecEnv
from operant_gpu.environment import Environment

STEPS = 5
N = NUM_ENVS


@contextlib.contextmanager
def refused(kind: type[OperantError], env: VecEnv, match: str) -> Iterator[None]:
    """Expect an error of this kind, one line of text, that leaves the environment as it was."""
    before = everything(env)
    with pytest.raises(kind, match=match) as raised:
        yield
    assert "\n" not in str(raised.value)
    assert_same_tensors(before, everything(env))


NOT_STEPS = [0, -1, 2**31, 10**30, True, 4.5, math.nan, "4", None, [4], np.float32(4.5), torch.tensor(4)]


@pytest.mark.parametrize("num_steps", NOT_STEPS, ids=repr)
def test_a_number_of_steps_is_an_integer_from_one_on(num_steps: Any, backend: str) -> None:
    env = started("CartPole-v1", backend)
    with refused(InvalidConfig, env, "^num_steps: expected an integer from 1"):
        env.rollout(num_steps)


@pytest.mark.parametrize("names", [["obs"], ["reward"], ["terminated", "obs"]], ids="-".join)
def test_more_steps_than_fit_into_memory_are_refused(names: list[str], backend: str) -> None:
    # Beyond what a machine can address, so that nothing is allocated where this fails.
    env = started("CartPole-v1", backend, num_envs=2**17)
    with refused(InvalidConfig, env, "^(num_steps|out): "):
        env.rollout(2**31 - 1, "random", names)


@pytest.mark.parametrize("policy", ["", "randon", "Random", "greedy"])
def test_the_one_policy_by_name_is_random(policy: str, backend: str) -> None:
    env = started("CartPole-v1", backend)
    with refused(InvalidConfig, env, rf"^policy: expected 'random', .*, got '{policy}'"):
        env.rollout(STEPS, policy)


BAD_POLICIES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "a number": lambda: 1,
    "an object": object,
    "mlp of another kind": lambda: Policy(torch.nn.Linear(4, 2)),
    "no mlp": lambda: Policy(None),
    "a bare MLP": lambda: make_network(make("CartPole-v1", "numpy")),
    "a dict": lambda: {"actions": 1},
    "a ragged list": lambda: [[0] * N] * (STEPS - 1) + [[0]],
    "one step": lambda: torch.zeros(N, dtype=torch.int64),
    "too few steps": lambda: torch.zeros(STEPS - 1, N, dtype=torch.int64),
    "too many steps": lambda: torch.zeros(STEPS + 1, N, dtype=torch.int64),
    "too few environments": lambda: torch.zeros(STEPS, N - 1, dtype=torch.int64),
    "environments first": lambda: torch.zeros(N, STEPS, dtype=torch.int64),
    "an axis too many": lambda: torch.zeros(STEPS, N, 1, dtype=torch.int64),
    "floats": lambda: torch.zeros(STEPS, N),
    "bytes": lambda: torch.zeros(STEPS, N, dtype=torch.uint8),
    "bools": lambda: torch.zeros(STEPS, N, dtype=torch.bool),
    "another device": lambda: torch.zeros(STEPS, N, dtype=torch.int64, device="meta"),
    "an array of floats": lambda: np.zeros((STEPS, N)),
    "a list of floats": lambda: [[0.0] * N] * STEPS,
}


@pytest.mark.parametrize("policy", BAD_POLICIES)
def test_what_is_neither_actions_nor_a_policy_is_refused(policy: str, backend: str) -> None:
    env = started("CartPole-v1", backend)
    with refused(ActionError, env, rf"^actions must be int32 or int64 of shape \({STEPS}, {N}\) on cpu, got "):
        env.rollout(STEPS, BAD_POLICIES[policy](), output_names(env))


class WithMLP(torch.nn.Module):
    """Has the attribute by its name alone."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = torch.nn.Linear(4, 2)


@pytest.mark.parametrize(
    "policy", [torch.nn.Linear(4, 2), torch.nn.Sequential(), WithMLP(), output_names], ids=lambda p: type(p).__name__
)
def test_policies_that_kernels_cannot_evaluate_are_refused(policy: Any, backend: str) -> None:
    env = started("CartPole-v1", backend)
    with refused(
        InvalidConfig, env, rf"^policy: expected .* MLPPolicy, got a {type(policy).__name__}: .*make one with"
    ):
        env.rollout(STEPS, policy, output_names(env))


@pytest.mark.parametrize(("name", "advice"), [("Drift-v0", r"actions\.float\(\)"), ("Dials-v0", r"actions\.long\(\)")])
def test_a_refusal_says_what_to_do(name: str, advice: str, backend: str) -> None:
    env = started(name, backend)
    with refused(ActionError, env, advice):
        env.rollout(STEPS, torch.zeros(STEPS, N, 2, dtype=torch.float64))


def wrong_network(env: VecEnv, **changes: Any) -> Policy:
    return Policy(make_network(env, **changes))


BAD_NETWORKS: dict[str, tuple[Callable[[VecEnv], Any], str]] = {
    "inputs": (lambda env: wrong_network(env, inputs=5), r"\(5, 2, False, None\).* needs \(4, 2, False, None\)"),
    "outputs": (lambda env: wrong_network(env, outputs=3), r"\(4, 3, False, None\).* needs \(4, 2, False, None\)"),
    "one-hot": (lambda env: wrong_network(env, obs_start=0), r"\(4, 2, False, 0\).* needs \(4, 2, False, None\)"),
    "normals": (
        lambda env: wrong_network(env, is_gaussian=True),
        r"\(4, 2, True, None\).* needs \(4, 2, False, None\)",
    ),
    "dtype": (
        lambda env: wrong_network(env, parameters=torch.zeros(58, dtype=torch.float64)),
        r"must be float32 on cpu, got float64 on cpu: use policy\.float\(\)\.to\(env\.device\)",
    ),
    "device": (
        lambda env: wrong_network(env, parameters=torch.zeros(67, device="meta")),
        r"must be float32 on cpu, got float32 on meta: use policy\.to\(env\.device\)",
    ),
    "too few parameters": (lambda env: wrong_network(env, parameters=torch.zeros(5)), "67"),
    "too many parameters": (lambda env: wrong_network(env, parameters=torch.zeros(68)), "67"),
    "no flat parameters": (lambda env: wrong_network(env, parameters=torch.zeros(67, 1)), "67"),
    "shift": (lambda env: wrong_network(env, shift=torch.zeros(3), scale=torch.ones(4), clip=1.0), "shift"),
    "scale": (lambda env: wrong_network(env, shift=torch.zeros(4), scale=torch.ones(5), clip=1.0), "scale"),
}


@pytest.mark.parametrize("kind", BAD_NETWORKS)
def test_a_network_that_does_not_fit_is_refused(kind: str, backend: str) -> None:
    env = started("CartPole-v1", backend)
    make_policy, message = BAD_NETWORKS[kind]
    with refused(InvalidConfig, env, rf"^policy: .*{message}"):
        env.rollout(STEPS, make_policy(env), ["value"])


def test_any_object_with_a_network_is_a_policy(backend: str) -> None:
    env = started("CartPole-v1", backend)
    policy = types.SimpleNamespace(mlp=make_network(env), other=1)
    assert env.rollout(STEPS, policy, ["value"])["value"].isfinite().all()


def box(low: float, high: float) -> Environment:
    return Environment(**{**vars(Drift), "action_space": spaces.Box(low, high, (2,))})


@pytest.mark.parametrize(("low", "high"), [(-np.inf, np.inf), (0.0, np.inf), (-np.inf, 1.0), (-3e38, 3e38)], ids=str)
def test_random_actions_need_bounds(low: float, high: float, backend: str) -> None:
    """The last have a distance that no float32 holds."""
    env = box(low, high)(N, device="cpu", backend=backend)
    env.reset(seed=1)
    with refused(InvalidConfig, env, "^policy: 'random' needs a Box with finite bounds"):
        env.rollout(STEPS)
    env.rollout(STEPS, torch.zeros(STEPS, N, 2))
    env.check()


BAD_OUTPUTS: dict[str, tuple[Any, str]] = {
    "None": (None, "expected names, or tensors by name"),
    "a number": (3, "expected names, or tensors by name"),
    "a tensor": (torch.tensor(1.0), "expected names, or tensors by name|unknown output"),
    "a list of tensors": ([torch.zeros(STEPS, N)], "unknown output"),
    "an unknown name": (["observation"], "unknown output 'observation': expected some of obs, action"),
    "an unknown name among others": (["obs", "rewards"], "unknown output 'rewards'"),
    "an empty name": ("", "unknown output ''"),
    "bytes": (b"obs", "unknown output"),
    "a list in a list": ([["obs"]], "unknown output"),
    "an unknown tensor": ({"observation": torch.zeros(STEPS, N)}, "unknown output 'observation'"),
    "a mask where there is none": (["action_mask"], "unknown output 'action_mask'"),
    "log_prob": (["log_prob"], "log_prob comes from a network"),
    "policy_action": (["policy_action"], "policy_action comes from a network"),
    "value": ({"value": torch.zeros(STEPS, N)}, "value comes from a network"),
    "final_value": ("final_value", "final_value comes from a network"),
    "no tensor": ({"reward": None}, "reward must be a torch.Tensor, got NoneType"),
    "an array": ({"reward": np.zeros((STEPS, N), np.float32)}, "reward must be a torch.Tensor, got ndarray"),
    "too few steps": ({"reward": torch.zeros(STEPS - 1, N)}, r"reward must be .* of shape \(5, 13\)"),
    "too many steps": ({"reward": torch.zeros(STEPS + 1, N)}, r"reward must be .* of shape \(5, 13\)"),
    "environments first": ({"reward": torch.zeros(N, STEPS)}, r"reward must be .* of shape \(5, 13\)"),
    "an axis too many": ({"reward": torch.zeros(STEPS, N, 1)}, r"reward must be .* of shape \(5, 13\)"),
    "flat observations": ({"obs": torch.zeros(STEPS, N * 4)}, r"obs must be .* of shape \(5, 13, 4\)"),
    "doubles": ({"obs": torch.zeros(STEPS, N, 4, dtype=torch.float64)}, "obs must be torch.float32 of shape"),
    "bytes as flags": ({"truncated": torch.zeros(STEPS, N, dtype=torch.uint8)}, "truncated must be torch.bool"),
    "float actions": ({"action": torch.zeros(STEPS, N)}, "action must be torch.int64 or torch.int32"),
    "short actions": ({"action": torch.zeros(STEPS, N, dtype=torch.int16)}, "action must be torch.int64 or"),
    "another device": ({"final_obs": torch.zeros(STEPS, N, 4, device="meta")}, "final_obs must be .* got .* on meta"),
    "columns of rewards": ({"reward": torch.zeros(N, STEPS).T}, "reward must have stride 1 from one .* got strides"),
    "gaps in flags": ({"terminated": torch.zeros(STEPS, 2 * N).bool()[:, ::2]}, "terminated must have stride 1"),
}


@pytest.mark.parametrize("kind", BAD_OUTPUTS)
def test_outputs_that_do_not_fit_are_refused(kind: str, backend: str) -> None:
    env = started("CartPole-v1", backend)
    out, message = BAD_OUTPUTS[kind]
    with refused(InvalidConfig, env, f"^out: .*({message})"):
        env.rollout(STEPS, "random", out)


def test_what_comes_before_an_output_that_does_not_fit_is_not_written(backend: str) -> None:
    env = started("CartPole-v1", backend)
    good = torch.full((STEPS, N), torch.nan)
    with refused(InvalidConfig, env, "^out: .*obs"):
        env.rollout(STEPS, "random", {"reward": good, "obs": torch.zeros(1)})
    assert good.isnan().all()


def test_components_are_evenly_spaced(backend: str) -> None:
    env = started("Dials-v0", backend)
    uneven = torch.zeros(STEPS, N, 2, 5)[..., :2]
    with refused(InvalidConfig, env, r"^out: the components of obs must be evenly spaced in memory, got strides"):
        env.rollout(STEPS, "random", {"obs": uneven})


def test_two_outputs_in_the_same_memory_are_refused(backend: str) -> None:
    env = started("CartPole-v1", backend)
    shared = torch.zeros(STEPS, N, 4)
    with refused(InvalidConfig, env, r"^out: .*same memory"):
        env.rollout(STEPS, "random", {"obs": shared, "final_obs": shared})


def test_rollouts_begin_with_a_reset_and_end_with_close(backend: str) -> None:
    env = make("CartPole-v1", backend)
    for policy in ("random", given_actions(env, STEPS), wrong_network(env)):
        with refused(ResetNeeded, env, "call reset"):
            env.rollout(STEPS, policy)
    env.reset(seed=1)
    env.close()
    with refused(ResetNeeded, env, "is closed: make a new one"):
        env.rollout(STEPS)
