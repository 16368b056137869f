"""The comparison from random states takes every branch of the games' sources, but for guards named here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from here import ROOT

import operant_gpu

pytest.importorskip("minatar", reason="the comparison needs the MinAtar package")
needs_gcov = pytest.mark.skipif(
    None in (shutil.which("g++"), shutil.which("gcov")), reason="coverage needs g++ and gcov"
)

GAMES = Path(operant_gpu.__file__).parent / "envs" / "minatar"
# Places outside the board, and a shot of an alien where there is none: the package has no answer to such states.
GUARDS = {
    ("seaquest.cu", "const int bit = is_out(x) ? 0 : 1 << x;"),
    ("seaquest.cu", "if (!is_out(back)) obs(1, state.y, back) = 1;"),
    ("space_invaders.cu", "for (int y = LAST; y >= 0 && nearest >= 0; --y) {"),
}


@pytest.mark.thorough
@needs_gcov
def test_every_branch_of_the_games_is_compared_with_the_package(tmp_path: Path) -> None:
    compiler = tmp_path / "g++-coverage"
    # At -O0, whatever level comes before: then each branch of the source is one of the code.
    # What it notes goes to a folder that stays.
    notes = tmp_path / "notes"
    notes.mkdir()
    compiler.write_text(f'#!/bin/sh\nexec g++ --coverage -fprofile-abs-path -dumpdir {notes}/$$- "$@" -O0\n')
    compiler.chmod(0o755)
    cache = tmp_path / "cache"
    environment = {**os.environ, "CXX": str(compiler), "OPERANT_GPU_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        str(Path(__file__).with_name("test_minatar_states.py")),
    ]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    taken = branches_taken(notes)
    assert {name for name, *_ in taken} >= {path.name for path in GAMES.glob("*.cu")}
    assert len(taken) > 300
    never = {(name, source_line(name, line)) for (name, line, _), count in taken.items() if count == 0}
    assert never == GUARDS


def branches_taken(folder: Path) -> Counter[tuple[str, int, int]]:
    """Return how often each branch was taken, by file, line and number, over all programs."""
    taken: Counter[tuple[str, int, int]] = Counter()
    for data in folder.rglob("*.gcda"):
        command = ["gcov", "--branch-probabilities", "--json-format", "--stdout", data.name]
        report = subprocess.run(command, cwd=data.parent, capture_output=True, text=True, check=True).stdout
        for file in json.loads(report)["files"]:
            if Path(file["file"]).parent != GAMES:
                continue
            for line in file["lines"]:
                for number, branch in enumerate(line["branches"]):
                    taken[Path(file["file"]).name, line["line_number"], number] += branch["count"]
    return taken


def source_line(name: str, number: int) -> str:
    return (GAMES / name).read_text().splitlines()[number - 1].strip()
