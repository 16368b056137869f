"""Parameters that are drawn anew for each episode: distributions, given where an environment takes a number.

    env = CartPole(num_envs=4096, gravity=Uniform(5, 15), length=Choice(0.4, 0.5, 0.6))

A draw is a function of the seed, the environment's id, the number of the episode and the place of the parameter among
those of its environment: the same in any batch and on every backend (`LogUniform` and `Normal` to a few ulps), whatever
else is drawn. As text, on the command line and in checkpoints, they are `5..15`, `log:0.1..10`, `normal:10,2`,
`normal:10,2,5..15` and `0.4,0.5,0.6`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from operant_gpu.errors import InvalidConfig, as_integer
from operant_gpu.sampling import CHOICE, INTEGERS, LOG_UNIFORM, NORMAL, UNIFORM

__all__ = ["Choice", "Distribution", "LogUniform", "Normal", "Uniform"]

# How many standard deviations from the mean a Normal is clipped, unless its ends are given.
_DEVIATIONS = 3
# Of a Choice: kernels compare with each.
_MOST_VALUES = 64
_LARGEST = float(np.finfo(np.float32).max)
RANGES = "a range such as 5..15, log:0.1..10, normal:10,2 or 0.4,0.5,0.6"


class Draw(NamedTuple):
    """A distribution as `sampling.parameter` takes it."""

    kind: int
    numbers: tuple[bool | int | float, ...]


@dataclass(frozen=True)
class Distribution:
    """What a parameter is drawn from at the beginning of each episode."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None:
                # What text says is again the same then.
                object.__setattr__(self, name, self._number(value))
        self._check()

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest number that can be drawn."""
        raise NotImplementedError

    def compiled(self, kind: type) -> Draw:
        """Return the distribution as kernels take it, for a parameter of this type.

        Raises:
            InvalidConfig: If such parameters cannot be drawn from it.
        """
        if kind is not float:
            other = "Choice" if kind is bool else "Uniform or Choice"
            raise self._wrong(f"is for parameters that are floats, this one is {kind.__name__}: use {other}")
        return self._of_floats()

    def _of_floats(self) -> Draw:
        raise NotImplementedError

    def _wrong(self, message: str) -> InvalidConfig:
        return InvalidConfig(type(self).__name__, f"{self!r} {message}")

    def _number(self, value: Any) -> int | float:
        """Return a number as Python has it."""
        number: int | float | None = as_integer(value)
        if isinstance(value, float | np.floating) and (number is None or abs(number) >= 2**53):
            number = float(value)
        if number is None or not -_LARGEST <= number <= _LARGEST:
            raise self._wrong(f"has {value!r} where it needs a finite number of 32 bits")
        return number

    def _check(self) -> None:
        low, high = self.ends
        if not -_LARGEST <= low <= high <= _LARGEST or not high - low <= _LARGEST:
            raise self._wrong("is no range: give the lower end first, and the upper one less than 3.4e38 above it")


@dataclass(frozen=True)
class _Range(Distribution):
    """A distribution between two numbers."""

    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest number that can be drawn."""
        return self.low, self.high


@dataclass(frozen=True)
class Uniform(_Range):
    """Uniform from `low` to `high`; for a parameter that is an integer, each from `low` to `high` with equal chance."""

    def compiled(self, kind: type) -> Draw:
        """Return the distribution as kernels take it."""
        if kind is not int:
            return super().compiled(kind)
        low, high = as_integer(self.low), as_integer(self.high)
        if low is None or high is None or low < -(2**31) or high > 2**31 - 2 or high - low > 2**31 - 2:
            raise self._wrong("is for an integer of 32 bits here: give whole numbers, at most 2**31 - 2 apart")
        return Draw(INTEGERS.value, (low, high + 1))

    def _of_floats(self) -> Draw:
        return Draw(UNIFORM.value, (float(self.low), float(self.high)))

    def __str__(self) -> str:
        return _range(self.low, self.high)


@dataclass(frozen=True)
class LogUniform(_Range):
    """Between `low` and `high`, both above 0, with a uniform logarithm: each factor of two is as likely as another."""

    def _check(self) -> None:
        super()._check()
        if not np.float32(self.low) > 0:
            raise self._wrong("begins at or below 0, where there is no logarithm: give a `low` of 1e-45 or more")

    def _of_floats(self) -> Draw:
        numbers = (math.log2(self.low), math.log2(self.high), float(self.low), float(self.high))
        return Draw(LOG_UNIFORM.value, numbers)

    def __str__(self) -> str:
        return f"log:{_range(self.low, self.high)}"


