"""What `reset` and `step` return: the outputs of environments as users get them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from operant_gpu.memory.allocation import unflattened
from operant_gpu.memory.columns import Columns, Outputs
from operant_gpu.vector.turns import Turns


class Shown(NamedTuple):
    """The parts of a result, as arrays of the library that users chose."""

    obs: Any
    final_obs: Any
    reward: Any
    terminated: Any
    truncated: Any
    ended: Any
    episode_return: Any
    length: Any
    action_mask: Any
    metrics: dict[str, Any] | None

    def info(self) -> dict[str, Any]:
        """Return what `step` returns as info, in dictionaries of the caller's own."""
        info = {
            "final_obs": self.final_obs,
            "_final_obs": self.ended,
            "episode": {"r": self.episode_return, "l": self.length},
            "_episode": self.ended,
        }
        if self.action_mask is not None:
            info["action_mask"] = self.action_mask
        if self.metrics is not None:
            info["metrics"], info["_metrics"] = dict(self.metrics), self.ended
        return info


class Results:
    """Shows what environments have written: their own memory, or copies of it.

    Args:
        outputs: The environments' own.
        columns: Of the environments.
        metrics: What each has come to, by name.
        shape: Of an observation.
        export: Exposes a tensor's memory as users want it.
        copies: Whether to show fresh copies.
        turns: Lends copies in turn, or None.
    """

    def __init__(
        self,
        outputs: Outputs,
        columns: Columns,
        metrics: Mapping[str, Tensor],
        shape: tuple[int, ...],
        export: Callable[[Tensor], Any],
        copies: bool,
        turns: Turns | None,
    ) -> None:
        self._outputs, self._columns, self._metrics, self._shape = outputs, columns, metrics, shape
        self._export, self._copies, self._turns = export, copies, turns
        self._live = None if copies or turns is not None else self._shown(outputs, {})

    def present(self) -> Shown:
        """Return the environments' own outputs, as they are now."""
        return self._live or self._shown(self._outputs, {})

    def of_step(self, outputs: Outputs, out: Mapping[str, Tensor]) -> Shown:
        """Return the outputs of a step, of which those in `out` are the user's own tensors."""
        if self._live is None:
            return self._shown(outputs, out)
        shown = self._live._asdict()
        for name, tensor in out.items():
            shown[name] = self._export(tensor)
        if outputs.final_obs is outputs.obs:
            shown["final_obs"] = shown["obs"]
        return Shown(**shown)

    def _shown(self, outputs: Outputs, out: Mapping[str, Tensor]) -> Shown:
        columns = self._columns
        obs = unflattened(outputs.obs, self._shape)
        final_obs = obs if outputs.final_obs is outputs.obs else unflattened(outputs.final_obs, self._shape)
        tensors = {
            "obs": obs,
            "final_obs": final_obs,
            "reward": outputs.reward,
            "terminated": outputs.terminated,
            "truncated": outputs.truncated,
            "_episode": columns.ended,
            "r": columns.episode_return,
            "l": columns.elapsed,
            "action_mask": outputs.action_mask,
        }
        others = len(tensors)
        tensors |= {f'info["metrics"]["{name}"]': metric for name, metric in self._metrics.items()}
        if self._copies or self._turns is not None:
            own = {name: tensor for name, tensor in tensors.items() if tensor is not None and name not in out}
            turns = self._turns
            tensors |= {name: one.clone() for name, one in own.items()} if turns is None else turns.lent(own)
        shown = [None if tensor is None else self._export(tensor) for tensor in tensors.values()]
        metric = dict(zip(self._metrics, shown[others:], strict=True)) or None
        return Shown._make((*shown[:others], metric))
