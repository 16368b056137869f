"""The examples run, and a new environment stays as short as the guide says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).parent.parent / "examples"
MAX_LINES = 45


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_custom_environment_trains() -> None:
    assert load("custom_environment").main(200_000) >= 0.9


def test_a_new_environment_takes_at_most_45_lines_of_code() -> None:
    source = (EXAMPLES / "custom_environment.py").read_text()
    environment = source.split('"""')[2].split("# ---")[0]
    lines = [line.strip() for line in environment.splitlines()]
    # The learner is imported for the part below.
    code = [line for line in lines if line and not line.startswith("#") and "operant_gpu.models" not in line]
    assert 20 < len(code) <= MAX_LINES
