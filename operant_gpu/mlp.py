"""A small actor-critic network in one flat tensor, as kernels evaluate it inside a rollout."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from operant_gpu.errors import InvalidConfig, one_of

MAX_LAYERS = 3
MAX_WIDTH = 128
ACTIVATIONS = ("tanh", "relu")
PRECISIONS = ("tf32", "ieee")


class MLPLayout(NamedTuple):
    """What the numbers of the flat tensor mean.

    In this order: the actor's hidden layers, unless shared the critic's hidden layers, the actor's last layer, the
    critic's last layer, and for normals the logarithms of their deviations (outputs,). A layer is a weight (width,
    inputs), row by row, then a bias (width,).

    Attributes:
        inputs: Components of an observation.
        hidden_sizes: Widths of the hidden layers, up to `MAX_LAYERS` of up to `MAX_WIDTH`.
        outputs: Logits, or means.
        activation: "tanh" or "relu", after each hidden layer.
        shared_trunk: Whether actor and critic share the hidden layers.
        is_gaussian: Whether outputs are means.
        obs_start: The least value of a Discrete observation, of which `inputs` are there; None for others.
    """

    inputs: int
    hidden_sizes: tuple[int, ...]
    outputs: int
    activation: str
    shared_trunk: bool
    is_gaussian: bool
    obs_start: int | None = None

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of weights and biases, in order."""
        trunk = [
            shape
            for inputs, width in itertools.pairwise([self.inputs, *self.hidden_sizes])
            for shape in ((width, inputs), (width,))
        ]
        width = (self.inputs, *self.hidden_sizes)[-1]
        heads = [(self.outputs, width), (self.outputs,), (1, width), (1,)]
        log_std = [(self.outputs,)] if self.is_gaussian else []
        return [*trunk * (1 if self.shared_trunk else 2), *heads, *log_std]

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return sum(map(math.prod, self.shapes))


@dataclass(frozen=True)
class MLP:
    """A network's memory and what it means.

    Attributes:
        parameters: Flat float32 tensor.
        layout: What its numbers are.
        shift: Subtracted from observations (inputs,), or None; then they are multiplied by `scale` and clipped.
        scale: Likewise.
        clip: Magnitude to which scaled observations are clipped.
        precision: Of the products in kernels on a GPU: "tf32" or "ieee".
        scales_actions: Whether means of -1 and 1 are the bounds of a component of a Box, where both are finite.
    """

    parameters: Tensor
    layout: MLPLayout
    shift: Tensor | None = None
    scale: Tensor | None = None
    clip: float = 0.0
    precision: str = "tf32"
    scales_actions: bool = False

    def __post_init__(self) -> None:
        layout = self.layout
        widths = layout.hidden_sizes
        if len(widths) > MAX_LAYERS or any(not 1 <= width <= MAX_WIDTH for width in widths):
            raise InvalidConfig(
                "hidden_sizes", f"expected up to {MAX_LAYERS} layers of 1 to {MAX_WIDTH} units, got {widths}"
            )
        activation = one_of("activation", layout.activation, ACTIVATIONS)
        object.__setattr__(self, "layout", layout._replace(activation=activation))
        object.__setattr__(self, "precision", one_of("precision", self.precision, PRECISIONS))
        if (self.shift is None) is not (self.scale is None):
            raise InvalidConfig("shift", "shift and scale go together: give both or none")

    def views(self) -> list[Tensor]:
        """Return weights and biases as views of the flat tensor, in order."""
        sizes = [math.prod(shape) for shape in self.layout.shapes]
        parts = torch.split(self.parameters, sizes)
        return [part.view(shape) for part, shape in zip(parts, self.layout.shapes, strict=True)]

    def evaluate(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs (batch, k) and values (batch,): what kernels compute, one layer after the other.

        Args:
            obs: Observations (batch, inputs), or (batch, 1) of Discrete ones.
        """
        if self.layout.obs_start is not None:
            obs = obs == torch.arange(self.layout.inputs, device=obs.device) + self.layout.obs_start
        # Images may be bytes.
        obs = obs.to(self.parameters.dtype)
        *trunks, actor, actor_bias, critic, critic_bias = self.views()[: -1 if self.layout.is_gaussian else None]
        if self.shift is not None and self.scale is not None:
            obs = ((obs - self.shift) * self.scale).clamp(-self.clip, self.clip)
        depth = 2 * len(self.layout.hidden_sizes)
        features = [self._features(obs, trunks[start : start + depth]) for start in range(0, len(trunks), depth or 1)]
        features = features or [obs]
        outputs = functional.linear(features[0], actor, actor_bias)
        return outputs, functional.linear(features[-1], critic, critic_bias).squeeze(-1)

    def _features(self, x: Tensor, layers: list[Tensor]) -> Tensor:
        activation = torch.tanh if self.layout.activation == "tanh" else torch.relu
        for weight, bias in zip(layers[::2], layers[1::2], strict=True):
            x = activation(functional.linear(x, weight, bias))
        return x
