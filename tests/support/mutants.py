"""Edit single lines of the library, one at a time, and see whether the suite notices.

`python tests/support/mutants.py CHECKOUT --seed 24 --count 30 --seconds 90` edits files of a clean checkout on disk, so
that kernels, C++ and compiled programs change too, runs the quick tests and those that lie nearest to each edit until
the first fails, and undoes it. Equal seeds draw equal mutants from equal sources, whatever the tests are. The last line
is JSON.

A mutant is a comparison, an operator or a constant that is another one, or a mask that is left out.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

SWAPS = {
    "comparison": {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="},
    "operator": {
        "+": "-",
        "-": "+",
        "*": "/",
        "/": "*",
        "//": "*",
        "%": "*",
        "&": "|",
        "|": "&",
        "<<": ">>",
        ">>": "<<",
    }
    | {"&&": "||", "||": "&&", "+=": "-=", "-=": "+=", "and": "or", "or": "and"},
}
KINDS = (*SWAPS, "constant", "mask")
# Where edits are drawn from, each as often: folders of the package, and the endings of what is in them.
ROOMS = (
    ("kernels/triton", ".py"),
    ("kernels/numba", ".py"),
    ("kernels/cuda", ".cuh"),
    ("kernels/cpp", (".hpp", ".cpp")),
    ("envs", (".py", ".cu")),
    ("backends", ".py"),
    ("models", ".py"),
)
# The tests that lie nearest, by the beginning of a path: all of them take longer than a mutant is given.
NEAREST = {
    "kernels/triton": "tests/backends tests/kernels tests/models/ppo tests/vector",
    "backends/triton": "tests/backends tests/kernels tests/models/ppo tests/vector",
    "kernels/cpp": "tests/backends tests/models/ppo tests/vector",
    "models": "tests/models",
    "envs": "tests/envs tests/backends tests/vector",
    "": "tests/backends tests/vector",
}
_TOKEN = re.compile(
    r"(?P<skip>//[^\n]*|/\*.*?\*/|#\s*include[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*')"
    r"|(?P<number>\b\d+(?:\.\d+)?(?:e[+-]?\d+)?f?\b)"
    r"|(?P<symbol>(?:<<|>>|&&|\|\||[<>=!]=|[+-]=)(?!=)|(?<= )[-+*/%&|<>](?= ))",
    re.DOTALL,
)


@dataclass(frozen=True)
class Mutant:
    """An edit of one place."""

    path: str
    line: int
    kind: str
    start: int
    end: int
    before: str
    after: str

    def applied(self, text: str) -> str:
        """Return the file with the edit."""
        assert text[self.start : self.end] == self.before
        return text[: self.start] + self.after + text[self.end :]


def other_number(text: str) -> str:
    """Return a number near another, in the same notation."""
    digits = text.removesuffix("f")
    changed = str(int(digits) + 1) if digits.isdigit() else repr(float(digits) * 2 + 0.5)
    return changed + text[len(digits) :]


def edits(path: str, text: str) -> Iterator[Mutant]:
    """Yield every edit of a file that is code, and no type, text or comment."""
    skipped = list(_not_code(text)) if path.endswith(".py") else []

    def edit(kind: str, start: int, end: int, after: str) -> Mutant:
        return Mutant(path, text.count("\n", 0, start) + 1, kind, start, end, text[start:end], after)

    for found in re.finditer(r", mask=[^,()]+(?=[,)])", text) if path.endswith(".py") else ():
        yield edit("mask", *found.span(), "")
    pattern = _python_token() if path.endswith(".py") else _TOKEN
    for found in pattern.finditer(text):
        start, end = found.span()
        if found["skip"] or any(first <= start < last for first, last in skipped):
            continue
        if found["number"]:
            yield edit("constant", start, end, other_number(found["number"]))
            continue
        for kind, swaps in SWAPS.items():
            if found["symbol"] in swaps:
                yield edit(kind, start, end, swaps[found["symbol"]])


def _python_token() -> re.Pattern[str]:
    """Return the same for Python, whose comments begin otherwise and which has words for operators."""
    pattern = _TOKEN.pattern.replace(r"//[^\n]*|/\*.*?\*/|#\s*include[^\n]*", r"#[^\n]*")
    return re.compile(pattern.replace(r"(?P<symbol>", r"(?P<symbol>//|\b(?:and|or)\b|"), re.DOTALL)


def _not_code(text: str) -> Iterator[tuple[int, int]]:
    """Yield the stretches of Python that hold text or types."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in ast.walk(ast.parse(text)):
        texts = [node] if isinstance(node, ast.Constant | ast.JoinedStr) and not _is_number(node) else []
        types = [getattr(node, name, None) for name in ("annotation", "returns")]
        for part in (*texts, *types):
            if isinstance(part, ast.expr) and part.end_lineno is not None and part.end_col_offset is not None:
                yield starts[part.lineno - 1] + part.col_offset, starts[part.end_lineno - 1] + part.end_col_offset


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def draw(checkout: Path, seed: int, count: int) -> list[Mutant]:
    """Return so many edits of the package: a room, then a kind, then a place, each with the same chance."""
    chance, drawn = random.Random(seed), []
    package = checkout / "operant_gpu"
    sites: dict[tuple[str, str], list[Mutant]] = {}
    for room, endings in ROOMS:
        for path in sorted((package / room).rglob("*")):
            if path.name.endswith(endings):
                for one in edits(str(path.relative_to(checkout)), path.read_text(encoding="utf-8")):
                    sites.setdefault((room, one.kind), []).append(one)
    while len(drawn) < count:
        places = sites.get((chance.choice(ROOMS)[0], chance.choice(KINDS)), [])
        if places and (one := chance.choice(places)) not in drawn:
            drawn.append(one)
    return drawn


