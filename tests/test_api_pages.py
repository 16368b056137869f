"""The pages of the interface begin with what readers want, and show docstrings as they are written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from api_pages import PAGES, shown
from here import ROOT

griffe = pytest.importorskip("griffe")

pytestmark = pytest.mark.quick

# What Markdown takes for emphasis or for HTML.
_LOST = re.compile(r"\*\w|\w\*|<[A-Za-z/!]|(?<!\w)_\w+_(?!\w)|(?<!\w)__\w")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_begins_with_what_a_reader_wants(page: Any) -> None:
    first, *_ = page.read_text().split("\n::: ")
    rows = re.findall(r"^\| (.+) \| (.+) \|$", first, re.MULTILINE)
    assert rows[0] == ("I want to ...", "use")
    assert all("](" in use or "][" in use for _, use in rows[2:])


def objects(shown_object: Any) -> Iterator[Any]:
    """Yield an object and its public members, where they are defined."""
    found = shown_object.final_target if shown_object.is_alias else shown_object
    yield found
    for member in found.members.values():
        if not member.is_alias and not member.name.startswith("_"):
            yield from objects(member)


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    """Return all objects that the pages show and that have docstrings, by path."""
    loader = griffe.GriffeLoader(search_paths=[str(ROOT)])
    loader.load("operant_gpu")
    loader.resolve_aliases(implicit=True)
    names = [name for name in shown() if name not in ("operant_gpu.AutoresetMode", "operant_gpu.lang.tl")]
    found = (one for name in names for one in objects(loader.modules_collection[name]))
    return {one.path: one for one in found if one.docstring is not None}


def lost(text: str) -> list[str]:
    """Return what of a docstring Markdown would not show as it is written."""
    plain = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    return [match.group() for match in _LOST.finditer(plain)]


@pytest.mark.parametrize(
    "text", ["in [0, 2**63)", "(num_envs, *shape)", '"cuda:<index>"', "the _final_ one", "a __call__"]
)
def test_what_markdown_would_not_show_is_found(text: str) -> None:
    assert lost(text)
    assert not lost(f"`{text}` and 2 * 3 < 4 of final_obs")


def test_docstrings_are_shown_as_they_are_written(documented: dict[str, Any]) -> None:
    assert len(documented) > 200
    assert {path: found for path, one in documented.items() if (found := lost(one.docstring.value))} == {}


def test_tables_of_docstrings_have_types_and_one_row_for_each_item(documented: dict[str, Any]) -> None:
    faults = []
    for path, one in documented.items():
        for section in one.docstring.parse("google", warn_missing_types=False):
            if section.kind.value == "attributes":
                faults += [(path, item.name) for item in section.value if item.annotation is None]
            # A line that goes on from the one before it would be a row of its own.
            elif section.kind.value == "returns" and len(section.value) > 1:
                faults += [(path, item.description) for item in section.value if not item.name]
            elif section.kind.value == "raises":
                faults += [(path, item.annotation) for item in section.value if "," in str(item.annotation)]
    assert faults == []
