"""How far tensors are from what was expected of them."""

from __future__ import annotations

import torch
from torch import Tensor

# Of the spacing of float32 numbers at a component's largest: sines and quotients differ in their last bits.
MAX_ULPS = 256.0


class Unavailable(Exception):
    """What cannot be verified here, and why."""


class Inapplicable(Exception):
    """What there is not for an environment or a device, and so is not verified."""


class Differs(Exception):
    """What came is not what was expected."""


def assert_equal(name: str, found: Tensor, expected: Tensor) -> None:
    """Compare bit for bit; what is no number equals itself."""
    one, other = found.cpu(), expected.cpu()
    different = (one != other) & ((one == one) | (other == other))
    if different.any():
        place = int(different.flatten().int().argmax())
        raise Differs(
            f"{name}, {tuple(other.shape)}: {int(different.sum())} differ; at {place} came "
            f"{one.flatten()[place].item()!r}, expected {other.flatten()[place].item()!r}"
        )


def assert_near(name: str, found: Tensor, expected: Tensor) -> float:
    """Return how far floats are apart, in spacings at the largest; integers must be equal."""
    if not expected.is_floating_point():
        assert_equal(name, found, expected)
        return 0.0
    one, other = found.cpu().double(), expected.cpu().double()
    if not other.numel():
        return 0.0
    finite, float32 = other.isfinite(), torch.finfo(torch.float32)
    others = [torch.where(numbers.isfinite(), 0.0, numbers) for numbers in (one, other)]
    assert_equal(f"{name}, what is not finite", *others)
    # A component's over all environments: a large one must not hide another.
    largest = torch.where(finite, other, 0.0).abs().amax(0, keepdim=True)
    ulps = torch.where(finite, (one - other).abs(), 0.0) / (largest.clamp(min=float32.tiny) * float32.eps)
    if ulps.max() > MAX_ULPS:
        place = int(ulps.argmax())
        raise Differs(
            f"{name}, {tuple(other.shape)}: {int((ulps > MAX_ULPS).sum())} are more than {MAX_ULPS:g} ulps away; at "
            f"{place} came {float(one.flatten()[place]):.9g}, expected {float(other.flatten()[place]):.9g}"
        )
    return float(ulps.max())


def assert_below(name: str, error: float, bound: float) -> float:
    """Return an error that is below its bound; what is no number is not."""
    if not error < bound:
        raise Differs(f"{name}: off by {error:.2g}, expected less than {bound:g}")
    return error
