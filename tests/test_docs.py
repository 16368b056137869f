"""Every block of code in the README and the documentation runs, and the site holds together."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from here import ROOT
from site_hooks import hook, made_pages

import operant_gpu
from operant_gpu.cli import _COMMANDS, main
from operant_gpu.environment import Definition
from operant_gpu.models import PPOConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
    if path.parent.name != "includes"
)
# Lines that make an environment of Python and go into it.
SET_UP = (["python3", "-m", "venv", ".venv"], ["uv", "venv"], ["source", ".venv/bin/activate"])
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
CATCH = ROOT / "examples" / "catch.cu"
# What is shown, and not to be run: outputs, pictures, and the guide's file in C++, which a test below compares.
SHOWN = {"text", "mermaid", "cpp"}


def blocks_of(page: str) -> list[tuple[str, str]]:
    """Return language and text of a page's blocks of code."""
    return blocks_in((ROOT / page).read_text())


def blocks_in(text: str) -> list[tuple[str, str]]:
    """Return language and text of the blocks of code in a text, also of those that are indented, in tabs."""
    blocks = re.findall(r"^( *)```(\w*)\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    return [(language, textwrap.dedent(block)) for _, language, block in blocks]


def steps_of(page: str) -> Iterator[tuple[str, str]]:
    """Yield what is to be done, in order; blocks of Python between those of the shell are one program."""
    program = ""
    for language, text in blocks_of(page):
        if language == "python":
            program += f"{text}\n\n"
        elif language == "sh":
            if program:
                yield "python", program
            program = ""
            yield language, text
        elif language == "toml":
            yield language, text
    if program:
        yield "python", program


def marked(page: str) -> Any:
    """Return a page as a parameter: those about other trainers need what `make adapters` installs."""
    return pytest.param(page, marks=[pytest.mark.adapters] if page.startswith("docs/migration/") else [])


@pytest.mark.parametrize(
    "page", [marked(page) for page in PAGES if any(kind not in SHOWN for kind, _ in blocks_of(page))]
)
def test_the_blocks_of_a_page_run_one_after_the_other(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {language for language, _ in blocks_of(page)} <= {"python", "sh", "toml", *SHOWN}
    shutil.copy(CATCH, tmp_path)
    monkeypatch.chdir(tmp_path)
    for place, (language, text) in enumerate(steps_of(page)):
        if language == "python":
            # In a file: environment functions are read from their source.
            program = tmp_path / f"page{place}.py"
            program.write_text(text)
            command = [sys.executable, program.name]
            finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert finished.returncode == 0, finished.stderr
        elif language == "toml":
            (tmp_path / "block.toml").write_text(text)
            PPOConfig.from_toml(tmp_path / "block.toml")
        else:
            for line in text.splitlines():
                do(shlex.split(line, comments=True))


def test_the_blocks_of_the_environments_pages_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = {Path(page).stem: blocks_in(text) for page, text in made_pages().items()}
    assert blocks.pop("index") == []
    own = (value for value in vars(operant_gpu.envs).values() if isinstance(value, Definition))
    assert blocks.keys() == {definition.id for definition in own}
    # They differ in the name alone: one page's commands are all pages' commands.
    assert len({tuple((kind, text.replace(id, "ENV")) for kind, text in own) for id, own in blocks.items()}) == 1
    for language, text in blocks["CartPole-v1"]:
        assert language in ("sh", "python")
        for line in text.splitlines() if language == "sh" else ():
            do(shlex.split(line, comments=True))
    program = "\n".join(text for own in blocks.values() for language, text in own if language == "python")
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def shorter(arguments: list[str]) -> list[str]:
    """Return what makes a training just long enough for what a page goes on with.

    Whether it learns is for tests/models/test_learning.py, and the video at its end for tests/cli.
    """
    steps = "20000" if "--resume" in arguments else "10000"
    if "--seeds" in arguments:
        # Each is a process of its own.
        arguments[arguments.index("--seeds") + 1] = "1"
    return ["--no-video"] + ([] if "--total-timesteps" in arguments else ["--total-timesteps", steps])


def do(words: list[str]) -> None:
    """Run a line of a shell block; what would install something, or wait for a user, is looked at instead."""
    if words in SET_UP:
        return
    program, *arguments = words[1:] if words[:2] == ["uv", "pip"] else words
    program = program.removeprefix(".venv/bin/")
    if program == "operant-gpu":
        assert arguments[0] in _COMMANDS
        if arguments[0] == "train":
            arguments += shorter(arguments)
        # A game waits for keys.
        if arguments[0] != "play":
            assert main(arguments) == 0
    elif program == "pip":
        assert arguments[0] == "install"
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = re.findall(r"\[(.*?)\]", " ".join(arguments))
        assert {extra for group in named for extra in group.split(",")} <= set(extras)
    elif program == "python":
        assert (ROOT / arguments[0]).is_file()
    elif program == "make":
        assert all(f"\n{target}:" in (ROOT / "Makefile").read_text() for target in arguments if "=" not in target)
    else:
        raise AssertionError(f"nothing is known of {words}")


@pytest.mark.quick
def test_the_guide_shows_the_example_in_full() -> None:
    source = CATCH.read_text()
    assert f"```cpp\n{source}```" in (ROOT / "docs" / "cuda_environments.md").read_text()
    lines = [line for line in source.splitlines() if line.strip() and not line.strip().startswith("//")]
    assert len(lines) == 36, "as the guide says"


@pytest.mark.quick
def test_the_page_about_loops_shows_its_example_in_full() -> None:
    source = (ROOT / "examples" / "own_loop.py").read_text()
    assert f"```python\n{source}```" in (ROOT / "docs" / "own_loop.md").read_text()


@pytest.mark.quick
def test_the_page_about_randomisation_shows_what_its_example_does() -> None:
    page = (ROOT / "docs" / "domain_randomisation.md").read_text()
    source = (ROOT / "examples" / "randomised_pendulum.py").read_text()
    beginnings = "PI = ", "def validate", "RandomisedPendulum = register"
    places = [source.index(beginning) for beginning in beginnings]
    for begin, end in itertools.pairwise(places):
        assert f"\n{source[begin:end].rstrip()}\n```\n" in page


def test_the_cells_of_the_notebook_run(tmp_path: Path) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    finished = subprocess.run(
        [sys.executable, "-c", source],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"^solved after [\d,]+ steps: mean return 4[789]", finished.stdout, re.MULTILINE)


@pytest.mark.quick
def test_the_page_of_the_notebook_shows_each_cell_and_what_it_printed() -> None:
    notebook = hook("notebook_hook")
    page = (ROOT / "docs" / notebook.PAGE).read_text()
    text = notebook.on_page_markdown(page, SimpleNamespace(file=SimpleNamespace(src_uri=notebook.PAGE)))
    assert notebook.PLACE in page
    assert notebook.PLACE not in text
    pictures = 0
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert "".join(cell["source"]).lstrip("#") in text
        for output in cell.get("outputs", []):
            assert "".join(output.get("text", "")) in text
            pictures += "image/png" in output.get("data", {})
    assert text.count("](data:image/png;base64,") == pictures == 1


def rows_of(page: str) -> dict[str, str]:
    """Return first and second column of a page's tables."""
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]*) \|", (ROOT / page).read_text(), re.MULTILINE))


