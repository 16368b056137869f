"""Networks for actor and critic: multilayer perceptrons, convolutions for images, a GRU for memory.

What PPO needs of a network is one of two call signatures, which any `nn.Module` may have:

- `forward(obs) -> (outputs, values)`: observations `(batch, *shape)`, outputs `(batch, k)` that describe a
  distribution over actions (`Distribution.outputs` says how many), and values `(batch,)`.
- With an integer attribute `state_size`, a recurrent one: `forward(obs, state, starts) -> (outputs, values, state)`,
  over sequences: observations `(time, batch, *shape)`, the state before them `(batch, state_size)`, and where an
  episode starts, `(time, batch)` bool: there the state counts as zero. It returns outputs `(time, batch, k)`, values
  `(time, batch)`, and the state after them.

Observations are float32, scaled if `normalize_observations` says so; pixels (uint8 up to 255) come divided by 255.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import skip_init

from operant_gpu.errors import InvalidConfig
from operant_gpu.models.config import PPOConfig

Layer = TypeVar("Layer", bound=nn.Module)

# What PyTorch makes by default is the caller's choice, and not that of these.
FLOATS: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}

_ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU, "gelu": nn.GELU}
# The gains of Andrychowicz et al., "What matters in on-policy reinforcement learning?" (2021): a first policy that
# hardly looks at the observation explores evenly.
_HIDDEN_GAIN, _POLICY_GAIN, _VALUE_GAIN = math.sqrt(2), 0.01, 1.0
_KERNEL = 3


class ActorCritic(nn.Module):
    """Features of observations, and from them a distribution's outputs and the value.

    Args:
        trunks: What makes the features: one for actor and critic each, or one for both.
        width: How many features there are.
        outputs: How many numbers describe a distribution over actions.
        generator: Source of the initial weights, which are orthogonal.
    """

    def __init__(self, trunks: nn.ModuleList, width: int, outputs: int, generator: Generator) -> None:
        super().__init__()
        self.trunks = trunks
        self.actor = _linear(width, outputs, _POLICY_GAIN, generator)
        self.critic = _linear(width, 1, _VALUE_GAIN, generator)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs (batch, k) and values (batch,)."""
        features = [trunk(obs) for trunk in self.trunks]
        return self.actor(features[0]), self.critic(features[-1]).squeeze(-1)


class RecurrentActorCritic(nn.Module):
    """As `ActorCritic`, with a GRU after each trunk.

    Attributes:
        state_size: Width of the state: that of the GRUs together.
    """

    state_size: int

    def __init__(self, trunks: nn.ModuleList, width: int, outputs: int, gru_size: int, generator: Generator) -> None:
        super().__init__()
        self.trunks = trunks
        self.memories = nn.ModuleList(orthogonal(nn.GRUCell, (width, gru_size), 1.0, generator) for _ in trunks)
        self.actor = _linear(gru_size, outputs, _POLICY_GAIN, generator)
        self.critic = _linear(gru_size, 1, _VALUE_GAIN, generator)
        self.state_size = len(trunks) * gru_size

    def forward(self, obs: Tensor, state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return outputs (time, batch, k), values (time, batch) and the state after them (batch, state_size)."""
        flat = obs.flatten(0, 1)
        states = state.chunk(len(self.trunks), -1)
        histories = []
        for trunk, memory, last in zip(self.trunks, self.memories, states, strict=True):
            features = trunk(flat).unflatten(0, obs.shape[:2])
            histories.append(_remember(memory, features, last, starts[..., None]))
        state = torch.cat([history[-1] for history in histories], -1)
        return self.actor(histories[0]), self.critic(histories[-1]).squeeze(-1), state


def _remember(memory: nn.Module, features: Tensor, state: Tensor, starts: Tensor) -> Tensor:
    """Return the states (time, batch, width) after each of the features."""
    history = []
    for feature, start in zip(features, starts, strict=True):
        state = memory(feature, torch.where(start, 0.0, state))
        history.append(state)
    return torch.stack(history)


class ChannelsFirst(nn.Module):
    """Turns images (batch, height, width, channels) to how convolutions take them."""

    def forward(self, images: Tensor) -> Tensor:
        """Return images (batch, channels, height, width)."""
        return images.movedim(-1, 1)


def build_network(
    shape: tuple[int, ...], outputs: int, config: PPOConfig, generator: Generator, has_channels_last: bool = False
) -> nn.Module:
    """Return the network that the settings describe.

    Args:
        shape: Of one observation: (channels, height, width) for an image, else it is flattened.
        outputs: How many numbers describe a distribution over actions.
        config: Sizes, activation and whether the features are shared.
        generator: Source of the initial weights, which are orthogonal.
        has_channels_last: Whether images are (height, width, channels).

    Raises:
        InvalidConfig: If an image is too small for the convolutions.
    """
    count = 1 if config.shared_trunk else 2
    trunks = nn.ModuleList(_trunk(shape, config, generator, has_channels_last) for _ in range(count))
    width = _width(trunks[0], shape)
    if config.gru_size:
        return RecurrentActorCritic(trunks, width, outputs, config.gru_size, generator)
    return ActorCritic(trunks, width, outputs, generator)


def _trunk(shape: tuple[int, ...], config: PPOConfig, generator: Generator, has_channels_last: bool) -> nn.Sequential:
    activation = _ACTIVATIONS[config.activation]
    layers: list[nn.Module] = []
    if len(shape) == 3 and config.cnn_channels:
        if has_channels_last:
            layers.append(ChannelsFirst())
        for inputs, channels in itertools.pairwise([shape[-1 if has_channels_last else 0], *config.cnn_channels]):
            layers += [
                orthogonal(nn.Conv2d, (inputs, channels, _KERNEL), _HIDDEN_GAIN, generator),
                activation(),
            ]
    layers.append(nn.Flatten())
    width = _width(nn.Sequential(*layers), shape)
    for inputs, size in itertools.pairwise([width, *config.hidden_sizes]):
        layers += [_linear(inputs, size, _HIDDEN_GAIN, generator), activation()]
    return nn.Sequential(*layers)


def _width(layers: nn.Module, shape: tuple[int, ...]) -> int:
    try:
        with torch.no_grad():
            return int(layers(torch.zeros(1, *shape, **FLOATS)).shape[-1])
    except RuntimeError as error:
        message = f"images of shape {shape} are too small for the convolutions: give fewer channels"
        raise InvalidConfig("cnn_channels", message) from error


def _linear(inputs: int, outputs: int, gain: float, generator: Generator) -> nn.Linear:
    return orthogonal(nn.Linear, (inputs, outputs), gain, generator)


def orthogonal(kind: type[Layer], sizes: tuple[int, ...], gain: float, generator: Generator) -> Layer:
    """Return a layer with orthogonal weights and biases of zero."""
    # Layers that are made as usual draw from PyTorch's own generator, which is the caller's.
    layer: Layer = skip_init(kind, *sizes, **FLOATS)  # type: ignore[no-untyped-call]
    for name, parameter in layer.named_parameters():
        if name.startswith("weight"):
            nn.init.orthogonal_(parameter, gain, generator=generator)
        else:
            nn.init.zeros_(parameter)
    return layer
