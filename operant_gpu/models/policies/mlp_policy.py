"""A policy that rollouts evaluate themselves: a small network in one flat tensor, which kernels can read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from gymnasium import Space, spaces
from torch import Tensor, nn

from operant_gpu.errors import InvalidConfig, one_of
from operant_gpu.mlp import ACTIVATIONS, MAX_LAYERS, MAX_WIDTH, MLP, PRECISIONS, MLPLayout
from operant_gpu.models.config import PPOConfig
from operant_gpu.models.contexts import plain
from operant_gpu.models.policies.distributions import DiagonalGaussian
from operant_gpu.models.policies.normalization import Scaler
from operant_gpu.models.policies.policy import Policy, policy_parts
from operant_gpu.spaces import observation_layout


class MLPPolicy(Policy):
    """A `Policy` for `VecEnv.rollout`: a multilayer perceptron whose parameters are views of one flat tensor.

    Rollouts, autograd, optimizers and checkpoints see the same memory, and the parameters stay views when they are
    trained, loaded, moved, copied and pickled. `PPO` trains one wherever its settings allow that.

    Args:
        observation_space: Box of one environment, whose observations are flattened, or Discrete, seen one-hot.
        action_space: Discrete, MultiDiscrete (k,) or Box (k,).
        config: Up to three tanh or relu layers of up to 128 units, with or without a shared trunk; the seed of the
            weights, `log_std_init`, `scale_actions`, and whether observations are normalized. PPO's defaults if None.
        precision: Of the products in rollouts on a GPU: "tf32" or "ieee". It can be set later too.

    Raises:
        InvalidConfig: If settings or spaces describe another kind of policy.
    """

    @plain()
    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        config: PPOConfig | None = None,
        *,
        precision: str = "tf32",
    ) -> None:
        config = PPOConfig() if config is None else config
        _check_kinds(observation_space, config)
        layout = observation_layout(observation_space)
        shape = layout.seen
        misfit = find_misfit(shape, config)
        if misfit is not None:
            raise InvalidConfig(*misfit)
        super().__init__(*policy_parts(observation_space, action_space, config))
        note = " ('ieee' computes as PyTorch does, 'tf32' is faster)"
        self.precision = one_of("precision", precision, PRECISIONS, note)
        self._layout = MLPLayout(
            inputs=torch.Size(shape).numel(),
            hidden_sizes=config.hidden_sizes,
            outputs=self.distribution.outputs,
            activation=config.activation,
            shared_trunk=config.shared_trunk,
            is_gaussian=isinstance(self.distribution, DiagonalGaussian),
            obs_start=layout.one_hot_start,
        )
        self._flatten()

    @property
    def flat(self) -> Tensor:
        """All parameters, (n,), in the order of `MLPLayout`.

        The memory stays the same in training; moves, other dtypes and copies have their own. Autograd does not notice
        what is written here between a forward and its backward pass.
        """
        self._keep_flat()
        return self._flat

    @property
    def mlp(self) -> MLP:
        """The network as rollouts evaluate it, in the present memory."""
        normalizer, shift, scale, clip = self.normalizer, None, None, 0.0
        if isinstance(normalizer, Scaler):
            shift, scale, clip = normalizer.shift.view(-1), normalizer.scale.view(-1), normalizer.clip
        scales_actions = isinstance(self.distribution, DiagonalGaussian) and self.distribution.scales_actions
        return MLP(self.flat, self._layout, shift, scale, clip, self.precision, scales_actions)

    # These see to it at once, not when `flat` is next read: a CUDA graph captured meanwhile would keep the old memory.

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MLPPolicy:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._keep_flat()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._keep_flat()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Do as `nn.Module.load_state_dict`."""
        result = super().load_state_dict(state_dict, strict, assign)
        self._keep_flat()
        return result

    def _own_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters in the order of `MLPLayout`."""
        yield from self.network.parameters()
        yield from self.distribution.parameters()

    def _keep_flat(self) -> None:
        """See to it that the parameters are views, after something may have replaced their memory."""
        if not self._is_flat():
            self._flatten()

    def _is_flat(self) -> bool:
        flat, parameters = self._flat, list(self._own_parameters())
        sizes = [parameter.numel() for parameter in parameters]
        starts = itertools.accumulate(sizes[:-1], initial=0)
        return flat.numel() == sum(sizes) and all(
            parameter.data_ptr() == flat.data_ptr() + start * flat.itemsize
            and parameter.dtype == flat.dtype
            and parameter.is_contiguous()
            for parameter, start in zip(parameters, starts, strict=True)
        )

    @plain()
    @torch.no_grad()
    def _flatten(self) -> None:
        """Take the parameters into a new flat tensor."""
        parameters = list(self._own_parameters())
        self._flat = torch.cat([parameter.flatten() for parameter in parameters])
        parts = torch.split(self._flat, [parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.data = part.view(parameter.shape)


def find_misfit(shape: tuple[int, ...], config: PPOConfig) -> tuple[str, str] | None:
    """Return which setting an `MLPPolicy` cannot have, and why; None if it can have all.

    Args:
        shape: Of one observation.
        config: The settings.
    """
    widths = config.hidden_sizes
    limits = f"{MAX_LAYERS} layers of up to {MAX_WIDTH} units"
    checks = (
        (
            len(widths) > MAX_LAYERS or max(widths, default=0) > MAX_WIDTH,
            *("hidden_sizes", f"expected up to {limits} for an MLPPolicy, got {widths}: give fewer or narrower ones"),
        ),
        (
            config.activation not in ACTIVATIONS,
            *("activation", f"expected 'tanh' or 'relu' for an MLPPolicy, got {config.activation!r}: set one of them"),
        ),
        (
            config.gru_size > 0,
            *("gru_size", f"an MLPPolicy has no memory, got a GRU of width {config.gru_size}: set gru_size=0"),
        ),
        (
            len(shape) == 3 and bool(config.cnn_channels),
            "cnn_channels",
            f"an MLPPolicy has no convolutions, got {config.cnn_channels} for images {shape}: set cnn_channels=() to "
            "flatten them",
        ),
        (config.use_amp, "use_amp", "an MLPPolicy computes in float32, got use_amp=True: set use_amp=False"),
    )
    return next(((param, message) for is_misfit, param, message in checks if is_misfit), None)


def _check_kinds(observation_space: Any, config: Any) -> None:
    if not isinstance(config, PPOConfig):
        raise InvalidConfig("config", f"expected a PPOConfig, got {config!r}: give one, or None for the defaults")
    is_discrete = isinstance(observation_space, spaces.Discrete)
    has_axis = isinstance(observation_space, spaces.Box | spaces.MultiBinary) and observation_space.shape
    if not (is_discrete or has_axis):
        kind = "a Box or MultiBinary with an axis, or Discrete"
        message = f"expected {kind}, got {observation_space!r}: give env.single_observation_space"
        raise InvalidConfig("observation_space", message)
