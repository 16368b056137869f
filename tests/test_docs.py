"""Every Python block of the README and the guide runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


PAGES = ["README.md", "docs/cuda_environments.md", "docs/custom_environments.md", "docs/training.md"]
CATCH = ROOT / "examples" / "catch.cu"


@pytest.mark.parametrize("page", PAGES)
def test_the_python_blocks_of_a_page_run_one_after_the_other(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    # In a file: environment functions are read from their source.
    program = tmp_path / "page.py"
    program.write_text("\n\n".join(blocks))
    shutil.copy(CATCH, tmp_path)
    finished = subprocess.run([sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_the_guide_shows_the_example_in_full() -> None:
    source = CATCH.read_text()
    assert f"```cpp\n{source}```" in (ROOT / "docs" / "cuda_environments.md").read_text()
    lines = [line for line in source.splitlines() if line.strip() and not line.strip().startswith("//")]
    assert len(lines) == 36, "as the guide says"
