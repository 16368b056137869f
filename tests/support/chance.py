"""What chance decides in an environment's next reset or step, for a reference that has to decide alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from operant_gpu import VecEnv
from operant_gpu.lang import constexpr_value
from operant_gpu.philox import philox
from operant_gpu.random import RESET_STREAM, STEP_STREAM

RESET, STEP = constexpr_value(RESET_STREAM), constexpr_value(STEP_STREAM)


def words(env: VecEnv, stream: int, blocks: int = 5) -> np.ndarray:
    """Return the first words of a stream, four a block, one row per environment."""
    columns = env.state_dict()["columns"]
    key = (columns[name].numpy().repeat(blocks) for name in ("seed", "env_id", "episode", "elapsed"))
    drawn = philox(*key, np.tile(stream + np.arange(blocks), env.num_envs))
    return np.stack(drawn, axis=-1).reshape(env.num_envs, -1)


class Chance:
    """Stands in for NumPy's `RandomState`: its decisions are words of ours, in order."""

    def begin(self, words: np.ndarray) -> None:
        self._words = iter(words.tolist())

    def rand(self, size: int | None = None) -> Any:
        if size is not None:
            return np.array([self.rand() for _ in range(size)])
        return (next(self._words) >> 8) * 2.0**-24

    def randint(self, low: int, high: int | None = None, size: int | None = None) -> Any:
        if size is not None:
            return np.array([self.randint(low, high) for _ in range(size)])
        low, high = (0, low) if high is None else (low, high)
        return low + (next(self._words) * (high - low) >> 32)
