"""What the command line tells of an environment: all of it, or its parameters alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from operant_gpu.cli.common import plain_table, say
from operant_gpu.environment import Definition
from operant_gpu.facts import Section, facts_of, metrics_of, parameters_of, tables_of
from operant_gpu.models.presets import LEVELS, PRESETS


def show_environment(console: Console, definition: Definition) -> None:
    """Print what there is to say about an environment."""
    facts = facts_of(definition)
    for text in (f"{definition.id}: {facts.title}" if facts.title else definition.id, *facts.about):
        _paragraph(console, text)
        say(console, "")
    for name, section in {"Observation": facts.observation, "Action": facts.action, "Reward": facts.reward}.items():
        texts = [f"{section.space}." if section.space else "", section.text]
        if any(texts) or section.items:
            _paragraph(console, f"{name}: {' '.join(filter(None, texts))}")
        _show_items(console, section)
    _paragraph(console, f"End: {facts.end.text}")
    if facts.keys:
        _paragraph(console, f"Keys of operant-gpu play: {facts.keys}.")
    say(console, "")
    show_parameters(console, definition)
    if preset := PRESETS.get(definition.id):
        settings = ", ".join(f"{name}={value}" for name, value in preset.items())
        _paragraph(console, f"Its preset differs from the defaults in {settings}.")
    if level := LEVELS.get(definition.id):
        note = "± is half of the 95 % interval, seconds are on one core of a CPU"
        _paragraph(console, f"{definition.id}'s preset learns a mean return of {level} ({note}).")


def show_parameters(console: Console, definition: Definition) -> None:
    """Print the parameters of an environment, with what its author says of them; its tables, and its metrics."""
    if parameters := parameters_of(definition):
        takes = ("numbers", "numbers, ranges")
        options = [(f"--env.{one.name}", one.default, takes[one.is_free], one.meaning) for one in parameters]
        _show(console, f"parameters of {definition.id}", ("option", "default", "takes", ""), options)
    else:
        say(console, f"{definition.id} has no parameters")
    if tables := tables_of(definition):
        rows = [(one.name, one.dtype, one.shape, "yes" if one.has_default else "none", one.meaning) for one in tables]
        title = f"tables of {definition.id}, set in Python"
        _show(console, title, ("table", "numbers", "shape", "default", ""), rows)
    if metrics := metrics_of(definition):
        _show(console, f"metrics of {definition.id}", ("metric", "over an episode", ""), metrics)


def _show_items(console: Console, section: Section) -> None:
    items = section.items
    if any(item.low for item in items):
        rows = [(item.numbers, item.meaning, item.unit, item.low, item.high) for item in items]
        _show(console, None, ("index", "", "unit", "low", "high"), rows)
    elif items:
        _show(console, None, ("value", ""), [(item.numbers, item.meaning) for item in items])


def _paragraph(console: Console, text: str) -> None:
    """Print a text, broken between words."""
    console.print(Text(text))


def _show(console: Console, title: str | None, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = plain_table(*headings, title=title)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
