"""Every Python block of the README and the guide runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["README.md", "docs/custom_environments.md", "docs/training.md"])
def test_the_python_blocks_of_a_page_run_one_after_the_other(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    # In a file: environment functions are read from their source.
    program = tmp_path / "page.py"
    program.write_text("\n\n".join(blocks))
    finished = subprocess.run([sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
