"""Actor and critic: two multilayer perceptrons and a distribution over actions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from gymnasium import Space, spaces
from torch import Generator, Tensor, nn

from operant_gpu.errors import InvalidConfig
from operant_gpu.spaces import observation_size

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Evaluation(NamedTuple):
    """A policy's view of given actions: tensors of shape (batch,)."""

    log_prob: Tensor
    entropy: Tensor
    value: Tensor


class Head(nn.Module):
    """A distribution over actions, made from the last layer of the actor."""

    outputs: int

    def sample(self, features: Tensor, generator: Generator) -> Tensor:
        """Draw actions."""
        raise NotImplementedError

    def mode(self, features: Tensor) -> Tensor:
        """Return the likeliest actions."""
        raise NotImplementedError

    def log_prob(self, features: Tensor, actions: Tensor) -> Tensor:
        """Return log-probabilities, (batch,)."""
        raise NotImplementedError

    def entropy(self, features: Tensor) -> Tensor:
        """Return entropies, (batch,)."""
        raise NotImplementedError

    def for_environment(self, actions: Tensor) -> Tensor:
        """Return actions as the environment takes them."""
        raise NotImplementedError


class CategoricalHead(Head):
    """Actions of a Discrete space, from logits."""

    def __init__(self, space: spaces.Discrete) -> None:
        super().__init__()
        self.outputs, self._start = int(space.n), int(space.start)

    def sample(self, features: Tensor, generator: Generator) -> Tensor:
        """Draw actions."""
        return torch.multinomial(features.softmax(-1), 1, generator=generator)[:, 0]

    def mode(self, features: Tensor) -> Tensor:
        """Return the likeliest actions."""
        return features.argmax(-1)

    def log_prob(self, features: Tensor, actions: Tensor) -> Tensor:
        """Return log-probabilities, (batch,)."""
        return features.log_softmax(-1).gather(-1, actions[:, None])[:, 0]

    def entropy(self, features: Tensor) -> Tensor:
        """Return entropies, (batch,)."""
        log_probs = features.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def for_environment(self, actions: Tensor) -> Tensor:
        """Return actions counted from the space's start."""
        return actions + self._start


class GaussianHead(Head):
    """Actions of a Box: independent normals about the actor's output, of a deviation that does not see the state."""

    low: Tensor
    high: Tensor

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        self.outputs = space.shape[0]
        self.log_std = nn.Parameter(torch.zeros(self.outputs))
        self.register_buffer("low", torch.as_tensor(space.low), persistent=False)
        self.register_buffer("high", torch.as_tensor(space.high), persistent=False)

    def sample(self, features: Tensor, generator: Generator) -> Tensor:
        """Draw actions, unclipped."""
        noise = torch.randn(features.shape, generator=generator, device=features.device)
        return features + noise * self.log_std.exp()

    def mode(self, features: Tensor) -> Tensor:
        """Return the means."""
        return features

    def log_prob(self, features: Tensor, actions: Tensor) -> Tensor:
        """Return log-densities of the unclipped actions, (batch,)."""
        deviations = (actions - features) * (-self.log_std).exp()
        return (-0.5 * deviations.square() - self.log_std - _LOG_SQRT_2PI).sum(-1)

    def entropy(self, features: Tensor) -> Tensor:
        """Return differential entropies, (batch,)."""
        return (self.log_std + 0.5 + _LOG_SQRT_2PI).sum().expand(len(features))

    def for_environment(self, actions: Tensor) -> Tensor:
        """Return actions clipped to the space."""
        return actions.clamp(self.low, self.high)


class ActorCritic(nn.Module):
    """Separate tanh networks for the policy and for the state's value, orthogonally initialised.

    Args:
        observation_space: Box of one environment; observations are flattened.
        action_space: Discrete, or Box of shape (k,).
        hidden_sizes: Widths of the hidden layers of both networks.
        generator: Source of the initial weights.

    Raises:
        InvalidConfig: If there is no distribution for the action space.
    """

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        hidden_sizes: Sequence[int],
        generator: Generator,
    ) -> None:
        super().__init__()
        size = observation_size(observation_space)
        self.head = _head_for(action_space)
        self.actor = _mlp([size, *hidden_sizes, self.head.outputs], 0.01, generator)
        self.critic = _mlp([size, *hidden_sizes, 1], 1.0, generator)

    def act(self, obs: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return sampled actions with their log-probabilities, and values, for observations (batch, ...)."""
        flat = obs.flatten(1)
        features = self.actor(flat)
        actions = self.head.sample(features, generator)
        return actions, self.head.log_prob(features, actions), self.critic(flat)[:, 0]

    def mode(self, obs: Tensor) -> Tensor:
        """Return the likeliest actions."""
        return self.head.mode(self.actor(obs.flatten(1)))

    def value(self, obs: Tensor) -> Tensor:
        """Return values, (batch,)."""
        values: Tensor = self.critic(obs.flatten(1))[:, 0]
        return values

    def evaluate(self, obs: Tensor, actions: Tensor) -> Evaluation:
        """Return log-probabilities and entropies of given actions, and values."""
        flat = obs.flatten(1)
        features = self.actor(flat)
        return Evaluation(self.head.log_prob(features, actions), self.head.entropy(features), self.critic(flat)[:, 0])


def _head_for(space: Space[Any]) -> Head:
    if isinstance(space, spaces.Discrete):
        return CategoricalHead(space)
    if isinstance(space, spaces.Box):
        return GaussianHead(space)
    raise InvalidConfig("env", f"PPO takes Discrete and Box actions, got {space}")


def _mlp(sizes: Sequence[int], last_gain: float, generator: Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    for position, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        last = position == len(sizes) - 2
        linear = nn.Linear(inputs, outputs)
        nn.init.orthogonal_(linear.weight, last_gain if last else math.sqrt(2), generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, nn.Tanh()]
    return nn.Sequential(*layers)
