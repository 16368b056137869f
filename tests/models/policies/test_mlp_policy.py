"""`MLPPolicy`: one tensor under all parameters, whatever is done to them, and the network that PPO would have made."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mlp_policies import ACTIONS, assert_views, box, forward, make, random, scrambled
from torch import Generator, nn
from torch.nn.utils import parameters_to_vector

from operant_gpu import InvalidConfig
from operant_gpu.models import MLPPolicy, Policy, PPOConfig
from operant_gpu.models.networks import build_network
from operant_gpu.models.policies.policy import policy_parts
from operant_gpu.models.ppo.optimizer import Adam

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "shared": {"shared_trunk": True},
    "relu": {"activation": "relu"},
    "three odd layers": {"hidden_sizes": (33, 7, 128)},
    "three odd layers, shared relu": {"hidden_sizes": (5, 1, 65), "shared_trunk": True, "activation": "relu"},
    "one layer": {"hidden_sizes": (9,)},
    "linear": {"hidden_sizes": ()},
    "linear, shared": {"hidden_sizes": (), "shared_trunk": True},
    "scaled": {"normalize_observations": True, "hidden_sizes": (8,)},
}
every_action = pytest.mark.parametrize("action", ACTIONS)
every_setting = pytest.mark.parametrize("setting", SETTINGS)


def trained(policy: MLPPolicy, step: Callable[[list[nn.Parameter]], Callable[[], Any]]) -> MLPPolicy:
    """Return the policy after three gradient steps."""
    take_step, before = step(list(policy.parameters())), policy.flat.clone()
    for _ in range(3):
        outputs, values = forward(policy, random(10, 5))
        log_prob = policy.distribution.log_prob(outputs, random(10, 2), None)
        (log_prob.mean() + values.square().mean()).backward()
        take_step()
    assert (policy.flat != before).float().mean() > 0.9
    return policy


def own_adam(parameters: list[nn.Parameter]) -> Callable[[], Any]:
    return functools.partial(Adam(parameters, torch.device("cpu")).step, 1e-2)


def torch_adam(parameters: list[nn.Parameter]) -> Callable[[], Any]:
    return torch.optim.Adam(parameters).step


def loaded(policy: MLPPolicy, assign: bool) -> MLPPolicy:
    policy.load_state_dict(make(seed=4).state_dict(), assign=assign)
    return policy


def through_file(policy: MLPPolicy) -> MLPPolicy:
    file = io.BytesIO()
    torch.save(policy, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def as_part(policy: MLPPolicy) -> MLPPolicy:
    nn.ModuleList([nn.Linear(2, 2), policy]).double()
    return policy


# Those whose policy has other numbers than the one given.
CHANGES: dict[str, Callable[[MLPPolicy], MLPPolicy]] = {
    "the optimizer of PPO": lambda policy: trained(policy, own_adam),
    "torch.optim": lambda policy: trained(policy, torch_adam),
    "load_state_dict": lambda policy: loaded(policy, assign=False),
    "load_state_dict(assign=True)": lambda policy: loaded(policy, assign=True),
}
MOVES: dict[str, Callable[[MLPPolicy], MLPPolicy]] = {
    "nothing": lambda policy: policy,
    "to(device)": lambda policy: policy.to("cpu"),
    "to(dtype)": lambda policy: policy.to(torch.float64),
    "to(dtype) and back": lambda policy: policy.double().float(),
    "double() of what it is part of": as_part,
    "share_memory": lambda policy: policy.share_memory(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "deepcopy of a copy": lambda policy: copy.deepcopy(copy.deepcopy(policy)),
    "pickle": lambda policy: pickle.loads(pickle.dumps(policy)),
    "torch.save": through_file,
    "requires_grad_": lambda policy: policy.requires_grad_(False).requires_grad_(),
}


@pytest.mark.parametrize("operation", [*CHANGES, *MOVES])
def test_parameters_stay_views_of_one_tensor(operation: str) -> None:
    after = {**CHANGES, **MOVES}[operation](make())
    assert_views(after)
    assert all(parameter.requires_grad for parameter in after.parameters())
    trained(after.float(), own_adam)
    assert_views(after)


@pytest.mark.parametrize("operation", MOVES)
def test_moves_and_copies_have_the_same_numbers(operation: str) -> None:
    policy = scrambled(make(normalize_observations=True))
    before, expected = policy.flat.clone(), forward(policy, random(10, 5))
    after = MOVES[operation](policy)
    assert torch.equal(after.flat, before.to(after.flat.dtype))
    for result, one in zip(forward(after.float(), random(10, 5)), expected, strict=True):
        torch.testing.assert_close(result, one, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("operation", ["copy.deepcopy", "pickle", "torch.save"])
def test_copies_have_memory_of_their_own(operation: str) -> None:
    policy = make()
    other, before = MOVES[operation](policy), policy.flat.clone()
    other.flat.zero_()
    assert torch.equal(policy.flat, before)
    assert_views(policy)


def test_what_changes_nothing_keeps_the_memory() -> None:
    """A CUDA graph holds on to it."""
    policy = make()
    pointer = policy.flat.data_ptr()
    policy.to("cpu", torch.float32).train().zero_grad()
    policy.load_state_dict(make(seed=4).state_dict())
    trained(policy, own_adam)
    assert policy.flat.data_ptr() == pointer


def test_parameters_replaced_by_hand_are_taken_in() -> None:
    policy = make()
    policy.network.actor.bias = nn.Parameter(torch.tensor([3.0, 4.0]))
    policy.network.trunks.load_state_dict(make(seed=4).network.trunks.state_dict(), assign=True)
    expected = parameters_to_vector(policy.parameters()).detach().clone()
    assert torch.equal(policy.flat, expected)
    assert_views(policy)


def test_what_is_added_to_a_policy_is_no_part_of_its_network() -> None:
    policy = make()
    policy.head = nn.Linear(3, 3)
    assert policy.double().flat.numel() == policy.mlp.layout.size


@every_setting
@every_action
def test_the_network_is_that_of_the_settings(action: str, setting: str) -> None:
    """Down to the names: checkpoints of PPO hold them."""
    policy = make(action, **SETTINGS[setting])
    config = PPOConfig(**{"hidden_sizes": (16, 8), "log_std_init": -0.3, "seed": 3, **SETTINGS[setting]})
    network = build_network((5,), policy.distribution.outputs, config, Generator().manual_seed(3))
    expected = {f"network.{name}": value for name, value in network.state_dict().items()}
    if action == "gaussian":
        expected["distribution.log_std"] = torch.full((2,), -0.3)
    found = policy.state_dict()
    moments = {name for name in found if name.startswith("normalizer.")}
    assert bool(moments) is config.normalize_observations
    torch.testing.assert_close({n: v for n, v in found.items() if n not in moments}, expected, rtol=0, atol=0)


@every_setting
@every_action
def test_rollouts_and_autograd_see_the_same_network(action: str, setting: str) -> None:
    policy = scrambled(make(action, **SETTINGS[setting]))
    obs = 20.0 * random(64, 5)
    for _ in range(2):
        outputs, values = policy.mlp.evaluate(obs)
        torch.testing.assert_close(outputs, forward(policy, obs)[0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(values, forward(policy, obs)[1], rtol=1e-6, atol=1e-6)
        assert (outputs.std(0) > 0).all()
        policy.flat.neg_()
    if policy.normalizer is not None:
        scaled = (obs - policy.normalizer.shift) * policy.normalizer.scale
        assert 0.05 < (scaled.abs() > policy.mlp.clip).float().mean() < 0.95


@pytest.mark.parametrize("normalized", [False, True])
def test_observations_of_several_axes_are_flattened(normalized: bool) -> None:
    policy = scrambled(make(shape=(2, 3), normalize_observations=normalized))
    assert policy.mlp.layout.inputs == 6
    obs = random(10, 2, 3)
    for found, expected in zip(policy.mlp.evaluate(obs.flatten(1)), forward(policy, obs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@every_action
def test_gradients_are_those_of_any_other_policy(action: str) -> None:
    config = PPOConfig(seed=3)
    policy = MLPPolicy(box(5), ACTIONS[action], config)
    plain = Policy(*policy_parts(box(5), ACTIONS[action], config))
    obs = random(10, 5)
    actions = plain.act(obs, None, None, None, Generator()).actions.detach()
    for each in (policy, plain):
        evaluation = each.evaluate(obs, actions)
        (evaluation.log_prob.mean() + evaluation.entropy.mean() + evaluation.value.square().mean()).backward()
    gradients = [[parameter.grad for parameter in each.parameters()] for each in (policy, plain)]
    torch.testing.assert_close(*gradients)
    assert all(gradient.any() for gradient in gradients[0])


@every_action
def test_rollouts_that_are_not_flattened_are_refused(action: str) -> None:
    policy = make(action)
    actions = policy.act(random(6, 5), None, None, None, Generator()).actions
    own = ", ".join(["(batch", *map(str, actions.shape[1:])])
    message = rf"actions: expected shape {re.escape(own)},?\) and observations \(batch, \.\.\.\), got "
    shapes = re.escape(f"{(2, 3, *actions.shape[1:])} and {(2, 3, 5)}")
    with pytest.raises(InvalidConfig, match=rf"^{message}{shapes}: use flatten\(0, 1\) on both"):
        policy.evaluate(random(2, 3, 5), actions.unflatten(0, (2, 3)))
    for wrong in (actions[:5], actions[..., None]):
        with pytest.raises(InvalidConfig, match=message):
            policy.evaluate(random(6, 5), wrong)


def test_precision_is_the_callers() -> None:
    assert make().mlp.precision == "tf32"
    policy = MLPPolicy(box(4), ACTIONS["gaussian"], precision="ieee")
    assert copy.deepcopy(policy).mlp.precision == "ieee"
    policy.precision = "tf32"
    assert policy.mlp.precision == "tf32"
    policy.precision = "bf16"
    with pytest.raises(InvalidConfig, match=r"^precision: expected 'tf32' or 'ieee', got 'bf16'"):
        _ = policy.mlp


def test_flat_is_written_in_place_not_replaced() -> None:
    with pytest.raises(AttributeError):
        make().flat = torch.zeros(3)
