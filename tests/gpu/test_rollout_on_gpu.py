"""Rollouts on a GPU: the steps they stand for, networks evaluated by hand, no waiting, graphs, compilations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract_envs import CUDA_MAKERS, EVERY_MAKER, assert_same_tensors, every_mode
from gpu_checks import (
    NUM_ENVS,
    compilations,
    every_environment_in_modes,
    needs,
    no_allocation,
    no_synchronisation,
)
from mlp_policies import policy_for
from network_rollouts import assert_network_rollout
from rollouts import (
    all_names,
    assert_same_environments,
    future,
    joined,
    output_names,
    single_steps,
)

import operant_gpu
from operant_gpu import ActionError, AutoresetMode, InvalidConfig, VecEnv
from operant_gpu.models import MLPPolicy

pytestmark = pytest.mark.gpu

STEPS = 12
# Of networks with weights around 0.1 to 1, by the precision of products.
CLOSE = {"ieee": {"rtol": 1e-4, "atol": 1e-4}, "tf32": {"rtol": 2e-2, "atol": 2e-2}}
every_precision = pytest.mark.parametrize("precision", CLOSE)


def started(name: str, mode: AutoresetMode = AutoresetMode.SAME_STEP, **settings: Any) -> VecEnv:
    num_envs = settings.pop("num_envs", NUM_ENVS)
    env = EVERY_MAKER[name](num_envs, device="cuda", autoreset_mode=mode, **{"max_episode_steps": 5, **settings})
    env.reset(seed=3)
    return env


def wide_policy_for(env: VecEnv, precision: str = "ieee", **changes: Any) -> MLPPolicy:
    return policy_for(env, precision, **{"hidden_sizes": (64, 64), **changes})


@every_environment_in_modes
def test_a_rollout_equals_single_steps(name: str, mode: AutoresetMode) -> None:
    env, reference = started(name, mode), started(name, mode)
    names = output_names(env)
    actions = started(name, mode).rollout(STEPS, out=["action"])["action"]
    for policy in ("random", actions, "random"):
        stored = env.rollout(STEPS, policy, names)
        assert_same_tensors(stored, single_steps(reference, stored["action"]))
        assert_same_environments(env, reference)
        assert_same_tensors({"observe": env.observe()}, {"observe": reference.observe()})
    assert env.get_logs()["episode_count"] >= NUM_ENVS


@every_environment_in_modes
@every_precision
def test_a_network_acts_as_by_hand(name: str, mode: AutoresetMode, precision: str) -> None:
    env, reference = started(name, mode), started(name, mode)
    # What is seen one-hot is not normalized.
    settings = {"normalize_observations": env.single_observation_space.shape != ()}
    policy = wide_policy_for(env, precision, **settings, shared_trunk=mode is AutoresetMode.NEXT_STEP)
    assert_network_rollout(env, reference, policy.mlp, STEPS, CLOSE[precision])


@every_precision
@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_sizes": ()},
        {"hidden_sizes": (5,), "activation": "relu"},
        {"hidden_sizes": (128, 128, 128), "shared_trunk": True},
        {"hidden_sizes": (33, 7)},
    ],
    ids=lambda changes: "x".join(map(str, changes["hidden_sizes"])) or "linear",
)
def test_networks_of_every_size(changes: dict[str, Any], precision: str) -> None:
    env, reference = started("MaskedDials-v0"), started("MaskedDials-v0")
    policy = wide_policy_for(env, precision, **changes)
    assert_network_rollout(env, reference, policy.mlp, 4, CLOSE[precision])


def policies_of(env: VecEnv) -> dict[str, Any]:
    given = env.rollout(STEPS, out=["action"])["action"]
    return {"random": "random", "given": given, "network": wide_policy_for(env, "tf32")}


# PyTorch evaluates networks where the environment is in CUDA C++, and allocates for that.
ONE_KERNEL = [
    *(
        (name, policy)
        for name in ("CartPole-v1", "Pendulum-v1", "Ledge-v0")
        for policy in ("random", "given", "network")
    ),
    *(
        (name, policy)
        for name in ("CudaDrift-v0", "CudaLedge-v0", "MinAtar-Seaquest-v1")
        for policy in ("random", "given")
    ),
]
NETWORKS_OF_CUDA = [("CudaDrift-v0", "network"), ("CudaLedge-v0", "network")]
# It also copies the actions that are given there.
GRAPHS = [
    pytest.param(name, policy, marks=needs("graphs of PyTorch") if name in CUDA_MAKERS and policy != "random" else ())
    for name, policy in ONE_KERNEL + NETWORKS_OF_CUDA
]


@needs("allocator", "waiting")
@pytest.mark.parametrize(("name", "policy_name"), ONE_KERNEL)
@every_mode
def test_a_rollout_neither_waits_nor_allocates(name: str, mode: AutoresetMode, policy_name: str) -> None:
    env = started(name, mode)
    policy = policies_of(env)[policy_name]
    out = env.rollout(STEPS, policy, all_names(env) if policy_name == "network" else output_names(env))
    with no_synchronisation(), no_allocation():
        for _ in range(3):
            env.rollout(STEPS, policy, out)


@pytest.mark.parametrize(("name", "policy_name"), GRAPHS)
def test_graph_replay_equals_eager_rollouts(name: str, policy_name: str) -> None:
    eager, captured, other = started(name), started(name), started(name)
    policy = policies_of(other)[policy_name]
    names = all_names(eager) if policy_name == "network" else output_names(eager)
    out = other.rollout(STEPS, policy, names)
    replay = captured.capture(lambda: captured.rollout(STEPS, policy, out))
    for _ in range(3):
        replay()
        assert_same_tensors(out, eager.rollout(STEPS, policy, names))
        assert_same_tensors(future(captured), future(eager))


def test_parts_of_a_rollout_equal_the_whole_in_a_large_batch() -> None:
    """Of 40,003 environments, and of 11 among them."""
    large, halves = started("CartPole-v1", num_envs=40_003), started("CartPole-v1", num_envs=40_003)
    small = started("CartPole-v1", num_envs=11, first_env_id=39_992)
    names = output_names(large)
    whole = large.rollout(STEPS, out=names)
    assert_same_tensors(joined(halves.rollout(7, out=names), halves.rollout(STEPS - 7, out=names)), whole)
    expected = {name: tensor[:, 39_992:] for name, tensor in whole.items()}
    assert_same_tensors(small.rollout(STEPS, out=names), expected)


def test_the_kernel_compiles_once_whatever_the_lengths() -> None:
    with compilations() as compiled:
        # A parameter that no other test uses: this process has not loaded such a kernel.
        for num_envs in (64, 4_096):
            env = operant_gpu.make("CartPole-v1", num_envs, device="cuda", gravity=9.80671)
            env.reset(seed=0)
            for steps in (1, 2, 16, 37):
                env.rollout(steps)
    assert sum("rollout" in name for name in compiled) == 1, f"expected one kernel of rollouts, got {compiled}"


def test_bad_values_are_counted_and_left_alone() -> None:
    env = started("CartPole-v1")
    before = env.state.x.clone()
    actions = torch.zeros(2, NUM_ENVS, dtype=torch.int64, device="cuda")
    actions[:, [3, 1_000]] = torch.tensor([-1, 2**40], device="cuda")
    env.rollout(2, actions)
    assert torch.equal(env.state.x[[3, 1_000]], before[[3, 1_000]])
    with pytest.raises(ActionError, match=r"4 actions .* environment 3"):
        env.check()
    policy = wide_policy_for(started("Pendulum-v1"))
    policy.flat.fill_(torch.nan)
    pendulum = started("Pendulum-v1")
    assert not pendulum.rollout(2, policy, ["reward"])["reward"].any()
    with pytest.raises(ActionError, match=f"{2 * NUM_ENVS} actions"):
        pendulum.check()


@needs("host memory apart")
def test_a_policy_and_its_environments_share_a_device() -> None:
    env = started("CartPole-v1")
    with pytest.raises(InvalidConfig, match=r"policy\.to\(env\.device\)"):
        env.rollout(1, wide_policy_for(env).cpu())
