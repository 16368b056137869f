"""What pages and files of the project say of its version, its licence and GPUs is the same everywhere."""

from __future__ import annotations

import datetime
import json
import re

import pytest
from here import ROOT

import operant_gpu

pytestmark = pytest.mark.quick

NOTE = (ROOT / "docs" / "includes" / "gpu_status.md").read_text()
INCLUDED = '--8<-- "gpu_status.md"'


def test_the_version_is_the_same_everywhere() -> None:
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    page = (ROOT / "docs" / "citation.md").read_text()
    entry = dict(re.findall(r"^  (\w+) = \{+(.*?)\}+,?$", page, re.MULTILINE))
    assert citation["version"] == entry["version"] == operant_gpu.__version__
    assert f"\n## {operant_gpu.__version__}, " in (ROOT / "CHANGELOG.md").read_text()
    (author,) = citation["authors"]
    year, holder = re.search(r"Copyright \(c\) (\d+) (.*)", (ROOT / "LICENSE").read_text()).groups()
    assert author["name"] == entry["author"].replace("\\", "") == holder
    assert entry["year"] == year
    assert citation["license"] == entry["license"] == "MIT"


def test_what_is_said_of_a_gpu_is_what_was_recorded() -> None:
    record = json.loads((ROOT / "bench" / "results" / "gpu-nvidia-h200.json").read_text())
    day = datetime.date.fromisoformat(record["date"])
    tests = [row for row in record["stages"]["f"] if "::" in row["what"]]
    assert {row["state"] for row in tests} == {"ok"}
    facts = f"{day.day} {day:%B %Y}", f"{len(tests)} tests", record["card"]["name"].removeprefix("NVIDIA ")
    for text in (NOTE, (ROOT / "README.md").read_text(), (ROOT / "docs" / "limits.md").read_text()):
        assert [fact for fact in facts if fact not in text] == []


def test_each_page_that_speaks_of_gpus_says_what_has_run_on_one() -> None:
    pages = [path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "includes"]
    speak = {path for path in pages if re.search(r"\bGPUs?\b|CUDA graph|H200", path.read_text())}
    assert len(speak) > 10
    assert sorted(str(path.relative_to(ROOT)) for path in speak if INCLUDED not in path.read_text()) == []


@pytest.mark.quick
def test_commands_for_pip_have_quotes_that_every_shell_knows() -> None:
    # Windows' command prompt takes single quotes for a part of the name, and > in them for a file.
    files = [ROOT / "README.md", *(ROOT / "operant_gpu").rglob("*.py"), *(ROOT / "bench").glob("*.py")]
    files += [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").glob("*.py"), *(ROOT / "examples").iterdir()]
    texts = {path.relative_to(ROOT): path.read_text() for path in files if path.is_file()}
    given = {path: re.findall(r"pip install (?:-\S+ )*(\\?[\"'])[^\s\"']", text) for path, text in texts.items()}
    assert sum(map(len, given.values())) > 10
    assert [str(path) for path, quotes in given.items() if "'" in quotes] == []
