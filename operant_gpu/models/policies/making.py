"""Which policy an environment's spaces and the settings ask for; whether a network of the caller's own fits."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import Space
from torch import nn

from operant_gpu.errors import InvalidConfig, as_integer
from operant_gpu.models.config import PPOConfig
from operant_gpu.models.contexts import undisturbed
from operant_gpu.models.policies.mlp_policy import MLPPolicy, find_misfit
from operant_gpu.models.policies.policy import Policy, policy_parts
from operant_gpu.spaces import observation_layout


def make_policy(
    observation_space: Space[Any], action_space: Space[Any], config: PPOConfig, network: nn.Module | None = None
) -> Policy:
    """Return a new policy for an environment's spaces, on the CPU: an `MLPPolicy` where the settings allow one.

    Args:
        observation_space: Box or Discrete of one environment.
        action_space: Discrete, MultiDiscrete (k,) or Box (k,).
        config: The network's sizes, among others.
        network: The caller's own, in place of the one that the settings describe.

    Raises:
        InvalidConfig: If there is no distribution for the actions, or the network does not keep to its protocol.
    """
    shape = observation_layout(observation_space).seen
    if network is None and find_misfit(shape, config) is None:
        return MLPPolicy(observation_space, action_space, config)
    if network is not None:
        _check_network(network)
    policy = Policy(*policy_parts(observation_space, action_space, config, network), config.use_amp)
    if network is not None:
        _check_protocol(policy, shape)
    return policy


def _check_network(network: Any) -> None:
    if not isinstance(network, nn.Module):
        raise InvalidConfig("network", f"expected a torch.nn.Module, got {network!r}")
    given = getattr(network, "state_size", 0)
    size = as_integer(given)
    if size is None or size < 0:
        raise InvalidConfig("network", f"state_size must be the width of its memory, got {given!r}")


def _check_protocol(policy: Policy, shape: tuple[int, ...]) -> None:
    """Try the caller's network on two observations."""
    network, recurrent = policy.network, bool(policy.state_size)
    lead = (1, 2) if recurrent else (2,)
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    obs = torch.zeros(*lead, *shape, dtype=torch.float32, device=device)
    memory = (
        torch.zeros(2, policy.state_size, dtype=torch.float32, device=device),
        torch.ones(lead, dtype=torch.bool, device=device),
    )
    call = (
        "forward(obs, state, starts) -> (outputs, values, state)" if recurrent else "forward(obs) -> (outputs, values)"
    )
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad(), undisturbed(device):
            results = network.eval()(obs, *(memory if recurrent else ()))
        shapes = [tuple(result.shape) for result in results]
    except Exception as error:
        raise InvalidConfig("network", f"{call} failed on observations {tuple(obs.shape)}: {error}") from error
    finally:
        for module, training in modes.items():
            module.training = training
    expected = [(*lead, policy.distribution.outputs), lead, *([(2, policy.state_size)] if recurrent else [])]
    if shapes != expected:
        raise InvalidConfig(
            "network", f"{call} must return shapes {expected} for observations {tuple(obs.shape)}, got {shapes}"
        )
    if any(parameter.is_inference() for parameter in network.parameters()):
        message = f"{type(network).__name__} was made in torch.inference_mode, and cannot learn: make it outside"
        raise InvalidConfig("network", message)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InvalidConfig("network", f"{type(network).__name__} has no parameter to train")
    for name, parameter in network.named_parameters():
        if parameter.dtype != torch.float32:
            message = f"parameters must be float32 (use_amp=True computes in bfloat16), {name} is {parameter.dtype}"
            raise InvalidConfig("network", message)
