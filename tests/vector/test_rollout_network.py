"""Rollouts with a network: its numbers against an evaluation in float64, its draws against the streams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from contract_envs import WITH_ARRAYS, assert_same_tensors, every_mode, everything
from network_rollouts import CLOSE, STEPS, assert_network_rollout
from rollouts import (
    NUM_ENVS,
    Outputs,
    Policy,
    all_names,
    evaluate_by_hand,
    every_environment,
    given_actions,
    is_legal,
    joined,
    make,
    make_network,
    output_names,
    single_steps,
    started,
)

from operant_gpu import ActionError, AutoresetMode


@pytest.mark.quick
@every_environment
def test_values_actions_and_probabilities_are_those_of_the_network(
    name: str, backend: str, mode: AutoresetMode
) -> None:
    env, reference = make(name, backend, mode), make(name, backend, mode)
    network = make_network(env, seed=3)
    for each in (env, reference):
        each.reset(seed=2)
        each.rollout(1)
    stored = assert_network_rollout(env, reference, network)
    assert len(stored["action"].unique()) > 1
    assert_network_rollout(env, reference, network, steps=1)
    if "action_mask" in stored:
        assert is_legal(env, stored["action"], stored["action_mask"]).all()


NETWORKS: dict[str, dict[str, Any]] = {
    "one hidden layer": {"hidden_sizes": (16,)},
    "two critics' layers of their own": {"hidden_sizes": (12, 5), "shared_trunk": False},
    "three layers of relu": {"hidden_sizes": (7, 33, 4), "activation": "relu"},
    "apart, relu": {"hidden_sizes": (9,), "activation": "relu", "shared_trunk": False},
    "wide": {"hidden_sizes": (128, 64)},
    "linear": {"hidden_sizes": ()},
    "linear, apart": {"hidden_sizes": (), "shared_trunk": False},
}


@pytest.mark.parametrize(
    ("kind", "is_scaled"),
    [
        *(pytest.param(kind, False, id=f"{kind}-plain") for kind in NETWORKS),
        # What is scaled are observations, as they go into a trunk, into two, and into none.
        *(pytest.param(kind, True, id=f"{kind}-scaled") for kind in ("one hidden layer", "apart, relu", "linear")),
    ],
)
@pytest.mark.parametrize("name", ["Drift-v0", "MaskedDials-v0"])
def test_every_kind_of_network(name: str, backend: str, kind: str, is_scaled: bool) -> None:
    env, reference = make(name, backend), make(name, backend)
    inputs = int(np.prod(env.single_observation_space.shape))
    generator = torch.Generator().manual_seed(1)
    shift, scale = torch.randn(inputs, generator=generator), torch.rand(inputs, generator=generator) + 0.5
    scaling = {"shift": shift, "scale": scale, "clip": 0.8} if is_scaled else {}
    network = make_network(env, **NETWORKS[kind], **scaling)
    # Smaller, so that wide layers do not saturate.
    network.parameters.mul_(0.5)
    for each in (env, reference):
        each.reset(seed=4)
    assert_network_rollout(env, reference, network, steps=4)


@every_mode
def test_values_are_bootstrapped_where_episodes_are_cut_off_and_nowhere_else(backend: str, mode: AutoresetMode) -> None:
    env, reference = (make("Dials-v0", backend, mode, num_envs=200, max_episode_steps=4) for _ in range(2))
    for each in (env, reference):
        each.reset(seed=1)
    network = make_network(env)
    # Chance acts, which terminates more often.
    for actor in network.views()[2:4]:
        actor.zero_()
    stored = assert_network_rollout(env, reference, network, steps=9)
    # The run has every case in it: an end by either, by both, and an episode that goes on after the last step.
    terminated, truncated = stored["terminated"], stored["truncated"]
    both, cut = terminated & truncated, truncated & ~terminated
    assert all(case.any() for case in (both, cut, terminated & ~truncated))
    assert (stored["final_value"][cut] != 0).all()
    assert not stored["final_value"][terminated].any()
    goes_on = ~(terminated | truncated)
    assert not stored["final_value"][:-1][goes_on[:-1]].any()
    if mode is not AutoresetMode.DISABLED:
        assert (stored["final_value"][-1][goes_on[-1]] != 0).all()
    else:
        assert not stored["final_value"][-1].any()


@every_mode
@pytest.mark.parametrize("name", ["Drift-v0", "Pendulum-v1"])
def test_a_box_action_is_stored_as_taken_and_as_drawn(name: str, backend: str, mode: AutoresetMode) -> None:
    env, reference, unclipped, again = (make(name, backend, mode, num_envs=50) for _ in range(4))
    network = make_network(env)
    network.views()[-1].fill_(1.5)
    for each in (env, reference, unclipped, again):
        each.reset(seed=1)
    stored = assert_network_rollout(env, reference, network)
    drawn, taken = stored["policy_action"], stored["action"]
    assert 0.3 < (drawn.abs() > 1).double().mean() < 0.99
    assert taken.abs().max() == float(env.single_action_space.high.max())
    # A plan replays.
    plan = again.rollout(STEPS, taken, output_names(again))
    assert_same_tensors(plan, {key: stored[key] for key in plan})
    if name == "Drift-v0":
        other = single_steps(unclipped, drawn)["final_obs"]
        assert not other[0].equal(stored["final_obs"][0])


def test_network_rollouts_depend_neither_on_the_batch_nor_on_their_length(backend: str) -> None:
    for name in ("Drift-v0", "Ledge-v0"):
        large, small = make(name, backend, num_envs=300), make(name, backend, num_envs=7, first_env_id=280)
        policy = Policy(make_network(large))
        for env in (large, small):
            env.reset(seed=5)
        names = [key for key in all_names(large) if key != "final_value"]
        expected = large.rollout(STEPS, policy, names)
        found = joined(small.rollout(3, policy, names), small.rollout(STEPS - 3, policy, names))
        for key, tensor in found.items():
            # Products of matrices may round by the size of the batch.
            tolerance = CLOSE if tensor.is_floating_point() else {"rtol": 0, "atol": 0}
            torch.testing.assert_close(tensor, expected[key][:, 280:287], **tolerance)


def test_the_same_seed_repeats_a_network_rollout(backend: str) -> None:
    env = make("MaskedDials-v0", backend)
    policy = Policy(make_network(env))
    runs = []
    for _ in range(2):
        env.reset(seed=6)
        runs.append(env.rollout(STEPS, policy, all_names(env)))
    assert_same_tensors(*runs)


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6])
def test_small_observations_keep_their_digits(backend: str, size: float) -> None:
    env = make("Drift-v0", backend)
    inputs = env.single_observation_space.shape[0]
    scaling = {"shift": torch.zeros(inputs), "scale": torch.full((inputs,), size), "clip": 10.0}
    network = make_network(env, (16, 16), **scaling)
    for view in network.views():
        if view.ndim == 1:
            view.zero_()
    env.reset(seed=7)
    stored = env.rollout(1, Policy(network), ["obs", "value"])
    expected = evaluate_by_hand(network, stored["obs"][0]).values
    errors = np.abs(stored["value"][0].double().numpy() - expected)
    # Without biases values are about as small as observations are.
    assert expected.std() < 100 * size
    assert errors.max() < 3e-6 * expected.std()


def test_a_network_of_zeros_leaves_all_to_chance(backend: str) -> None:
    env = make("Ledge-v0", backend, num_envs=2000)
    network = make_network(env)
    network.parameters.zero_()
    env.reset(seed=7)
    stored = env.rollout(4, Policy(network), ["log_prob", "action_mask", "value", "final_value"])
    legal = stored["action_mask"].sum(-1)
    torch.testing.assert_close(stored["log_prob"], -legal.float().log(), rtol=1e-6, atol=1e-6)
    assert not stored["value"].any()
    assert not stored["final_value"].any()


def test_parameters_are_read_anew_by_every_rollout(backend: str) -> None:
    env = make("CartPole-v1", backend)
    env.reset(seed=8)
    network = make_network(env)
    policy = Policy(network)
    first = env.rollout(1, policy, ["obs", "value"])
    network.parameters.mul_(2.0).add_(0.1)
    second = env.rollout(1, policy, ["obs", "value"])
    for stored, scale in ((first, False), (second, True)):
        values = evaluate_by_hand(network, stored["obs"][0]).values
        assert np.allclose(stored["value"][0].numpy(), values, **CLOSE) == scale


@every_mode
@pytest.mark.parametrize("name", ["Pendulum-v1", "Lamps-v0"])
def test_a_network_that_went_wrong_leaves_its_environments_alone_and_is_counted(
    name: str, backend: str, mode: AutoresetMode
) -> None:
    if backend == "numba" and name in WITH_ARRAYS:
        pytest.skip("numba runs no arrays")
    env = make(name, backend, mode)
    env.reset(seed=9)
    env.rollout(1, given_actions(env, 1))
    network = make_network(env)
    network.parameters.fill_(torch.nan)
    before = env.state_dict()["state"]
    stored = env.rollout(2, Policy(network), ["reward", "action", "policy_action"])
    assert stored["action"].isnan().all()
    assert stored["policy_action"].isnan().all()
    assert not stored["reward"].any()
    assert_same_tensors(env.state_dict()["state"], before)
    with pytest.raises(ActionError, match=rf"^{2 * NUM_ENVS} actions outside"):
        env.check()
    # Differences of infinite numbers are no more reason for a warning.
    network.parameters.fill_(torch.inf)
    assert env.rollout(2, Policy(network), ["action"])["action"].isnan().any()


def test_the_default_device_and_dtype_of_torch_do_not_matter(backend: str) -> None:
    network, actions = make_network(make("Drift-v0", backend)), given_actions(make("Drift-v0", backend), STEPS)

    def run() -> Outputs:
        env = started("Drift-v0", backend)
        stored = env.rollout(STEPS, Policy(network), all_names(env))
        env.load_state_dict(env.state_dict())
        env.step(actions[0])
        env.reset(seed=2)
        return joined(stored, {**stored, **env.rollout(STEPS, actions, output_names(env))}) | everything(env)

    expected = run()
    torch.set_default_dtype(torch.float64)
    try:
        # Nothing can be computed there.
        with torch.device("meta"):
            found = run()
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_tensors(found, expected)
