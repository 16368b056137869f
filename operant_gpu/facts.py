"""What there is to say about an environment, for people who read it: `operant-gpu envs ENV` and the documentation.

One source for both. Texts are those of the module that the environment is written in, whose docstring has this form;
what it lacks is left out:

```text
Name: one sentence.

Where the equations or the rules are from, and what else there is to know.

Observation: Text that is true of all of it.
    0: position of the cart (m)
    1 to 3: what these three are; the unit, if there is one, is in parentheses
Action:
    0: push the cart to the left
Start: The pole is almost upright.
Reward: 1 for each step.
End: The cart is more than `x_threshold` from the middle.
```

A number is an index along the observation's first axis (so it is a plane of a board), or a component of the action, or
the value of a Discrete action. A Discrete observation has no list. Parameters, tables and metrics are explained by the
comments behind them.
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import Space, spaces

from operant_gpu.backends.lowering.trial import try_out
from operant_gpu.environment import Definition, Environment
from operant_gpu.errors import InvalidConfig, OperantError
from operant_gpu.fields import table_types
from operant_gpu.parameters import notes

_SECTIONS = ("Observation", "Action", "Start", "Reward", "End")
_HEADING = re.compile(rf"({'|'.join(_SECTIONS)}):\s*(.*)")
_ITEM = re.compile(r"\s+(\d+)(?: to (\d+))?:\s+(.*)")
# The unit stands behind a name, at the end of a clause.
_UNIT = re.compile(r"\s*\(([^()]+)\)(?=$|[,;.])")


class Item(NamedTuple):
    """A line of a list.

    Attributes:
        first: The number that it is about, or the first of several.
        last: The last of them.
        meaning: What it is, or does.
        unit: Of the number; "" if it has none.
        low: The least number that the space has there, as text; "" if that is not known.
        high: The greatest.
    """

    first: int
    last: int
    meaning: str
    unit: str = ""
    low: str = ""
    high: str = ""

    @property
    def numbers(self) -> str:
        """The numbers that it is about, as text."""
        return str(self.first) if self.first == self.last else f"{self.first} to {self.last}"


class Section(NamedTuple):
    """What a docstring says of observations, actions, starts, rewards or ends.

    Attributes:
        text: What is true of all of it; "" if nothing is said.
        items: What is said of each place or value.
        space: What numbers they are, as text; "" for the others.
    """

    text: str = ""
    items: tuple[Item, ...] = ()
    space: str = ""

    @property
    def columns(self) -> dict[str, list[str]]:
        """The columns of a table of the items, by heading, but for those without a text."""
        columns = {
            "index" if any(item.low for item in self.items) else "value": [item.numbers for item in self.items],
            "meaning": [item.meaning for item in self.items],
            "unit": [item.unit for item in self.items],
            "low": [item.low for item in self.items],
            "high": [item.high for item in self.items],
        }
        return {heading: column for heading, column in columns.items() if any(column)}


class ParameterFacts(NamedTuple):
    """A parameter.

    Attributes:
        name: Its name.
        default: As text.
        meaning: Its unit, and what it is.
        is_free: Whether it can be a tensor, or drawn from a distribution, as well as a number.
    """

    name: str
    default: str
    meaning: str
    is_free: bool

    @property
    def kinds(self) -> tuple[str, ...]:
        """What may be given for it."""
        alone = "True or False" if self.default in ("True", "False") else "number"
        return (alone, "range", "tensor") if self.is_free else (alone,)


class TableFacts(NamedTuple):
    """A table.

    Attributes:
        name: Its name.
        dtype: Of its numbers.
        shape: Sizes of its axes, as text.
        default: "yes" if it need not be given, else "none".
        meaning: What it is.
    """

    name: str
    dtype: str
    shape: str
    default: str
    meaning: str


class MetricFacts(NamedTuple):
    """A metric: its name, how it is summed up over an episode, and what it is."""

    name: str
    kind: str
    meaning: str


@dataclass(frozen=True)
class Facts:
    """What there is to say about an environment.

    Attributes:
        id: Its name.
        title: What one does there, a sentence; "" if its module says nothing, as all texts.
        about: Paragraphs.
        observation: Its observations.
        action: Its actions.
        start: In which states episodes begin.
        reward: Its rewards.
        end: What ends an episode, how long it may be, and when the environment counts as solved.
        keys: The keys of `operant-gpu play` with their actions; "" if it is not to be played.
        parameters: Its parameters.
        tables: Its tables.
        metrics: Its metrics.
    """

    id: str
    title: str
    about: tuple[str, ...]
    observation: Section
    action: Section
    start: Section
    reward: Section
    end: Section
    keys: str
    parameters: tuple[ParameterFacts, ...]
    tables: tuple[TableFacts, ...]
    metrics: tuple[MetricFacts, ...]


def facts_of(definition: Definition) -> Facts:
    """Return what there is to say about an environment."""
    docstring = getattr(module_of(definition), "__doc__", None)
    title, about, sections = _read(inspect.cleandoc(docstring) if isinstance(docstring, str) else "")
    observation, action = spaces_of(definition)
    limit, goal = definition.max_episode_steps, definition.reward_threshold
    limited = "Episodes are not truncated." if limit is None else f"An episode is truncated after {limit:,} steps."
    solved = "" if goal is None else f"The environment counts as solved at a mean return of {goal:g}."
    end = " ".join(filter(None, (sections["End"].text, limited, solved)))
    keys = ", ".join(f"{'no key' if key == 'none' else key} {value}" for key, value in (definition.keys or {}).items())
    return Facts(
        id=definition.id,
        title=title,
        about=about,
        observation=_bounded(sections["Observation"], observation),
        action=_bounded(sections["Action"], action),
        start=sections["Start"],
        reward=sections["Reward"],
        end=Section(end),
        keys=keys,
        parameters=_parameters_of(definition),
        tables=_tables_of(definition),
        metrics=_metrics_of(definition),
    )


def module_of(definition: Definition) -> Any:
    """Return the module that an environment is written in: that of its step, or in CUDA C++ of its state; or None."""
    name = definition.step.fn.__module__ if isinstance(definition, Environment) else definition.state.__module__
    return sys.modules.get(name)


def spaces_of(definition: Definition) -> tuple[Space[Any] | None, Space[Any] | None]:
    """Return the observation and action space; None for one that depends on tables that have no defaults."""
    try:
        return definition.spaces(*definition.make_given({}))
    except InvalidConfig:
        own = definition.observation_space, definition.action_space
        observation, action = (space if isinstance(space, Space) else None for space in own)
        return observation, action


def described(space: Space[Any] | None) -> str:
    """Return what numbers a space has: "one of 4", or shape and dtype; "" if it is not known."""
    if space is None:
        return ""
    if isinstance(space, spaces.Discrete):
        return f"one of {space.n}"
    if isinstance(space, spaces.MultiDiscrete):
        return " x ".join(map(str, space.nvec))
    return f"{space.shape} {space.dtype}"


def _parameters_of(definition: Definition) -> tuple[ParameterFacts, ...]:
    said = notes(definition.params)
    defaults = definition.params._field_defaults
    return tuple(
        ParameterFacts(name, _number(default), said[name], _is_free(definition, name))
        for name, default in defaults.items()
    )


def _tables_of(definition: Definition) -> tuple[TableFacts, ...]:
    if not definition.has_tables:
        return ()
    said, defaults = notes(definition.table_class), definition.default_tables()
    kinds = table_types(definition.table_class, definition.params()).items()
    return tuple(
        TableFacts(name, str(t.dtype), " x ".join(t.axes), "yes" if name in defaults else "none", said[name])
        for name, t in kinds
    )


def _metrics_of(definition: Definition) -> tuple[MetricFacts, ...]:
    said = notes(definition.metrics)
    return tuple(MetricFacts(row.name, row.said, said[row.name]) for row in definition.metric_rows if row.name)


def _is_free(definition: Definition, name: str) -> bool:
    try:
        given = definition.make_given({name: torch.tensor(definition.params._field_defaults[name])})
        definition.spaces(*given)
        try_out(definition, *given)
    except OperantError:
        return False
    return True


def _read(text: str) -> tuple[str, tuple[str, ...], dict[str, Section]]:
    """Return title, paragraphs and sections of a docstring."""
    first, *paragraphs = re.split(r"\n\s*\n", text)
    # A section may follow on the title at once, or stand in its place.
    if heading := re.search(rf"^{_HEADING.pattern}$", first, re.MULTILINE):
        first, paragraphs = first[: heading.start()], [first[heading.start() :], *paragraphs]
    title = " ".join(first.split())
    title = title.partition(": ")[2] or title
    texts = dict.fromkeys(_SECTIONS, "")
    items: dict[str, list[tuple[int, int, str]]] = {name: [] for name in _SECTIONS}
    about = []
    for paragraph in paragraphs:
        own, section, is_item = "", "", False
        for line in paragraph.splitlines():
            if heading := _HEADING.fullmatch(line):
                section, is_item = heading[1], False
                texts[section] = heading[2]
            elif section and (item := _ITEM.fullmatch(line)):
                is_item = True
                items[section].append((int(item[1]), int(item[2] or item[1]), item[3]))
            elif is_item:
                first, last, said = items[section][-1]
                items[section][-1] = first, last, f"{said} {line.strip()}"
            elif section:
                texts[section] = f"{texts[section]} {line.strip()}".strip()
            else:
                own = f"{own} {line.strip()}".strip()
        about += [own] if own else []
    sections = {name: Section(texts[name], tuple(_item(*item) for item in items[name])) for name in _SECTIONS}
    return title[:1].upper() + title[1:], tuple(about), sections


def _item(first: int, last: int, text: str) -> Item:
    unit = _UNIT.search(text)
    meaning = text if unit is None else text[: unit.start()] + text[unit.end() :]
    return Item(first, last, meaning, "" if unit is None else unit[1])


def _bounded(section: Section, space: Space[Any] | None) -> Section:
    """Return a section with what the space knows: the ends of the range of each item."""
    if space is None or isinstance(space, spaces.Discrete):
        return section if space is None else section._replace(space=described(space))
    ends = _ends(space)
    items = []
    for item in section.items:
        lows, highs = (end[item.first : item.last + 1] for end in ends)
        # Neither beyond the space, nor from more to less.
        known = 0 < len(lows) == item.last + 1 - item.first
        items.append(item._replace(low=_number(lows.min()), high=_number(highs.max())) if known else item)
    return Section(section.text, tuple(items), described(space))


def _ends(space: Space[Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the least and the greatest numbers at each index along the first axis."""
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    if isinstance(space, spaces.Box):
        low, high = np.atleast_1d(space.low), np.atleast_1d(space.high)
    else:
        low, high = np.zeros(space.shape or (), np.int8), np.ones(space.shape or (), np.int8)
    return low.reshape(len(low), -1).min(1), high.reshape(len(high), -1).max(1)


def _number(value: Any) -> str:
    """Return a number as people read it: a float with at most seven digits."""
    value = value.item() if isinstance(value, np.generic) else value
    return str(float(f"{value:.7g}")) if isinstance(value, float) else str(value)
