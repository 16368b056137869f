"""Show a notebook as a page of the site.

The notebook keeps its outputs. After a change:
`jupyter nbconvert --to notebook --execute --inplace examples/quickstart.ipynb`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"
PAGE, PLACE = "notebook.md", "<!-- The notebook's cells stand here. -->"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Show the cells on their page."""
    if page.file.src_uri != PAGE:
        return markdown
    return markdown.replace(PLACE, "\n\n".join(shown(json.loads(NOTEBOOK.read_text()))))


def shown(notebook: dict[str, Any]) -> list[str]:
    """Return a notebook's cells and outputs as Markdown, with headings one level down."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"^#", "##", source, flags=re.MULTILINE))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            picture = output.get("data", {}).get("image/png")
            if picture is None:
                parts.append(f"```text\n{''.join(output['text'])}```")
            else:
                parts.append(f"![What the cell draws](data:image/png;base64,{''.join(picture).strip()})")
    return parts
