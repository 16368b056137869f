"""Puts files of the repository that pages link to on the site: sources as pages, data as files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
# Code, which has no links, or the relative target of a link or a picture, without its anchor.
_CODE_OR_TARGET = re.compile(
    r"^(?P<fence>```+).*?^(?P=fence)`*[ ]*$|`[^`\n]+`|(?<=\]\()(?P<target>(?![a-zA-Z][a-zA-Z+.-]*:|[#/<])[^)#\s]+)",
    re.DOTALL | re.MULTILINE,
)
# A file of the repository's root as a part of a page; what pages share is in docs/includes.
_INCLUDED = re.compile(r'^--8<-- "([^"/]+)"$', re.MULTILINE)
# A picture in HTML, as a README has them: its source, and a pair for light and dark, which the site switches by itself.
_IMAGE = re.compile(r'(?<=<img src=")[^":]+(?=")')
_PAIR = re.compile(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="(?P<dark>[^"]+)">\s*'
    r'<img src="(?P<light>[^"]+)"(?P<rest>[^>]*)>\s*</picture>'
)
# What browsers and programs read as it is.
_DATA = {".json", ".jsonl", ".png", ".gif", ".svg", ".csv", ".ipynb", ".mp4", ".onnx"}
# Of suffixes that are not a language's name.
_LANGUAGES = {"cu": "cpp", "cuh": "cpp", "hpp": "cpp", "yml": "yaml", "cff": "yaml"}
_HEAD = "---\ntitle: {path}\nhide: [navigation, toc]\nsearch: {{exclude: true}}\n---\n\n"


def place(path: str) -> str:
    """Return where a file of the repository is among the sources of the site."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    suffix = Path(path).suffix
    if suffix in _DATA:
        return f"raw/{path}"
    return f"source/{path}" if suffix == ".md" else f"source/{path}.md"


def linked(markdown: str, path: str) -> Iterator[str]:
    """Yield the files outside of docs/ that a file links to, by their paths in the repository."""
    for match in _CODE_OR_TARGET.finditer(markdown):
        if match["target"]:
            other = normpath(join(dirname(path), match["target"]))
            if not other.startswith("docs/"):
                yield other


def relinked(markdown: str, target: Callable[[str], str]) -> str:
    """Return a text with other targets of its links."""

    def part(match: re.Match[str]) -> str:
        return target(match["target"]) if match["target"] else match.group()

    return _CODE_OR_TARGET.sub(part, markdown)


def moved(markdown: str, path: str) -> str:
    """Return the text of a file with links as they have to be where the file is on the site."""
    folder = dirname(place(path)) or "."
    return relinked(markdown, lambda target: relpath(place(normpath(join(dirname(path), target))), folder))


def with_root_files(markdown: str, path: str = "docs/index.md", root: Path = ROOT) -> str:
    """Return the text of a page with the files of the root that it includes, whose links lead where they led there."""

    def text(match: re.Match[str]) -> str:
        file = root / match[1]
        if not file.is_file():
            return match.group()
        whole = _PAIR.sub(
            r'<img src="\g<light>#only-light"\g<rest>>\n<img src="\g<dark>#only-dark"\g<rest>>',
            file.read_text(encoding="utf-8"),
        )
        whole = _IMAGE.sub(lambda image: relpath(image[0], dirname(path)), whole)
        return relinked(whole, lambda target: relpath(target, dirname(path)))

    return _INCLUDED.sub(text, markdown)


def listing_of(folder: Path) -> str:
    """Return a list of a folder's files, with links as of a file beside the folder."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    return "\n".join(f"- [`{name}`]({folder.name}/{name})" for name in names)


def code_of(file: Path) -> str:
    """Return a file as a block of code."""
    text, suffix = file.read_text(encoding="utf-8"), file.suffix.removeprefix(".") or "text"
    if text and not text.endswith("\n"):
        # Else the fence would be a part of the last line.
        text += "\n"
    # Longer than any fence within.
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
    return f'{fence}{_LANGUAGES.get(suffix, suffix)} linenums="1"\n{text}{fence}\n'


def gather(pages: dict[str, str], root: Path = ROOT) -> dict[str, str | None]:
    """Find the files and folders outside of docs/ that pages link to, and what those link to in turn.

    Args:
        pages: Texts of pages, by their paths in the repository.
        root: The repository.

    Returns:
        By path in the repository, the page that shows it; None for data, which is copied.

    Raises:
        PluginError: If a page links to something that is not in the repository.
    """
    found: dict[str, str | None] = {}
    waiting = list(pages.items())
    while waiting:
        page, markdown = waiting.pop()
        for path in linked(markdown, page):
            if path in found:
                continue
            file = root / path
            if path.startswith("../") or not file.exists():
                raise PluginError(f"{page} links to {path!r}, which is not in the repository")
            found[path] = None
            if place(path).startswith("raw/"):
                continue
            text = f"# `{path}`\n\n"
            if file.is_dir():
                text += listing_of(file)
            elif file.suffix == ".md":
                text = file.read_text(encoding="utf-8")
            else:
                found[path] = _HEAD.format(path=path) + text + code_of(file)
                continue
            found[path] = _HEAD.format(path=path) + moved(text, path)
            waiting.append((path, text))
    return found


# Last, so that pages which other hooks make are there.
@event_priority(-100)
def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the files that pages link to."""
    markdown = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    pages = {path: with_root_files(text, path) for path, text in markdown.items()}
    for path, page in gather(pages).items():
        content = {"abs_src_path": os.fspath(ROOT / path)} if page is None else {"content": page}
        files.append(File.generated(config, place(path), inclusion=InclusionLevel.NOT_IN_NAV, **content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to files of the repository to where those are on the site."""
    uri = page.file.src_uri
    if uri.startswith("source/"):
        return markdown
    path = f"docs/{uri}"
    return moved(with_root_files(markdown, path), path)