def passes(path: str) -> Iterator[tuple[str, str, bool]]:
    """Yield tests, which of them by their marks, and whether in Triton's interpreter: those that tell most first."""
    inside = path.removeprefix("operant_gpu/")
    nearest = next(tests for start, tests in NEAREST.items() if inside.startswith(start))
    if "/triton" not in path:
        yield "tests", "quick and not thorough", False
        yield nearest, "not quick and not thorough", False
        return
    yield nearest, "triton and quick", True
    yield "tests/kernels tests/verification", "not thorough", False
    yield nearest, "triton and not quick", True


def judge(checkout: Path, mutant: Mutant, seconds: float) -> str:
    """Return "caught" with the test that failed, "survived" the tests, or "survived so far" for want of time."""
    path, end = checkout / mutant.path, time.monotonic() + seconds
    original = path.read_text(encoding="utf-8")
    path.write_text(mutant.applied(original), encoding="utf-8")
    try:
        for tests, marks, is_interpreted in passes(mutant.path):
            if found := caught(checkout, tests, marks, is_interpreted, end - time.monotonic()):
                return found
        return "survived"
    except subprocess.TimeoutExpired:
        return "survived so far"
    finally:
        path.write_text(original, encoding="utf-8")


def caught(checkout: Path, tests: str, marks: str, is_interpreted: bool, seconds: float) -> str:
    """Return which test failed, or nothing.

    Raises:
        subprocess.TimeoutExpired: If none has after so many seconds.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-n", "2", "--dist", "worksteal"]
    variables = {**os.environ, "PYTHONPATH": str(checkout)} | ({"TRITON_INTERPRET": "1"} if is_interpreted else {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command += ["-m", marks, *tests.split()]
    process = subprocess.Popen(command, cwd=checkout, env=variables, start_new_session=True, **pipes)
    try:
        output = process.communicate(timeout=max(0.0, seconds))[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    failed = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", output, re.MULTILINE)
    if failed:
        return f"caught by {failed[1]}"
    # 5 says that there were no tests.
    return "" if process.returncode in (0, 5) else "caught"


def main() -> None:
    """Draw, judge and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--seed", type=int, default=24)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--list", action="store_true", help="draw and tell, and judge none")
    given = parser.parse_args()
    checkout = given.checkout.resolve()
    told = []
    for number, mutant in enumerate(draw(checkout, given.seed, given.count)):
        line = (checkout / mutant.path).read_text(encoding="utf-8").splitlines()[mutant.line - 1].strip()
        found = "" if given.list else judge(checkout, mutant, given.seconds)
        print(
            f"{number}: {mutant.path}:{mutant.line} {mutant.before!r} -> {mutant.after!r}: {found}\n    {line}",
            flush=True,
        )
        told.append({**asdict(mutant), "text": line, "found": found})
    print(json.dumps(told))


if __name__ == "__main__":
    main()
