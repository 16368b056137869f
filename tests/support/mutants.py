"""Edit single lines of the library, one at a time, and see whether the suite notices.

`python tests/support/mutants.py CHECKOUT --seed 24 --count 30 --seconds 90` edits files of a clean checkout on disk, so
that kernels, C++ and compiled programs change too, runs the quick tests and those that lie nearest to each edit until
the first fails, and undoes it. Equal seeds draw equal mutants from equal sources, whatever the tests are. The last line
is JSON.

A mutant is a comparison, an operator or a constant that is another one, or a mask that is left out. With `--gpu` it is
a fault of a kernel or of a launch, as `gpu_faults.py` lists them by kind, and the tests are those that run such code:
compiled and executed, with races, ahead of time, then interpreted.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from gpu_faults import FILES, faults
from gpu_faults import KINDS as GPU_KINDS

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
# How kernels run here, and the tests that tell most of faults in them.
_EXECUTED, _INTERPRETED = {"PTX_EXECUTE": "1"}, {"TRITON_INTERPRET": "1"}
_RACES = "tests/kernels/triton/test_races.py"
_LEARNERS = "tests/backends/test_update_kernels.py tests/kernels/triton/test_shuffle.py"
_AGREEMENT = f"{_RACES} tests/backends/test_contract_backends.py tests/vector/test_rollout_network.py"
_ROWS = "tests/backends/test_batch_sizes.py tests/vector/test_rollout_steps.py tests/vector/test_rollout_outputs.py"
_FUNCTIONS = "tests/test_random.py tests/test_arrays.py tests/test_sampling.py tests/backends/cpp"
_FAR = "tests/backends/test_far_memory.py"
_OTHERS = "tests/vector/test_action_masks.py tests/vector/test_autoreset.py tests/vector/test_rollout_random.py"
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


class Check(NamedTuple):
    """Tests, which of them by their marks, and what the environment sets for them."""

    name: str
    tests: str
    marks: str
    variables: Mapping[str, str] = MappingProxyType({})


# What may tell how a fault was found, in the order in which they are looked for.
_SIGNS = {
    "race": "RaceFault",
    "address": "MemoryFault",
    "compiler": "CompilationError|NVRTC|BackendError|InvalidConfig|IncompatibleTypeErrorImpl",
    "numbers": "AssertionError|assert ",
}


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


def draw_faults(checkout: Path, seed: int, count: int) -> list[Mutant]:
    """Return so many faults of code for GPUs: of each kind in turn, a file, then a place, each with the same chance."""
    chance, drawn = random.Random(seed), list[Mutant]()
    places: dict[str, dict[str, list[Mutant]]] = {kind: {} for kind in GPU_KINDS}
    for path in sorted(path for pattern in FILES for path in (checkout / "operant_gpu").glob(pattern)):
        name, text = str(path.relative_to(checkout)), path.read_text(encoding="utf-8")
        is_python = name.endswith(".py")
        comments = re.finditer(r"#[^\n]*" if is_python else r"//[^\n]*", text)
        skipped = [*(_not_code(text) if is_python else ()), *(found.span() for found in comments)]
        for kind, start, end, after in faults(name, text):
            if not any(first <= start < last for first, last in skipped):
                one = Mutant(name, text.count("\n", 0, start) + 1, kind, start, end, text[start:end], after)
                places[kind].setdefault(name, []).append(one)
    kinds = itertools.cycle(GPU_KINDS)
    while len(drawn) < count and any(places.values()):
        if files := places[next(kinds)]:
            name = chance.choice(sorted(files))
            drawn.append(files[name].pop(chance.randrange(len(files[name]))))
            if not files[name]:
                del files[name]
    return drawn


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


def checks(path: str) -> Iterator[Check]:
    """Yield what may notice an edit of a file: what tells most first."""
    inside = path.removeprefix("operant_gpu/")
    nearest = next(tests for start, tests in NEAREST.items() if inside.startswith(start))
    if "/triton" not in path:
        yield Check("suite", "tests", "quick and not thorough")
        yield Check("suite", nearest, "not quick and not thorough")
        return
    yield Check("interpreter", nearest, "triton and quick", _INTERPRETED)
    yield Check("suite", "tests/kernels tests/verification", "not thorough")
    yield Check("interpreter", nearest, "triton and not quick", _INTERPRETED)


def gpu_checks(path: str) -> Iterator[Check]:
    """Yield the same for faults of code for GPUs."""
    if path.endswith(("random.py", "philox.py", "sampling.py", "arrays.py")):
        yield Check("other backends", _FUNCTIONS, "not thorough")
        yield Check("executor", _FUNCTIONS, "triton", _EXECUTED)
    if "cuda" in path:
        yield Check("CUDA C++ executed", "tests/backends/cuda/test_cuda_executed.py", "not thorough")
        yield Check("CUDA C++ executed, far", _FAR, "not triton")
        yield Check("C++", "tests/backends tests/vector", "quick and not thorough")
        return
    is_learners = re.search(r"/(?:adam|advantages|gradient|objective|shuffle|update)\.py", path)
    nearest = _LEARNERS if is_learners else _AGREEMENT
    yield Check("executor", nearest, "triton and quick", _EXECUTED)
    yield Check("executor, far", _FAR, "triton", _EXECUTED)
    if is_learners:
        yield Check("executor", nearest, "triton and not quick", _EXECUTED)
        yield Check("suite", nearest, "not triton and not thorough")
    else:
        yield Check("suite", nearest, "quick and not thorough")
        yield Check("races", _RACES, "thorough")
        yield Check("executor", _ROWS, "triton", _EXECUTED)
        yield Check("executor", f"{nearest} {_OTHERS}", "triton and not quick", _EXECUTED)
    yield Check("interpreter", nearest, "triton", _INTERPRETED)
    yield Check("ahead of time", "tests/kernels", "not thorough")


def judge(checkout: Path, mutant: Mutant, checks: Iterable[Check], seconds: float, workers: int = 2) -> str:
    """Return "caught" with the test that failed, "survived" the tests, or "survived so far" for want of time."""
    path, end = checkout / mutant.path, time.monotonic() + seconds
    original = path.read_text(encoding="utf-8")
    path.write_text(mutant.applied(original), encoding="utf-8")
    try:
        for check in checks:
            if found := caught(checkout, check, workers, end - time.monotonic()):
                return found
        return "survived"
    except subprocess.TimeoutExpired:
        return "survived so far"
    finally:
        path.write_text(original, encoding="utf-8")


def caught(checkout: Path, check: Check, workers: int, seconds: float) -> str:
    """Return which check and test failed and how, or nothing.

    Raises:
        subprocess.TimeoutExpired: If none has after so many seconds.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-n", str(workers)]
    variables = {**os.environ, "PYTHONPATH": str(checkout), **check.variables}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command += ["--dist", "worksteal"] * (workers > 0) + ["-m", check.marks, *check.tests.split()]
    process = subprocess.Popen(command, cwd=checkout, env=variables, start_new_session=True, **pipes)
    try:
        output = process.communicate(timeout=max(0.0, seconds))[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    failed = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", output, re.MULTILINE)
    if failed:
        errors = "\n".join(re.findall(r"^E .*", output, re.MULTILINE))
        how = next((name for name, sign in _SIGNS.items() if re.search(sign, errors)), "error")
        return f"caught by {check.name} ({how}): {failed[1]}"
    # 5 says that there were no tests.
    return "" if process.returncode in (0, 5) else f"caught by {check.name}"


def main() -> None:
    """Draw, judge and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--seed", type=int, default=24)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--workers", type=int, default=2, help="processes that run tests; 0 for none beside pytest's")
    parser.add_argument("--gpu", action="store_true", help="plant faults of code for GPUs")
    parser.add_argument("--list", action="store_true", help="draw and tell, and judge none")
    given = parser.parse_args()
    checkout = given.checkout.resolve()
    draw_some, checks_of = (draw_faults, gpu_checks) if given.gpu else (draw, checks)
    told = []
    for number, mutant in enumerate(draw_some(checkout, given.seed, given.count)):
        line = (checkout / mutant.path).read_text(encoding="utf-8").splitlines()[mutant.line - 1].strip()
        of_path, begin = checks_of(mutant.path), time.monotonic()
        found = "" if given.list else judge(checkout, mutant, of_path, given.seconds, given.workers)
        taken = round(time.monotonic() - begin)
        print(
            f"{number}: {mutant.path}:{mutant.line} {mutant.kind} {mutant.before!r} -> {mutant.after!r}: {found}"
            f" {taken} s\n    {line}",
            flush=True,
        )
        told.append({**asdict(mutant), "text": line, "found": found, "seconds": taken})
    print(json.dumps(told))


if __name__ == "__main__":
    main()
