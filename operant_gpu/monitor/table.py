"""Tables that fit the terminal without cutting what is in them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

# A cell with more characters is a text, which may be broken into lines of this width.
_TEXT = 20
# Between two columns, and at both ends.
_GAP, _ENDS = 3, 2
# How a number begins; "-" stands for none.
_NUMBER = re.compile(r"[-+]?\d|-?$")


class PlainTable:
    """A table without a frame, of which no cell is cut.

    Where it is too wide, its headings and long texts are broken into lines. If that is not enough, it goes without its
    least columns, and if it still is too wide, each row becomes a block of lines: the first cell, and below it each of
    the others with its heading.

    Args:
        headings: Of the columns.
        title: A line above the table.
        least: Headings of columns that may be left out, the least important first.
    """

    def __init__(self, *headings: str, title: str | None = None, least: Sequence[str] = ()) -> None:
        self._headings, self._title, self._least = list(headings), title, least
        self._rows = list[list[Text]]()

    def add_column(self, heading: str) -> None:
        """Add a column at the right, which rows so far do not have."""
        self._headings.append(heading)

    def add_row(self, *cells: str | Text) -> None:
        """Add a row."""
        self._rows.append([Text(cell) if isinstance(cell, str) else cell for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if self._title is not None:
            yield Text(self._title, style="italic")
        width = options.max_width - _ENDS
        for count in range(len(self._least) + 1):
            places = [place for place, one in enumerate(self._headings) if one not in self._least[:count]]
            for most in (None, _TEXT):
                widths = [self._width(place, most) for place in places]
                if sum(widths) + _GAP * (len(places) - 1) <= width:
                    yield self._columns(places, widths, is_wide=most is None)
                    return
        yield from self._blocks()

    def _cells(self, place: int) -> list[Text]:
        return [row[place] for row in self._rows if place < len(row)]

    def _width(self, place: int, most: int | None) -> int:
        """Return the columns of the terminal that a column needs, with texts in lines of `most` characters."""
        cells, heading = self._cells(place), self._headings[place]
        if most is None:
            return max([len(heading), *(cell.cell_len for cell in cells)])
        words = [*heading.split(), *(word for cell in cells for word in cell.plain.split())]
        return max([min(most, cell.cell_len) for cell in cells] + [len(word) for word in words], default=0)

    def _columns(self, places: Sequence[int], widths: Sequence[int], is_wide: bool) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for place, width in zip(places, widths, strict=True):
            heading = self._headings[place]
            cells = self._cells(place)
            has_texts = any(cell.cell_len > width for cell in cells)
            table.add_column(
                heading if is_wide or has_texts else textwrap.fill(heading, max(1, width)),
                min_width=width,
                no_wrap=not has_texts,
                justify="right" if all(_NUMBER.match(cell.plain) for cell in cells) else "left",
                overflow="fold",
            )
        for row in self._rows:
            table.add_row(*(row[place] if place < len(row) else "" for place in places))
        return table

    def _blocks(self) -> Iterator[RenderableType]:
        for first, *rest in self._rows:
            named = [(one, cell) for one, cell in zip(self._headings[1:], rest, strict=False) if cell.plain]
            # What has no heading is beside the first.
            yield Text("  ").join([Text.assemble(first, style="bold"), *(cell for one, cell in named if not one)])
            grid = Table.grid(padding=(0, 2))
            grid.add_column(min_width=max((len(one) for one in self._headings[1:]), default=0), no_wrap=True)
            grid.add_column(overflow="fold")
            for one, cell in named:
                if one:
                    grid.add_row(Text(f"  {one}", style="dim"), cell)
            yield grid
