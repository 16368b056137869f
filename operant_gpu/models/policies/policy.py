"""A policy: a network, the distribution over actions that it describes, and how its observations are scaled."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from gymnasium import Space
from torch import Generator, Tensor, nn

from operant_gpu.errors import InvalidConfig
from operant_gpu.models.config import PPOConfig
from operant_gpu.models.networks import ActorCritic, RecurrentActorCritic, build_network
from operant_gpu.models.policies.distributions import Distribution, distribution_for
from operant_gpu.models.policies.normalization import ObservationNormalizer, OneHot, Scaler
from operant_gpu.spaces import has_channels_last, is_of_pixels, observation_layout


class Decision(NamedTuple):
    """What a policy does with a batch of observations."""

    actions: Tensor  # (batch, ...) as the distribution draws them, in the policy's units
    log_probs: Tensor  # (batch,)
    values: Tensor  # (batch,)
    state: Tensor | None  # (batch, state_size) of a recurrent network, after these observations


class Judgement(NamedTuple):
    """A policy's view of given actions: tensors of the batch's shape."""

    log_prob: Tensor
    entropy: Tensor
    value: Tensor


class Policy(nn.Module):
    """Acts on observations and judges actions.

    Args:
        network: As `operant_gpu.models.networks` describes it.
        distribution: What its outputs mean.
        normalizer: Makes what the network sees of observations; None leaves them as they are.
        use_amp: Whether the network computes in bfloat16 where autocast holds that to be safe.

    Attributes:
        normalizer: As given. With `normalize_observations` it scales by a running mean and deviation. `PPO` updates
            these. In a loop of your own, call `policy.normalizer.update(obs)` with the observations
            `(..., *shape)` of an iteration, after you have learned from it.
        state_size: Width of the memory of a recurrent network, 0 for others.
        is_built_in: Whether the network is one of the library.
        use_amp: As given.
    """

    normalizer: Scaler | OneHot | None
    state_size: int
    is_built_in: bool
    use_amp: bool

    def __init__(
        self,
        network: nn.Module,
        distribution: Distribution,
        normalizer: Scaler | OneHot | None = None,
        use_amp: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.distribution, self.normalizer = network, distribution, normalizer
        self.state_size = int(getattr(network, "state_size", 0))
        self.is_built_in = isinstance(network, ActorCritic | RecurrentActorCritic)
        self.use_amp = use_amp

    def forward(self, obs: Tensor, state: Tensor | None, starts: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return outputs, values and state as the network's protocol has them, in float32."""
        # Images may be bytes.
        obs = obs.float()
        if self.normalizer is not None:
            obs = self.normalizer(obs)
        with self._precision(obs):
            if self.state_size:
                outputs, values, state = self.network(obs, state, starts)
                state = state.float()
            else:
                outputs, values = self.network(obs)
        return outputs.float(), values.float(), state

    def act(
        self, obs: Tensor, state: Tensor | None, starts: Tensor | None, mask: Tensor | None, generator: Generator
    ) -> Decision:
        """Draw actions for one observation of each environment.

        Args:
            obs: Observations `(batch, *shape)`.
            state: Memory from the step before; None for a network without one.
            starts: Where an episode starts, (batch,) bool; None for a network without memory.
            mask: Where actions are legal, (batch, choices) bool; None if all are.
            generator: Source of the draws.

        Returns:
            A named tuple: `actions` as the distribution draws them, in the policy's units; `log_probs` and `values`
                `(batch,)`; and `state`, the memory after these observations, or None.
        """
        outputs, values, state = self.one_step(obs, state, starts)
        actions = self.distribution.sample(outputs, mask, generator)
        return Decision(actions, self.distribution.log_prob(outputs, actions, mask), values, state)

    def mode(
        self, obs: Tensor, state: Tensor | None, starts: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the likeliest actions and the state; arguments as for `act`."""
        outputs, _, state = self.one_step(obs, state, starts)
        return self.distribution.mode(outputs, mask), state

    def value(self, obs: Tensor, state: Tensor | None, starts: Tensor | None) -> Tensor:
        """Return values (batch,); arguments as for `act`."""
        return self.one_step(obs, state, starts)[1]

    def evaluate(
        self,
        obs: Tensor,
        actions: Tensor,
        state: Tensor | None = None,
        starts: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Judgement:
        """Return log-probabilities and entropies of given actions, and values, with gradients.

        Args:
            obs: Observations `(batch, *shape)`; `(time, batch, *shape)` for a recurrent network. Flatten time and batch
                of a rollout for a network without memory: `stored["obs"].flatten(0, 1)`.
            actions: As `act` draws them, in the policy's units, one for each observation: "policy_action" of a rollout.
            state: For a recurrent network, the memory before these observations, (batch, state_size).
            starts: For a recurrent network, where an episode starts, (time, batch) bool.
            mask: Where actions are legal, (batch, choices) bool, or (time, batch, choices); None if all are.

        Returns:
            A named tuple of `log_prob`, `entropy` and `value`, tensors of the batch's shape.

        Raises:
            InvalidConfig: If actions have not the shape described, or there is not one for each observation.
        """
        self._check_batch(obs, actions)
        outputs, values, _ = self(obs, state, starts)
        log_prob = self.distribution.log_prob(outputs, actions, mask)
        return Judgement(log_prob, self.distribution.entropy(outputs, mask), values)

    def one_step(
        self, obs: Tensor, state: Tensor | None, starts: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return outputs (batch, k), values (batch,) and the state; arguments as for `act`."""
        if starts is None:
            outputs, values, state = self(obs, None, None)
            return outputs, values, state
        outputs, values, state = self(obs[None], state, starts[None])
        return outputs[0], values[0], state

    def _check_batch(self, obs: Tensor, actions: Tensor) -> None:
        """Refuse a rollout whose time and batch were not flattened: networks need not take it, nor say why not."""
        own = self.distribution.action_shape
        lead, axes = actions.shape[: actions.ndim - len(own)], "(time, batch" if self.state_size else "(batch"
        if len(lead) == axes.count(",") + 1 and actions.shape[len(lead) :] == own and obs.shape[: len(lead)] == lead:
            return
        shape = ", ".join([axes, *map(str, own)]) + (")" if self.state_size or own else ",)")
        hint = "" if self.state_size else ": use flatten(0, 1) on both if they are (time, batch, ...)"
        raise InvalidConfig(
            "actions",
            f"expected shape {shape} and observations {axes}, ...), "
            f"got {tuple(actions.shape)} and {tuple(obs.shape)}{hint}",
        )

    def _precision(self, obs: Tensor) -> AbstractContextManager[Any]:
        if not self.use_amp:
            return nullcontext()
        # Without the cache of casts, which a CUDA graph would freeze.
        return torch.autocast(obs.device.type, torch.bfloat16, cache_enabled=False)


def policy_parts(
    observation_space: Space[Any], action_space: Space[Any], config: PPOConfig, network: nn.Module | None = None
) -> tuple[nn.Module, Distribution, Scaler | OneHot | None]:
    """Return a policy's network, distribution and normalizer, on the CPU; arguments as for `make_policy`."""
    layout = observation_layout(observation_space)
    shape = layout.seen
    distribution = distribution_for(action_space, config.log_std_init, config.scale_actions)
    if network is None:
        # The CPU draws the weights, so that a seed gives the same policy on every device.
        generator = Generator().manual_seed(config.seed)
        is_turned = has_channels_last(observation_space)
        network = build_network(shape, distribution.outputs, config, generator, is_turned)
    if layout.choices:
        if config.normalize_observations:
            message = f"{observation_space!r} is seen one-hot, which cannot be normalized: set it to False"
            raise InvalidConfig("normalize_observations", message)
        return network, distribution, OneHot(layout.choices, layout.start)
    if config.normalize_observations:
        return network, distribution, ObservationNormalizer(shape)
    return network, distribution, Scaler(shape) if is_of_pixels(observation_space) else None