@dataclass(frozen=True)
class Normal(Distribution):
    """Normal with this mean and standard deviation, clipped to `low` and `high`: three deviations off if not given."""

    mean: float
    std: float
    low: float | None = None
    high: float | None = None

    def _check(self) -> None:
        if not self.std > 0:
            raise self._wrong("has a standard deviation that is not above 0")
        super()._check()

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest number that can be drawn."""
        reach = _DEVIATIONS * self.std
        low = self.mean - reach if self.low is None else self.low
        return low, self.mean + reach if self.high is None else self.high

    def _of_floats(self) -> Draw:
        return Draw(NORMAL.value, tuple(map(float, (self.mean, self.std, *self.ends))))

    def __str__(self) -> str:
        own = f"normal:{_text(self.mean)},{_text(self.std)}"
        return own if self.low is None and self.high is None else f"{own},{_range(*self.ends)}"


@dataclass(frozen=True, init=False)
class Choice(Distribution):
    """One of some values, each with equal chance: `Choice(0.4, 0.5, 0.6)`."""

    values: tuple[bool | int | float, ...]

    def __init__(self, *values: bool | int | float) -> None:
        object.__setattr__(self, "values", values)
        if not 0 < len(values) <= _MOST_VALUES:
            other = "" if not values else ", or a tensor with one value for each environment"
            raise self._wrong(f"has {len(values)} values: give 1 to {_MOST_VALUES}{other}")
        plain = (bool(value) if isinstance(value, bool | np.bool_) else self._number(value) for value in values)
        object.__setattr__(self, "values", tuple(plain))

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest number that can be drawn."""
        return min(self.values), max(self.values)

    def compiled(self, kind: type) -> Draw:
        """Return the distribution as kernels take it."""
        if kind is bool:
            values: tuple[Any, ...] = self.values
            is_right = all(isinstance(value, bool) for value in values)
        else:
            values = tuple(map(as_integer, self.values)) if kind is int else self.values
            is_right = not any(value is None or isinstance(value, bool) for value in self.values + values)
            is_right = is_right and (kind is float or all(-(2**31) <= value < 2**31 for value in values))
        if not is_right:
            raise self._wrong(f"has a value that is not {kind.__name__}, as this parameter is")
        return Draw(CHOICE.value, tuple(map(kind, values)))

    def __repr__(self) -> str:
        return f"Choice({', '.join(map(repr, self.values))})"

    def __str__(self) -> str:
        # With a comma even if there is one alone.
        return ",".join(map(_text, self.values)) + "," * (len(self.values) == 1)


def parse(text: str) -> bool | int | float | Distribution:
    """Return what a text means: a number, True or False, or a distribution as its `str` gives it.

    Raises:
        InvalidConfig: If it means none of them.
    """
    kind, colon, rest = text.strip().partition(":")
    try:
        if not colon:
            return _parsed_range(kind, Uniform) if ".." in kind else _parsed_values(kind)
        if kind.strip().lower() == "log":
            return _parsed_range(rest, LogUniform)
        if kind.strip().lower() == "normal":
            mean, std, *ends = rest.split(",")
            clip = [*map(_number, ends[0].split(".."))] if ends else [None, None]
            if len(ends) <= 1 and len(clip) == 2:
                return Normal(_number(mean), _number(std), *clip)
    except InvalidConfig:
        # Of a distribution: it is a ValueError too.
        raise
    except (KeyError, ValueError):
        pass
    raise InvalidConfig("text", f"expected a number, or {RANGES}, got {text!r}")


def _parsed_range(text: str, kind: type[Uniform | LogUniform]) -> Distribution:
    low, high = text.split("..")
    return kind(_number(low), _number(high))


def _parsed_values(text: str) -> bool | int | float | Distribution:
    words = text.split(",")
    # A comma at the end makes a choice of one value.
    values = [_value(word) for word in (words[:-1] if len(words) > 1 and not words[-1].strip() else words)]
    return values[0] if len(words) == 1 else Choice(*values)


def _value(text: str) -> bool | int | float:
    return {"true": True, "false": False}[text.strip().lower()] if text.strip().isalpha() else _number(text)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _range(low: Any, high: Any) -> str:
    return f"{_text(low)}..{_text(high)}"


def _text(value: bool | int | float) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
