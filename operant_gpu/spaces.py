"""What the library needs to know of an environment's spaces: sizes, dtypes and bounds."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import Space, spaces

from operant_gpu.errors import InvalidConfig
from operant_gpu.tensors import torch_dtype

# Of images: grey, colours, colours and opacity.
_CHANNELS = (1, 3, 4)
# What float32 counts to.
_MOST = 2**24
_OBSERVATION_DTYPES = tuple(map(np.dtype, ("float32", "uint8", "int8", "int32")))


class Scaling(NamedTuple):
    """What the environment gets of a Box action: `center + radius * drawn`, no less than `low` and no more than `high`.

    Each has a number of float32 for each component; they are empty for integers.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    center: tuple[float, ...]
    radius: tuple[float, ...]


class ActionLayout(NamedTuple):
    """How the actions of one environment lie in memory and which are valid.

    Attributes:
        shape: () for Discrete, (k,) for MultiDiscrete and Box.
        low: Smallest valid integer of each component; empty for Box.
        high: One more than the largest valid integer of each component; empty for Box.
        box_low: Lower bounds of a Box, infinite where there are none; empty for integers.
        box_high: Upper bounds, likewise.
    """

    shape: tuple[int, ...]
    low: tuple[int, ...] = ()
    high: tuple[int, ...] = ()
    box_low: tuple[float, ...] = ()
    box_high: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """Number of components."""
        return math.prod(self.shape)

    @property
    def num_actions(self) -> int:
        """Number of discrete actions, those of all components together; 0 for Box."""
        return sum(self.high) - sum(self.low)

    @property
    def first_choices(self) -> tuple[int, ...]:
        """Where each component's choices begin, counted over all components."""
        sizes = (high - low for low, high in zip(self.low, self.high, strict=True))
        return (0, *itertools.accumulate(sizes))[: len(self.low)]

    @property
    def is_discrete(self) -> bool:
        """Whether components are integers."""
        return bool(self.low)

    def scaling(self, scales: bool) -> Scaling:
        """Return the map from what a policy draws to the environment's units.

        Args:
            scales: Whether [-1, 1] is the interval of the bounds, where both are finite; else drawn numbers are in the
                environment's units.
        """
        center, radius = [0.0] * len(self.box_low), [1.0] * len(self.box_low)
        for i, (low, high) in enumerate(zip(self.box_low, self.box_high, strict=True)):
            half = float(np.float32((high - low) / 2))
            # Between neighbours among the least numbers it is 0.
            if scales and 0.0 < half < math.inf:
                center[i], radius[i] = float(np.float32((low + high) / 2)), half
        return Scaling(self.box_low, self.box_high, tuple(center), tuple(radius))


def action_layout(space: Space[Any]) -> ActionLayout:
    """Describe an action space.

    Raises:
        InvalidConfig: If the space is not Discrete, MultiDiscrete (one axis), both of 32 bits, or Box (one axis,
            float32).
    """
    if isinstance(space, spaces.Discrete):
        return _whole(ActionLayout((), (int(space.start),), (int(space.start) + int(space.n),)), space)
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) == 1:
        low = tuple(int(start) for start in space.start)
        high = tuple(a + int(n) for a, n in zip(low, space.nvec, strict=True))
        return _whole(ActionLayout(space.shape, low, high), space)
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype == np.float32:
        return ActionLayout(space.shape, box_low=_floats(space.low), box_high=_floats(space.high))
    raise InvalidConfig(
        "action_space",
        f"expected Discrete, MultiDiscrete (n,) or Box (k,) of float32 from gymnasium.spaces, got {space!r}",
    )


def _whole(layout: ActionLayout, space: Space[Any]) -> ActionLayout:
    if min(layout.low) < -(2**31) or max(layout.high) >= 2**31:
        raise InvalidConfig("action_space", f"expected actions that fit in 32 bits, got {space!r}")
    return layout


def _floats(bounds: np.ndarray[Any, Any]) -> tuple[float, ...]:
    return tuple(map(float, bounds))


def is_of_pixels(space: Space[Any]) -> bool:
    """Tell whether observations are bytes of the whole range, as images have them."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and bool((space.high == 255).all())


def has_channels_last(space: Space[Any]) -> bool:
    """Tell whether observations are images (height, width, channels), and not (channels, height, width)."""
    shape = space.shape or ()
    return is_of_pixels(space) and len(shape) == 3 and shape[-1] in _CHANNELS and shape[0] not in _CHANNELS


class ObservationLayout(NamedTuple):
    """Shape and dtype of one observation.

    Attributes:
        shape: () for Discrete.
        dtype: Of its numbers.
        choices: How many values a Discrete one has, which policies see one-hot; 0 for others.
        start: The least of them.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    choices: int = 0
    start: int = 0

    @property
    def seen(self) -> tuple[int, ...]:
        """Shape of what a policy sees."""
        return (self.choices,) if self.choices else self.shape

    @property
    def one_hot_start(self) -> int | None:
        """The least value of a Discrete one, None for others."""
        return self.start if self.choices else None

    @property
    def size(self) -> int:
        """Number of components."""
        return math.prod(self.shape)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of its tensors."""
        return torch_dtype(self.dtype)


def observation_layout(space: Space[Any]) -> ObservationLayout:
    """Describe an observation space.

    Raises:
        InvalidConfig: If the space is not Discrete, of 24 bits, or a Box or MultiBinary whose components tensors can
            hold.
    """
    if isinstance(space, spaces.Discrete):
        start, choices = int(space.start), int(space.n)
        if start < -_MOST or start + choices > _MOST:
            raise InvalidConfig("observation_space", f"expected observations from -2**24 to 2**24, got {space!r}")
        return ObservationLayout((), np.dtype(np.int64), choices, start)
    if isinstance(space, spaces.Box | spaces.MultiBinary) and math.prod(space.shape) > 0:
        dtype = np.dtype(space.dtype)
        if dtype in _OBSERVATION_DTYPES:
            return ObservationLayout(space.shape, dtype)
    raise InvalidConfig(
        "observation_space",
        f"expected a gymnasium.spaces.Box of float32, uint8, int8 or int32, Discrete or MultiBinary, got {space!r}",
    )
