"""What tests of `MLPPolicy` share: policies of every kind of action, with numbers that no two parameters share."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Generator, Tensor
from torch.nn.utils import parameters_to_vector

from operant_gpu import VecEnv
from operant_gpu.models import MLPPolicy, Policy, PPOConfig
from operant_gpu.models.policies.normalization import ObservationNormalizer

ACTIONS: dict[str, spaces.Space] = {
    "categorical": spaces.Discrete(3),
    "multicategorical": spaces.MultiDiscrete([3, 2, 4]),
    "gaussian": spaces.Box(-1.0, 1.0, (2,)),
}


def box(*shape: int) -> spaces.Box:
    return spaces.Box(-10.0, 10.0, shape)


def make(action: str = "gaussian", shape: tuple[int, ...] = (5,), **changes: Any) -> MLPPolicy:
    config = PPOConfig(**{"hidden_sizes": (16, 8), "log_std_init": -0.3, "seed": 3, **changes})
    return MLPPolicy(box(*shape), ACTIONS[action], config)


def policy_for(env: VecEnv, precision: str = "tf32", **changes: Any) -> MLPPolicy:
    """Return a policy for environments, scrambled, on their device."""
    config = PPOConfig(**{"hidden_sizes": (16, 8), "cnn_channels": (), **changes})
    policy = MLPPolicy(env.single_observation_space, env.single_action_space, config, precision=precision)
    return scrambled(policy).to(env.device)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def scrambled(policy: MLPPolicy) -> MLPPolicy:
    """Return the policy with no two parameters alike, and statistics of observations if it has any."""
    policy.flat.copy_(0.4 * random(policy.flat.numel(), seed=7))
    if isinstance(policy.normalizer, ObservationNormalizer):
        shape = tuple(policy.normalizer.shift.shape)
        policy.normalizer.update(3.0 * random(500, *shape, seed=8) + random(*shape, seed=9))
    return policy


def forward(policy: Policy, obs: Tensor) -> tuple[Tensor, Tensor]:
    return policy(obs, None, None)[:2]


def assert_views(policy: MLPPolicy) -> None:
    """Check that parameters lie in one tensor, and that what is written to one is seen in the other."""
    parameters = list(policy.parameters())
    # Before `flat` is read, which would mend it.
    assert len({parameter.untyped_storage().data_ptr() for parameter in parameters}) == 1
    flat, mlp = policy.flat, policy.mlp
    assert mlp.parameters is flat is policy.flat
    assert flat.shape == (mlp.layout.size,)
    assert not flat.requires_grad
    assert [tuple(parameter.shape) for parameter in parameters] == mlp.layout.shapes
    before = flat.clone()
    torch.testing.assert_close(parameters_to_vector(parameters), before, rtol=0, atol=0)
    flat.copy_(torch.arange(len(flat)))
    torch.testing.assert_close(parameters_to_vector(parameters), flat, rtol=0, atol=0)
    with torch.no_grad():
        for number, parameter in enumerate(parameters):
            parameter.fill_(number)
    numbers = torch.cat([torch.full_like(p, number).flatten() for number, p in enumerate(parameters)])
    assert torch.equal(flat, numbers)
    flat.copy_(before)
