"""What environments with `debug=True` return: three sets of memory in turn, and a look at what somebody keeps."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Container, Mapping

import torch
from torch import Tensor

from operant_gpu.tensors import uses

# A caller holds what the last step returned while the next one runs, and may let it go only then.
_SETS = 3
# Where users find what does not come back by its name.
_SPELLED = {
    "final_obs": 'info["final_obs"]',
    "_episode": 'info["_episode"]',
    "r": 'info["episode"]["r"]',
    "l": 'info["episode"]["l"]',
    "action_mask": 'info["action_mask"]',
}


class Turns:
    """Lends copies of outputs, in three sets of memory in turn, and says once if one is in use when it should not be.

    Whoever still uses what was returned two steps ago has kept it. Without `debug` it would be the memory that
    each step overwrites. What a reset of all returned is not looked at: it is often held for no reason, in a variable
    that a loop never writes. A reset of some environments writes where the last step did.
    """

    def __init__(self) -> None:
        self._sets: list[dict[str, Tensor]] = [{} for _ in range(_SETS)]
        self._present: dict[str, Tensor] = {}
        self._steps = 0
        self._has_told = False

    def begin_reset(self) -> None:
        """Begin a user's call of `reset` that takes every environment."""
        self._present = {}

    def begin_step(self, given: Container[str]) -> None:
        """Begin a user's call of `step`, which writes outputs of these names to the user's own memory."""
        self._steps += 1
        self._present = self._sets[self._steps % _SETS]
        before_last = {} if self._has_told else self._sets[(self._steps - 2) % _SETS]
        kept = [name for name, memory in before_last.items() if name not in given and uses(memory) > 1]
        if kept:
            self._has_told = True
            names = ", ".join(_SPELLED.get(name, name) for name in kept)
            message = (
                f"something still uses {names}, which step() returned two steps ago. Without debug=True, that memory "
                "has been overwritten. Call .clone() on what you keep, or make the environments with copy=True. "
                "(This is said once.)"
            )
            # Of each environment: Python's own filter would show the first one's alone.
            caller = sys._getframe(2)
            warnings.warn_explicit(message, RuntimeWarning, caller.f_code.co_filename, caller.f_lineno)

    # What is made in inference mode could not be written outside.
    @torch.inference_mode(False)
    def lent(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors with the same contents, in the memory of the present call."""
        present = self._present
        for name, tensor in tensors.items():
            if name in present:
                present[name].copy_(tensor)
            else:
                present[name] = tensor.clone()
        # Other tensors in the same memory: one that is let go no longer counts as a use of it.
        return {name: present[name].detach() for name in tensors}
