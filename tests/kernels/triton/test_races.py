"""Compiled kernels in a random order of warps, with a detector of races: see `races.py`."""

from __future__ import annotations

import pytest
from executed import executed


@pytest.mark.thorough
def test_warps_that_share_environments_do_not_race() -> None:
    # A network; as many threads as rows; more threads.
    launches = executed("races.py", "0", "16", "100")
    assert launches.keys() == {"step_kernel", "reset_kernel", "rollout_kernel", "draw_kernel"}