@pytest.mark.quick
def test_the_settings_page_explains_each_setting_with_its_default() -> None:
    def shown(value: Any) -> str:
        return f'"{value}"' if isinstance(value, str) else str(value)

    defaults = {setting.name: shown(setting.default) for setting in dataclasses.fields(PPOConfig)}
    assert rows_of("docs/settings.md") == defaults


@pytest.mark.quick
def test_the_command_line_page_has_each_command() -> None:
    named = {row.split()[0] for row in rows_of("docs/command_line.md")}
    assert named >= set(_COMMANDS)


@pytest.mark.quick
def test_the_architecture_page_names_files_that_are_there_and_each_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "operant_gpu"
    named = re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?)`", text)
    assert len(named) > 60
    assert [name for name in named if not (package / name).exists() and not (ROOT / name).exists()] == []
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    assert [room for room in sorted(rooms) if f"| `{room}/` |" not in text] == []


@pytest.mark.quick
def test_each_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in (*PAGES, *made_pages()):
        if page.startswith("docs/"):
            assert f" {page.removeprefix('docs/')}\n" in navigation, page


@pytest.mark.quick
def test_each_picture_of_a_page_is_there() -> None:
    texts = {page: (ROOT / page).read_text() for page in PAGES} | made_pages()
    for page, text in texts.items():
        for path in re.findall(r"(?:!\[[^]]*\]\(|src(?:set)?=\")([^)\"#]+)", text):
            assert Path(os.path.normpath((ROOT / page).parent / path)).is_file(), (page, path)
