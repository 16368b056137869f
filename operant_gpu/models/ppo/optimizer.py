"""Adam as PPO needs it: one fused kernel that clips, that a CUDA graph can hold, and that the device can skip."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from operant_gpu.errors import InvalidConfig
from operant_gpu.processes import Processes

_BETAS, _EPS = (0.9, 0.999), 1e-5
_NORM_EPS = 1e-6
_ADVICE = "give new weights the form of the old ones, or make a new learner"


class Adam:
    """Adam (Kingma and Ba, 2015), without weight decay.

    The arithmetic is PyTorch's fused kernel. `torch.optim.Adam` around it takes four times as long as the kernel for
    networks this small, and reads what is to be skipped or clipped in kernels of its own.

    Args:
        parameters: What to optimize.
        device: Where the parameters are.

    Attributes:
        means: First moments, those of one parameter after those of another.
        squares: Second moments, likewise.
        count: How many steps it has taken.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], device: torch.device) -> None:
        self._parameters: list[Tensor] = list(parameters)
        self.count = torch.zeros((), dtype=torch.float32, device=device)
        size = sum(parameter.numel() for parameter in self._parameters)
        self.means, self.squares = torch.zeros(2, size, dtype=self._parameters[0].dtype, device=device)
        self._view_moments()

    def map(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply a function to each tensor kept, such as a move to another device."""
        self.count = function(self.count)
        self.means, self.squares = function(self.means), function(self.squares)
        self._view_moments()

    def follow(self, parameters: Mapping[str, Tensor]) -> None:
        """Optimize what stands in the place of the parameters so far, which keeps their moments.

        Raises:
            InvalidConfig: If these are others, by number, shape, dtype or device.
        """
        given = list(parameters.values())
        if len(given) != len(self._parameters):
            raise InvalidConfig("policy", f"expected {len(self._parameters)} parameters, got {len(given)}: {_ADVICE}")
        for name, new, moment in zip(parameters, given, self._means):
            found, expected = ((one.dtype, tuple(one.shape), str(one.device)) for one in (new, moment))
            if found != expected:
                raise InvalidConfig("policy", f"expected {name} to be {expected}, got {found}: {_ADVICE}")
        self._parameters = given

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on as a copy: what were views of one memory are such again."""
        self.__dict__.update(state)
        self._view_moments()

    def _refuse_lr(self, value: Any) -> None:
        """Refuse a learning rate that would be ignored: each step is given its own."""
        raise InvalidConfig("lr", f"write learner.hyperparameters.lr = {value!r}")

    lr = property(None, _refuse_lr)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def average_gradients(self, processes: Processes, *others: Tensor) -> None:
        """Replace the gradients, and other numbers, by their means over all processes, in one message."""
        gradients = self.gradients()
        processes.average(*gradients, *others)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient

    def gradient_norms(self) -> Tensor:
        """Return the norm of each parameter's gradient."""
        return torch.stack(torch._foreach_norm(self.gradients()))

    @torch.no_grad()
    def step(
        self,
        lr: float | Tensor,
        norm: Tensor | None = None,
        max_norm: float | Tensor = 0.0,
        condition: Tensor | None = None,
    ) -> None:
        """Take a step.

        Args:
            lr: Learning rate.
            norm: Norm of all gradients together; if given, they are scaled to have one of at most `max_norm`.
            max_norm: See `norm`.
            condition: Whether to take it, on the device: nothing changes where it is False; None for yes.
        """
        # What fused optimizers have for half precision: gradients are divided by the scale, and `found_inf` skips.
        scale = None if norm is None else ((norm + _NORM_EPS) / max_norm).clamp(min=1.0)
        skip = None if condition is None else 1.0 - condition.float()
        self.count += 1.0 if skip is None else 1.0 - skip
        rows = zip(self._parameters, self.gradients(), self._means, self._squares, strict=True)
        # Those frozen since keep their moments, which would go on moving them.
        parameters, gradients, means, squares = map(list, zip(*(row for row in rows if row[0].requires_grad)))
        torch._fused_adam_(
            parameters,
            gradients,
            means,
            squares,
            [],
            [self.count] * len(parameters),
            lr=lr,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            weight_decay=0.0,
            eps=_EPS,
            amsgrad=False,
            maximize=False,
            grad_scale=scale,
            found_inf=skip,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what decides the future steps."""
        return {"count": self.count, "means": self._means, "squares": self._squares}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            ValueError: If it belongs to other parameters.
        """
        saved = [state["count"], *state["means"], *state["squares"]]
        own = [self.count, *self._means, *self._squares]
        if [tensor.shape for tensor in saved] != [tensor.shape for tensor in own]:
            raise ValueError("the optimizer's state is that of other parameters")
        for tensor, value in zip(own, saved, strict=True):
            tensor.copy_(value)

    def _view_moments(self) -> None:
        sizes = [parameter.numel() for parameter in self._parameters]
        self._means, self._squares = (
            [part.view(own.shape) for part, own in zip(moments.split(sizes), self._parameters, strict=True)]
            for moments in (self.means, self.squares)
        )

    def gradients(self) -> list[Tensor]:
        """Return each parameter's gradient; zeros of those that the loss does not depend on."""
        return [torch.zeros_like(own) if own.grad is None else own.grad for own in self._parameters]
