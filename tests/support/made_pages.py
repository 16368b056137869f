"""Pages of the documentation that are made when the site is built."""

from __future__ import annotations

import functools
import runpy

from here import ROOT


@functools.cache
def made_pages() -> dict[str, str]:
    """Return the texts of the pages of environments, and of their gallery, by path in the repository."""
    pages = runpy.run_path(str(ROOT / "docs" / "environment_pages.py"))["pages"]()
    return {f"docs/{uri}": text for uri, text in pages.items()}
