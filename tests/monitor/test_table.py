"""Tables in terminals of any width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from operant_gpu.monitor.table import PlainTable

ROWS = (
    ("short", "-220.3 to -166.1", "12,345,678", "a text that is long enough to be broken into several lines"),
    ("MountainCarContinuous-v0", "98.2 ± 0.1", "3", ""),
)


def shown(width: int, *least: str) -> str:
    table = PlainTable("name", "95 % interval", "steps", "what it is", title="a title of a few words", least=least)
    for row in ROWS:
        table.add_row(*row)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


@pytest.mark.parametrize("width", [28, 40, 50, 60, 80, 100, 160])
@pytest.mark.parametrize("least", [(), ("what it is", "steps")])
def test_nothing_is_cut_at_any_width(width: int, least: tuple[str, ...]) -> None:
    text = shown(width, *least)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for cell in ("-220.3 to -166.1", "98.2 ± 0.1", *(("12,345,678",) if not least or "steps" in text else ())):
        assert cell in text or width == 28, cell
    # Of a text each word is there, in its order.
    if not least or "what" in text:
        words = iter(text.split())
        assert all(word in words for word in ROWS[0][3].split())


def test_a_wide_terminal_has_a_line_for_each_row() -> None:
    heading, rule, *rows = shown(160).splitlines()[2:6]
    assert heading.split("  ")[0].strip() == "name"
    assert set(rule.strip()) == {"─"}
    assert [row.split()[0] for row in rows] == ["short", "MountainCarContinuous-v0"]
    # Numbers end at the same place.
    assert rows[0].index("12,345,678") + len("12,345,678") == rows[1].index(" 3 ") + 2


def test_what_is_least_goes_first_and_as_a_whole() -> None:
    assert "what it is" in shown(90, "what it is", "steps")
    narrow = shown(60, "what it is", "steps")
    assert "steps" in narrow
    assert "what" not in narrow
    narrower = shown(50, "what it is", "steps")
    assert ("interval" in narrower, "steps" in narrower) == (True, False)


def test_in_the_narrowest_terminal_rows_are_blocks_with_all_that_is_known() -> None:
    assert [line.rstrip() for line in shown(40, "what it is", "steps").splitlines()] == [
        "a title of a few words",
        "short",
        "  95 % interval  -220.3 to -166.1",
        "  steps          12,345,678",
        "  what it is     a text that is long",
        "                 enough to be broken",
        "                 into several lines",
        "MountainCarContinuous-v0",
        "  95 % interval  98.2 ± 0.1",
        "  steps          3",
    ]
