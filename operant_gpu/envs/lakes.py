"""Maps of FrozenLake: of text the tables of the environment, and what makes sense of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from operant_gpu.errors import InvalidConfig
from operant_gpu.tables import are_texts

# Those of Gymnasium.
SMALL = ["SFFF", "FHFH", "FFFH", "HFFG"]
LARGE = ["SFFFFFFF", "FFFFFFFF", "FFFHFFFF", "FFFFFHFF", "FFFHFFFF", "FHHFFFHF", "FHFFHFHF", "FFFHFFFG"]


def frozen_lake_map(desc: Sequence[str]) -> dict[str, Any]:
    """Return the tables of a map, to make environments with: `make("FrozenLake-v1", **frozen_lake_map(["SH", "FG"]))`.

    Args:
        desc: Its rows, of the letters S, F, H and G. Each episode starts from one of the S.

    Raises:
        InvalidConfig: If it is something else, or has no S.
    """
    if not are_texts(desc) or "S" not in "".join(desc):
        raise InvalidConfig("desc", f"expected rows of text with at least one S, such as ['SF', 'FG'], got {desc!r}")
    return {"desc": desc, "starts": [cell for cell, letter in enumerate("".join(desc)) if letter == "S"]}


def check_lake(params: Any, tables: Any) -> None:
    """Raise `InvalidConfig` for parameters or tables that make no lake."""
    if not 0 <= params.success_rate <= 1:
        raise InvalidConfig("success_rate", f"expected a number from 0 to 1, got {params.success_rate}")
    if unknown := set(tables.desc.tobytes()) - set(b"SFHG"):
        raise InvalidConfig("desc", f"expected the letters S, F, H and G, got {bytes(sorted(unknown)).decode()!r}")
    starts = np.flatnonzero(tables.desc == ord("S")).tolist()
    if set(tables.starts.tolist()) != set(starts):
        message = f"expected the cells that are S, {starts}, got {tables.starts.tolist()}"
        raise InvalidConfig("starts", f"{message}: give both tables, as `frozen_lake_map` makes them")
