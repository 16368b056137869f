"""What the pages of results share: tables, and what was measured where and with what."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def header(title: str, report: dict[str, Any]) -> str:
    """Return a heading with the machine, and what `machine.describe` knows besides."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    about = f"{report['cores']} cores, {report['date']}, `{report['command']}`"
    return f"# {title} on {report['machine']}\n\n{about}\n\n{versions}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table, all but the first `left` columns aligned to the right."""
    rules = ["---" if column < left else "---:" for column in range(len(headings))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rules, *rows))


def small(text: str) -> str:
    """Return a cell of which what is in brackets at its end, such as the least and the most, is small."""
    return re.sub(r" (\[[^]]+\])$", r" <small>\1</small>", text)


def between(mark: str, text: str) -> str:
    """Return a text between the marks that tell where a page has it."""
    return f"<!-- {mark}:begin -->\n{text}\n<!-- {mark}:end -->"


def fill(page: Path, mark: str, text: str) -> None:
    """Put a text between the marks of a page, in place of what is there."""
    before, begin, rest = page.read_text().partition(f"<!-- {mark}:begin -->")
    _, end, after = rest.partition(f"<!-- {mark}:end -->")
    if not (begin and end):
        raise SystemExit(f"{page}: expected <!-- {mark}:begin --> and <!-- {mark}:end -->, the text goes between them")
    page.write_text(before + between(mark, text) + after)


def learners_table(title: str, rows: Sequence[dict[str, Any]]) -> str:
    """Return how many steps a second are learned from."""
    eager = {(row["num_envs"], row["batch_size"]): row for row in rows if row["engine"] == "eager"}
    cells = []
    for row in rows:
        peer = eager.get((row["num_envs"], row["batch_size"]))
        cells.append(
            (
                f"{row['engine']}, {row['num_envs']:,} x 32",
                f"{row['batch_size']:,}",
                f"{row['steps_per_second'] / 1e6:,.3f}",
                f"{row['slowest'] / 1e6:,.3f}-{row['fastest'] / 1e6:,.3f}",
                f"{row['seconds_per_iteration'] * 1e3:.2f}",
                f"{row['steps_per_second'] / peer['steps_per_second']:.2f}" if peer else "-",
            )
        )
    return table((title, "minibatch", "M steps/s", "spread", "ms an iteration", "x eager"), cells)


def split_table(row: dict[str, Any]) -> str:
    """Return where the time of an engine's iteration goes."""
    total = sum(row["split"].values())
    title = f"{row['engine']}, {row['num_envs']:,} x 32, by {row['batch_size']:,}, with a wait after each part"
    cells = [(part, f"{seconds * 1e3:.2f}", f"{seconds / total:.0%}") for part, seconds in row["split"].items()]
    return table((title, "ms", "share"), cells)
