"""What mkdocs does beside turning Markdown into pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def with_root_files(markdown: str) -> str:
    """Put the text of a file of the repository's root where a page of `docs/` includes it.

    Snippets would leave its links as they are in the root. Here they become those of a page of `docs/`.
    """

    def text(match: re.Match[str]) -> str:
        path = ROOT / match[1]
        if not path.is_file():
            return match[0]
        return re.sub(r"(?<=\]\()(docs/)?(?![a-z]+:|#)", lambda link: "" if link[1] else "../", path.read_text())

    return re.sub(r'^--8<-- "([^/"]+)"$', text, markdown, flags=re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leave links to sources, which are in the repository and not on the site, as their text, which names the file."""
    markdown = with_root_files(markdown)
    upwards = page.file.src_uri.count("/") + 1
    return re.sub(rf"\[([^]]+)\]\((?:\.\./){{{upwards}}}[^)]+\)", r"\1", markdown)
