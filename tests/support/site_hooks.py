"""What the hooks of the site, in docs/, do when it is built."""

from __future__ import annotations

import functools
import runpy
from types import SimpleNamespace

from here import ROOT


def hook(name: str) -> SimpleNamespace:
    """Return what a file of hooks defines."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / f"{name}.py")))


@functools.cache
def made_pages() -> dict[str, str]:
    """Return the texts of the pages of environments, and of their gallery, by path in the repository."""
    return {f"docs/{uri}": text for uri, text in hook("environment_pages").pages().items()}
