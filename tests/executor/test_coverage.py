"""The executor knows every instruction that Triton makes of the library's kernels."""

from __future__ import annotations

from typing import Any

import pytest
from executed import executed

ALL = ("steps", "rollouts", "arrays", "networks", "updates")
OTHERS = ("steps", "rollouts", "snake", "networks", "updates")


@pytest.mark.parametrize(
    ("target", "kinds"),
    [
        pytest.param("90", ["steps"], id="steps on sm_90", marks=pytest.mark.quick),
        pytest.param("80", ALL, id="all on sm_80", marks=pytest.mark.thorough),
        pytest.param("90", ALL, id="all on sm_90", marks=pytest.mark.thorough),
        # Those that `test_compile.py` compiles too.
        pytest.param("120", OTHERS, id="most on sm_120", marks=pytest.mark.thorough),
    ],
)
def test_every_instruction_is_known(target: str, kinds: list[str], record_property: Any) -> None:
    found = executed("forms.py", target, *kinds)
    count = f"{len(found['forms'])} forms of instructions in {found['kernels']} kernels"
    record_property("summary", f"{count} ({', '.join(kinds)}) for sm_{target}")
    assert found["refused"] == {}
    assert ("wgmma.fence.sync.aligned" in found["forms"]) == (target == "90" and "networks" in kinds)
