"""The hyperparameters of a training: constant, on a line from a start to an end, or as a callback writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from operant_gpu.errors import InvalidConfig, meant
from operant_gpu.hyperparameters import Hyperparameters
from operant_gpu.models.config import PPOConfig

NAMES = Hyperparameters._fields


class Schedules:
    """Hyperparameters by their names in `PPOConfig`, to be read and written at any time.

    Reading one gives the number of the next iteration, or when the training is over of the last one, and waits for the
    device. What is written holds from the next iteration on: a number; None, where the setting may be None; or, as in
    `PPOConfig`, "linear" or (start, end), from the first step of the training to its last. Nothing is compiled or
    captured anew, and checkpoints keep it. Write in the thread that trains, as callbacks do.

    The numbers are in the device's memory, and so is how far the training is: iterations that are captured move along.

    Args:
        config: Settings fitted to the environments.
        usual: Values of settings that "linear" begins at, in place of the defaults.
        steps: Environment steps of an iteration.
        device: Where the policy is.
    """

    __slots__ = ("_config", "_done", "_exact", "_first", "_now", "_span", "_steps", "_total", "_usual", "_values")

    def __init__(self, config: PPOConfig, usual: Mapping[str, Any], steps: int, device: torch.device) -> None:
        self._config, self._usual, self._steps = config, usual, steps
        self._first, self._span, self._exact = torch.zeros(3, len(NAMES), dtype=torch.float64, device=device)
        self._done, self._total = torch.zeros(2, dtype=torch.float64, device=device)
        self._total.fill_(math.inf)
        self._values = torch.zeros(len(NAMES), dtype=torch.float32, device=device)
        self._now = Hyperparameters(*self._values.unbind())
        for name in NAMES:
            self._write(name)
        self._evaluate()

    @property
    def config(self) -> PPOConfig:
        """The settings, with what was written."""
        return self._config

    @property
    def values(self) -> Tensor:
        """The numbers of the last iteration, float32 in the order of `Hyperparameters`, always in the same memory."""
        return self._values

    @property
    def now(self) -> Hyperparameters:
        """Views of the same, of shape ()."""
        return self._now

    def begin(self, total: int, done: int = 0) -> None:
        """Begin a training of `total` environment steps, or go on with one after `done` of them."""
        self._done.fill_(done)
        self._total.fill_(total)

    def advance(self) -> None:
        """Take the numbers of the next iteration."""
        self._evaluate()
        self._done += self._steps

    def exactly(self, name: str) -> Tensor:
        """Return a number of the last iteration, as exactly as it was written: float64 (), on the device."""
        number: Tensor = self._exact[NAMES.index(name)]
        return number

    def _evaluate(self) -> None:
        torch.add(self._first, self._span * (self._done / self._total), out=self._exact)
        self._values.copy_(self._exact)

    def _write(self, name: str) -> None:
        """Take what the config says of a hyperparameter."""
        value = getattr(self._config, name)
        first, last = value if isinstance(value, tuple) else (value, value)
        at = NAMES.index(name)
        # Not infinite less infinite.
        self._first[at], self._span[at] = (math.inf, 0.0) if first is None else (first, last - first)

    def __getattr__(self, name: str) -> float | None:
        if name not in NAMES:
            raise AttributeError(f"{name}: {_unknown(name)}")
        at = NAMES.index(name)
        first, span, done, total = torch.stack([self._first[at], self._span[at], self._done, self._total]).tolist()
        number: float = first + span * ((done if done < total else done - self._steps) / total)
        return None if math.isinf(number) else number

    def __setattr__(self, name: str, value: Any) -> None:
        if name in type(self).__slots__:
            super().__setattr__(name, value)
            return
        if name not in NAMES:
            raise InvalidConfig(name, _unknown(name))
        config = replace(self._config, **{name: value}).begun(self._usual)
        if name == "rnd_coef":
            if not self._config.rnd_coef:
                message = "this learner has no curiosity to weigh: make one with PPOConfig(rnd_coef=...)"
                raise InvalidConfig("rnd_coef", message)
            # A number of 0 would say that there is none.
            config = replace(config, rnd_coef=config.rnd_coef or (0.0, 0.0))
        self._config = config
        self._write(name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *NAMES]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self._config, name)}' for name in NAMES)})"


def _unknown(name: str) -> str:
    """Return what to say of a name that is none of a hyperparameter's."""
    if name in (setting.name for setting in fields(PPOConfig)):
        return f"it cannot change while a policy learns: make another learner, with PPOConfig({name}=...)"
    return f"unknown hyperparameter; {meant(name, NAMES)}these can change: {', '.join(NAMES)}"
