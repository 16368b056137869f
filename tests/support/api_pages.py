"""What the pages of the interface, docs/api, show."""

from __future__ import annotations

import re

from here import ROOT

PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
# A directive with its options, or a heading with the anchor of a name.
_SHOWN = re.compile(r"^::: (\S+)\n((?: {4}.*\n)*)|\{ #(operant_gpu\.\S+)", re.MULTILINE)


def shown() -> list[str]:
    """Return the names that the pages show: for a module without a heading those of its members that are listed."""
    names = []
    for page in PAGES:
        for directive, options, anchor in _SHOWN.findall(page.read_text()):
            members = re.search(r"members: \[([^\]]*)\]", options)
            own = members[1].split(", ") if members and "show_root_heading: false" in options else []
            names += [f"{directive}.{name}" for name in own] or [directive or anchor]
    return names
