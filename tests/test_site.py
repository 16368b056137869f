"""What the site makes beside pages: files of the repository that pages link to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from here import ROOT
from site_hooks import hook

pytest.importorskip("mkdocs")

from mkdocs.config import load_config
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import get_files

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def hooks() -> SimpleNamespace:
    return hook("hooks")


def test_each_file_that_a_page_links_to_is_on_the_site(hooks: SimpleNamespace) -> None:
    config = load_config(str(ROOT / "mkdocs.yml"))
    # With what other hooks add.
    files = config.plugins.run_event("files", get_files(config), config=config)
    markdown = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    pages = {page: hooks.with_root_files(text, page) for page, text in markdown.items() if "/source/" not in page}
    linked = {path for page, text in pages.items() for path in hooks.linked(text, page)}
    assert len(linked) > 20
    assert [path for path in sorted(linked) if files.get_file_from_path(hooks.place(path)) is None] == []
    # The build checks where links lead. What it only copies it does not read.
    assert [path for path in sorted(linked) if not (ROOT / path).exists()] == []


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for path, text in {
        "bench/run.py": 'a = "```"\n',
        "bench/README.md": "# Bench\n\n[run](run.py), [numbers](results/a.json), [page](../docs/a.md#here)\n",
        "bench/results/a.json": "{}",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_what_a_linked_page_links_to_is_there_too(hooks: SimpleNamespace, repository: Path) -> None:
    found = hooks.gather({"docs/b/c.md": "[how](../../bench/README.md#bench)"}, repository)
    assert found.keys() == {"bench/README.md", "bench/run.py", "bench/results/a.json"}
    assert found["bench/results/a.json"] is None
    assert '````py linenums="1"\na = "```"\n````' in found["bench/run.py"]
    assert (
        "[run](run.py.md), [numbers](../../raw/bench/results/a.json), [page](../../a.md#here)"
        in found["bench/README.md"]
    )


@pytest.mark.parametrize("target", ["../bench/absent.py", "../bunch", "../../elsewhere.md"])
def test_a_link_to_nothing_stops_the_build(hooks: SimpleNamespace, repository: Path, target: str) -> None:
    with pytest.raises(PluginError, match=r"docs/a.md links to '.*', which is not in"):
        hooks.gather({"docs/a.md": f"[words]({target})"}, repository)


def test_code_and_links_within_docs_stay_as_they_are(hooks: SimpleNamespace) -> None:
    text = """[a](b.md#c) `x` [`d`](../bench/run.py) `y[0](../a)` <https://a.org> [e](https://a.org/../f) [g](#h)

```python
f[0](x//2, "../bench/none.py")
```
"""
    assert hooks.moved(text, "docs/page.md") == text.replace("../bench/run.py", "source/bench/run.py.md")
    assert list(hooks.linked(text, "docs/page.md")) == ["bench/run.py"]


def test_a_file_of_the_root_can_be_part_of_a_page(hooks: SimpleNamespace, repository: Path) -> None:
    (repository / "CHANGES.md").write_text("[run](bench/run.py), [page](docs/a.md#here), [site](https://a.org/b)\n")
    text = '# Changes\n\n--8<-- "CHANGES.md"\n--8<-- "shared.md"\n'
    whole = hooks.with_root_files(text, "docs/b/c.md", repository)
    assert "[run](../../bench/run.py), [page](../a.md#here), [site](https://a.org/b)\n" in whole
    assert '--8<-- "shared.md"' in whole


def test_pictures_in_html_of_an_included_file_lead_to_the_site_and_follow_its_light(
    hooks: SimpleNamespace, repository: Path
) -> None:
    (repository / "READ.md").write_text(
        '<img src="docs/a.gif" alt="A">\n<picture>\n<source media="(prefers-color-scheme: dark)" srcset="docs/d.svg">\n'
        '<img src="docs/l.svg" width="9" alt="B">\n</picture>\n'
    )
    assert hooks.with_root_files('--8<-- "READ.md"', "docs/index.md", repository) == (
        '<img src="a.gif" alt="A">\n'
        '<img src="l.svg#only-light" width="9" alt="B">\n<img src="d.svg#only-dark" width="9" alt="B">\n'
    )


def test_a_linked_folder_is_a_list_of_its_files(hooks: SimpleNamespace, repository: Path) -> None:
    found = hooks.gather({"docs/a.md": "[how](../bench/results/)"}, repository)
    assert found.keys() == {"bench/results", "bench/results/a.json"}
    assert "- [`a.json`](../../raw/bench/results/a.json)" in found["bench/results"]


def test_a_file_without_a_last_line_break_is_a_block_of_its_own(hooks: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("a = 1")
    assert hooks.code_of(tmp_path / "a.py") == '```py linenums="1"\na = 1\n```\n'


def test_a_cell_may_have_the_bar_that_divides_cells() -> None:
    table = hook("environment_pages").table
    assert table(("x", "y"), [("a | b", "c")]) == "| x | y |\n| --- | --- |\n| a \\| b | c |"
