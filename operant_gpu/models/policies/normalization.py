"""Running statistics on the device, and what PPO scales by them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from operant_gpu.models.networks import FLOATS
from operant_gpu.processes import ALONE, Processes, merged_moments

# As in Stable-Baselines3's VecNormalize.
_EPS = 1e-8
_CLIP = 10.0


class RunningMoments(nn.Module):
    """Mean and variance of all that was seen, merged batch by batch (Chan, Golub and LeVeque, 1979).

    Merging is associative: moments of parts give those of the whole. Accumulated in float64, on the device.

    Args:
        shape: Shape of one sample.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64, device="cpu"))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64, device="cpu"))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64, device="cpu"))

    @torch.no_grad()
    def update(self, samples: Tensor, allowed: Tensor | None = None, processes: Processes = ALONE) -> None:
        """Take in samples (..., *shape), and those of other processes.

        Args:
            samples: None counts if a number is not finite.
            allowed: Whether to, on the device.
            processes: Whose samples are taken in, each as many as this one's.
        """
        axes = tuple(range(samples.dim() - self.mean.dim()))
        # In float64 from the start: the square of 1e20 is beyond float32.
        var, mean = torch.var_mean(samples.double(), axes, correction=0)
        count = samples.numel() / max(1, self.mean.numel())
        if processes.size > 1:
            means, variances = processes.gather(torch.stack([mean, var])).unbind(1)
            mean, spread, count = merged_moments(means, count * variances, count)
            var = spread / count
        self.merge(mean, var, count, allowed)

    def merge(self, mean: Tensor, var: Tensor, count: float | Tensor, allowed: Tensor | None = None) -> None:
        """Take in the moments of `count` other samples; see `update`."""
        total = self.count + count
        share = count / total
        delta = mean - self.mean
        spread = self.var * (1 - share) + var * share + delta.square() * share * (1 - share)
        sound = mean.isfinite().all() & var.isfinite().all()
        if allowed is not None:
            sound = sound & allowed
        for own, merged in ((self.mean, self.mean + delta * share), (self.var, spread), (self.count, total)):
            own.copy_(torch.where(sound, merged, own))


class Scaler(nn.Module):
    """Shifts, scales and clips observations; pixels to [0, 1].

    Args:
        shape: Of one observation.
        scale: What they are multiplied by.
        clip: Magnitude to which they are clipped.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...], scale: float = 1 / 255, clip: float = 1.0) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("shift", torch.zeros(shape, **FLOATS))
        self.register_buffer("scale", torch.full(shape, scale, **FLOATS))

    def forward(self, obs: Tensor) -> Tensor:
        """Return scaled observations."""
        return ((obs - self.shift) * self.scale).clamp(-self.clip, self.clip)

    def extra_repr(self) -> str:
        """Return what the summary of a network says of it."""
        return f"{tuple(self.scale.shape)}, scale={self.scale.mean():.4g}, clip={self.clip:g}"


class ObservationNormalizer(Scaler):
    """Shifts and scales observations to mean 0 and deviation 1, and clips them to [-10, 10].

    Until the first `update` they are only clipped.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape, 1.0, _CLIP)
        self.moments = RunningMoments(shape)

    def update(self, obs: Tensor, allowed: Tensor | None = None, processes: Processes = ALONE) -> None:
        """Take in observations (..., *shape); see `RunningMoments.update`."""
        self.moments.update(obs.float(), allowed, processes)
        self.shift.copy_(self.moments.mean)
        self.scale.copy_((self.moments.var + _EPS).rsqrt())


class OneHot(nn.Module):
    """Turns Discrete observations into zeros, with a one in the place of each.

    Args:
        choices: How many values there are.
        start: The least of them.
    """

    values: Tensor

    def __init__(self, choices: int, start: int = 0) -> None:
        super().__init__()
        self.register_buffer("values", torch.arange(start, start + choices, **FLOATS))

    def forward(self, obs: Tensor) -> Tensor:
        """Return (..., choices) for observations (...)."""
        return (obs[..., None] == self.values).float()

    def extra_repr(self) -> str:
        """Return what the summary of a network says of it."""
        return f"{len(self.values)}, start={int(self.values[0])}"


def discounted_returns(rewards: Tensor, ended: Tensor, before: Tensor, gamma: float | Tensor) -> Tensor:
    """Return what rewards have come to at each step, each before it discounted once more; episodes begin at 0.

    In as many rounds as the number of steps has binary digits, of a few kernels each: in each round a step takes in the
    sum of twice as many steps before it.

    Args:
        rewards: (n_steps, num_envs).
        ended: Whether the step ended its episode, (n_steps, num_envs).
        before: What they had come to before the first step, (num_envs,).
        gamma: Discount factor, a number or ().
    """
    sums = torch.cat([(rewards[0] + gamma * before)[None], rewards[1:]])
    # By what the sum is multiplied that ends so many steps before this one.
    weights = torch.cat([torch.zeros_like(sums[:1]), gamma * ~ended[:-1]])
    reach = 1
    while reach < len(rewards):
        later = torch.addcmul(sums[reach:], weights[reach:], sums[:-reach])
        sums = torch.cat([sums[:reach], later])
        weights = torch.cat([weights[:reach], weights[reach:] * weights[:-reach]])
        reach *= 2
    return sums


class RewardNormalizer(nn.Module):
    """Divides rewards by the running deviation of the discounted return, and clips them to [-10, 10].

    Args:
        num_envs: How many environments there are.
        gamma: Discount factor; a number, or a tensor of shape () on the device that changes.
        processes: Whose rewards are scaled alike.
    """

    returns: Tensor

    def __init__(self, num_envs: int, gamma: float | Tensor, processes: Processes = ALONE) -> None:
        super().__init__()
        self.gamma, self.processes = gamma, processes
        self.moments = RunningMoments()
        self.register_buffer("returns", torch.zeros(num_envs, **FLOATS))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        """Load what was saved; returns of another number of environments begin anew."""
        if state_dict.get(prefix + "returns", self.returns).shape != self.returns.shape:
            state_dict[prefix + "returns"] = torch.zeros_like(self.returns)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    @property
    def scale(self) -> Tensor:
        """What rewards are multiplied with, ()."""
        return (self.moments.var + _EPS).rsqrt().float()

    def begin(self, begun: Tensor) -> None:
        """Begin the discounted returns of some environments anew, (num_envs,) bool."""
        self.returns.masked_fill_(begun, 0.0)

    def forward(self, rewards: Tensor, ended: Tensor) -> Tensor:
        """Take in rewards (n_steps, num_envs), and return them scaled.

        Args:
            rewards: Of consecutive steps.
            ended: Whether the step ended its episode.
        """
        history = discounted_returns(rewards, ended, self.returns, self.gamma)
        self.moments.update(history, processes=self.processes)
        self.returns.copy_((history[-1] * ~ended[-1]).nan_to_num(0.0, 0.0, 0.0))
        return (rewards * self.scale).clamp(-_CLIP, _CLIP)
