"""Help, and what is said of mistakes in options, as wide as the terminal."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text


class _Page(io.StringIO):
    """An output that has colours, and the characters of frames if its encoding has them."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def fitted(console: Console) -> Iterator[None]:
    """Print what tyro prints in the block, its errors on the standard error, as wide as a console is.

    tyro asks the variable COLUMNS for the width. Without it, in a pipe to a pager, its frames are 80 wide in any
    terminal. Its paragraphs are in lines of any length.
    """
    pages = {_Page(one.encoding): one for one in (console, Console(stderr=True, width=console.width))}
    page, errors = pages
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(console.width)
    try:
        with contextlib.redirect_stdout(page), contextlib.redirect_stderr(errors):
            yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
        for written, reader in pages.items():
            if text := written.getvalue():
                # The list of commands is to be broken between them.
                reader.print(
                    Text.from_ansi(re.sub(r"\{[a-z]+(,[a-z]+){5,}\}", lambda one: one[0].replace(",", ", "), text))
                )
