"""What the pages of results share: tables, and what was measured where and with what."""

from __future__ import annotations

from collections.abc import Sequence
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
