"""The author's file of a CudaEnvironment, before a compiler sees it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from operant_gpu.cuda_environment import CudaEnvironment
from operant_gpu.errors import InvalidConfig

_SIGNATURES = {
    "reset": "State reset(Rng rng, Params params)",
    "step": "Outcome step(State& state, Action action, Rng rng, Params params)",
    "observe": "void observe(const State& state, Params params, Observation obs)",
    "is_legal": "bool is_legal(const State& state, int choice, Params params)",
}
_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"\n]+)"', re.MULTILINE)
_INCLUDE_BY_MACRO = re.compile(r"^\s*#\s*include\s*[A-Za-z_].*", re.MULTILINE)
# A comment, or a string, in which none begins.
_COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)


def signatures(environment: CudaEnvironment) -> dict[str, str]:
    """Return the declarations of the functions that the author writes, by name."""
    tables = "Params params, Tables tables" if environment.has_tables else "Params params"
    return {
        name: f"__device__ {declaration.replace('Params params', tables)}"
        for name, declaration in _SIGNATURES.items()
        if name != "is_legal" or environment.has_action_mask
    }


def read(path: Path) -> str:
    """Return the text of a file.

    Raises:
        InvalidConfig: If it cannot be read.
    """
    try:
        # With or without the mark that some editors put first.
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig("source", f"{path} cannot be read: {error}") from error


def check_functions(author: str, environment: CudaEnvironment) -> None:
    """Raise `InvalidConfig` if the author's code lacks a function, unless it includes other files."""
    code, expected = _without_comments(author), signatures(environment)
    missing = [name for name in expected if not re.search(rf"\b{name}\s*\(", code)]
    if missing and not _INCLUDE.search(code):
        listed = "\n".join(expected.values())
        raise InvalidConfig("source", f"{environment.source} does not define {', '.join(missing)}; expected", listed)


def digests(path: Path, code: str) -> str:
    """Return names and digests of the files that the author's file includes: compilers cache by the program's text."""
    found: dict[Path, str] = {}
    waiting = [(path, code)]
    while waiting:
        here, text = waiting.pop()
        found[here] = hashlib.sha256(text.encode()).hexdigest()[:16]
        text = _without_comments(text)
        if by_macro := _INCLUDE_BY_MACRO.search(text):
            line = by_macro[0].strip()
            raise InvalidConfig(
                "source", f"{here}: `{line}`: write the name of the file, whose changes are noticed then"
            )
        for name in _INCLUDE.findall(text):
            # Compilers look beside the file that includes, then beside the author's.
            included = next((file for folder in (here, path) if (file := folder.parent / name).is_file()), None)
            if included is not None and included.resolve() not in found:
                waiting.append((included.resolve(), read(included)))
    return ", ".join(f"{one.name} {digest}" for one, digest in found.items())


def _without_comments(code: str) -> str:
    return _COMMENT_OR_STRING.sub(lambda found: found[0] if found[0].startswith('"') else " ", code)
