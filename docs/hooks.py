"""What mkdocs does beside turning Markdown into pages."""

from __future__ import annotations

import re
from typing import Any

# Links to sources, which are in the repository and not on the site.
_SOURCE = re.compile(r"\[([^]]+)\]\(\.\./[^)]+\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave links to sources as their text, which names the file."""
    return _SOURCE.sub(r"\1", markdown)
