"""What mkdocs does beside turning Markdown into pages."""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leave links to sources, which are in the repository and not on the site, as their text, which names the file."""
    upwards = page.file.src_uri.count("/") + 1
    return re.sub(rf"\[([^]]+)\]\((?:\.\./){{{upwards}}}[^)]+\)", r"\1", markdown)
