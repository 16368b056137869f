"""Metrics that an environment reports beside the reward: how each is summed up over an episode.

```python
class Metrics(NamedTuple):
    distance: Last = 0.0
    speed: Mean = 0.0
```

`step` then returns `Metrics(distance=..., speed=...)` as its fourth value: numbers, conditions, or blocks of them. They
are float32 as rewards are, and are summed up in float64. A field that it leaves out has the default.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple

import numpy as np

from operant_gpu.errors import InvalidConfig
from operant_gpu.lang import constexpr_value, jit, tl

__all__ = ["Last", "Max", "Mean", "Min", "Sum"]

# Counts steps. It has a row only where there is a mean.
STEPS = tl.constexpr(0)
LAST = tl.constexpr(1)
SUM = tl.constexpr(2)
MEAN = tl.constexpr(3)
MAX = tl.constexpr(4)
MIN = tl.constexpr(5)


class Kind(NamedTuple):
    """How a metric is summed up: one of the numbers above."""

    number: int


# To readers of types they are the numbers that a field holds.
Last = Annotated[float, Kind(constexpr_value(LAST))]
"""The value of the last step, before the first one the default."""
Sum = Annotated[float, Kind(constexpr_value(SUM))]
"""The sum of all steps."""
Mean = Annotated[float, Kind(constexpr_value(MEAN))]
"""The mean of all steps; 0 before the first one."""
Max = Annotated[float, Kind(constexpr_value(MAX))]
"""The greatest value; before the first step minus infinity."""
Min = Annotated[float, Kind(constexpr_value(MIN))]
"""The least value; before the first step infinity."""

_MOST = float(np.finfo(np.float32).max)
_NEUTRAL = {constexpr_value(MAX): -math.inf, constexpr_value(MIN): math.inf}


class NoMetrics(NamedTuple):
    """Metrics of an environment that has none."""


class Row(NamedTuple):
    """A row of numbers in memory, one for each environment.

    Attributes:
        name: Of the metric; "" of the steps.
        kind: How it is summed up.
        start: What it is before the first step of an episode.
    """

    name: str
    kind: int
    start: float

    @property
    def said(self) -> str:
        """The name of its kind."""
        return ("steps", "last", "sum", "mean", "max", "min")[self.kind]


def rows_of(metrics: type[Any]) -> list[Row]:
    """Return what lies in memory of metrics.

    Raises:
        InvalidConfig: If an annotation is no kind of metric.
    """
    kinds: dict[str, int] = {}
    for name, annotation in metrics.__annotations__.items():
        kind = next((one for one in getattr(annotation, "__metadata__", ()) if isinstance(one, Kind)), None)
        if kind is None:
            expected = "expected Last, Sum, Mean, Max or Min of operant_gpu.metrics"
            raise InvalidConfig("metrics", f"field {name!r} is annotated {annotation!r}: {expected}")
        default = metrics._field_defaults.get(name, 0.0)
        if not isinstance(default, int | float) or not abs(default) <= _MOST:
            raise InvalidConfig("metrics", f"the default of {name!r} must be a number of 32 bits, got {default!r}")
        kinds[name] = kind.number
    own = [Row(name, kind, _start(kind, metrics._field_defaults.get(name, 0.0))) for name, kind in kinds.items()]
    has_mean = constexpr_value(MEAN) in kinds.values()
    return [Row("", constexpr_value(STEPS), 0.0), *own] if has_mean else own


def _start(kind: int, default: Any) -> float:
    # As it would be in memory if a step had given it.
    return float(np.float32(default)) if kind == constexpr_value(LAST) else _NEUTRAL.get(kind, 0.0)


@jit
def measured(KIND: tl.constexpr, before, value, steps):
    """Return what a metric has come to with one more value; `steps` are those of the episode, with this one."""
    if KIND == MEAN:
        return before + (value - before) / steps
    elif KIND == MAX:
        return tl.maximum(before, value)
    elif KIND == MIN:
        return tl.minimum(before, value)
    elif KIND == LAST:
        return value
    else:
        return before + value
