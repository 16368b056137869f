"""One process by itself: what is asked of processes that train together, at no cost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

# Where processes meet. Each is a bit of a word, so that who is elsewhere is seen.
PLACES = (
    "the end of an iteration",
    "the beginning of a learner, a training or a run",
    "a checkpoint, as of save()",
    "an evaluation",
)
END_OF_ITERATION, BEGINNING, CHECKPOINT, EVALUATION = PLACES
# Bits of what a process says at a meeting: that it stops, that something went wrong, that this was in what is learned.
STOP, FAILED, FAULTY = 1, 2, 4


class Processes:
    """One process by itself.

    Attributes:
        rank: Its number among those that train together, from 0 on.
        size: How many these are.
        backend: What carries their numbers, as torch.distributed names it; nothing for one.
        is_echo: Whether this process has failed with the words of the first one, which has told them.
    """

    rank: int = 0
    size: int = 1
    backend: str = ""
    is_echo: bool = False

    def average(self, *tensors: Tensor) -> None:
        """Replace tensors of one dtype by their means over all processes, the same bits in each."""

    def gather(self, tensor: Tensor) -> Tensor:
        """Return what each process has of a tensor, `(size, *shape)`."""
        return tensor[None]

    def gather_objects(self, value: T, to_all: bool = True) -> list[T]:
        """Return what each process gives, in the first one or in all; elsewhere nothing."""
        return [value]

    def first(self, function: Callable[[], T], place: str = BEGINNING) -> T:
        """Let the first process call a function; return in all what it returned, or raise what it raised."""
        return function()

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the first one's tensors."""

    def meet(self, place: str, word: int = 0) -> int:
        """Wait until all processes are here, and return the bits that any of them has set."""
        return word

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Check that what all processes must have in common is the same.

        Raises:
            InvalidConfig: With what differs, and where.
        """

    def announcing(self) -> contextlib.AbstractContextManager[None]:
        """Tell the others of an error that ends what is done here, so that they end too."""
        return contextlib.nullcontext()

    def working(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        """Do what may wait on a GPU for other processes: if one is gone, such a wait would never end."""
        return contextlib.nullcontext()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rank={self.rank}, size={self.size})"


ALONE = Processes()


def merged_moments(means: Tensor, spreads: Tensor, counts: Any) -> tuple[Tensor, Tensor, Any]:
    """Return mean, sum of squared deviations and number of all numbers, of whose parts these are known.

    Args:
        means: Of the parts, (parts, *shape).
        spreads: Sums of squared deviations from these, likewise.
        counts: How many numbers each part has: the same in all.
    """
    mean = means.mean(0)
    return mean, spreads.sum(0) + counts * (means - mean).square().sum(0), counts * len(means)
