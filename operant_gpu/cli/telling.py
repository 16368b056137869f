"""What the command line tells of an environment: all of it, or its parameters alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from operant_gpu.cli.common import say
from operant_gpu.facts import Facts
from operant_gpu.models.presets import LEVELS, PRESETS
from operant_gpu.monitor.table import PlainTable


def show_environment(console: Console, facts: Facts) -> None:
    """Print what there is to say about an environment."""
    for text in (f"{facts.id}: {facts.title}" if facts.title else facts.id, *facts.about):
        _paragraph(console, text)
        say(console, "")
    sections = {"Observation": facts.observation, "Action": facts.action, "Start": facts.start, "Reward": facts.reward}
    for name, section in sections.items():
        texts = [f"{section.space}." if section.space else "", section.text]
        if any(texts) or section.items:
            _paragraph(console, f"{name}: {' '.join(filter(None, texts))}")
        if columns := section.columns:
            _show(console, None, tuple(columns), zip(*columns.values(), strict=True))
    _paragraph(console, f"End: {facts.end.text}")
    if facts.keys:
        _paragraph(console, f"Keys of operant-gpu play: {facts.keys}.")
    say(console, "")
    show_parameters(console, facts)
    if preset := PRESETS.get(facts.id):
        settings = ", ".join(f"{name}={value}" for name, value in preset.items())
        _paragraph(console, f"Its preset differs from the defaults in {settings}.")
    if level := LEVELS.get(facts.id):
        note = "± is half of the 95 % interval, seconds are on one core of a CPU"
        _paragraph(console, f"{facts.id}'s preset learns a mean return of {level} ({note}).")


def show_parameters(console: Console, facts: Facts) -> None:
    """Print the parameters of an environment, with what its author says of them; its tables, and its metrics."""
    if facts.parameters:
        options = [
            # A tensor is nothing for a command line.
            (f"--env.{one.name}", one.default, ", ".join(one.kinds).removesuffix(", tensor"), one.meaning)
            for one in facts.parameters
        ]
        _show(console, f"parameters of {facts.id}", ("option", "default", "takes", "meaning"), options)
    else:
        say(console, f"{facts.id} has no parameters")
    if facts.tables:
        headings = ("table", "numbers", "shape", "default", "")
        _show(console, f"tables of {facts.id}, set in Python", headings, facts.tables)
    if facts.metrics:
        _show(console, f"metrics of {facts.id}", ("metric", "over an episode", ""), facts.metrics)


def _paragraph(console: Console, text: str) -> None:
    """Print a text, broken between words."""
    console.print(Text(text))


def _show(console: Console, title: str | None, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = PlainTable(*headings, title=title)
    for row in rows:
        table.add_row(*row)
    console.print(table)
