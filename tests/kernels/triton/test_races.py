"""Compiled kernels whose warps share environments, with a detector of races: see `races.py`."""

from __future__ import annotations

import pytest
from executed import executed
from here import EXECUTED

from operant_gpu import AutoresetMode


@pytest.mark.quick
@pytest.mark.skipif(not EXECUTED, reason="runs on compiled kernels")
def test_threads_of_triton_that_share_environments_do_not_race() -> None:
    from races import compare_board

    compare_board(33, AutoresetMode.DISABLED)


@pytest.mark.thorough
def test_warps_that_share_environments_do_not_race() -> None:
    """In a random order of warps."""
    # A network, and boards; `make gpu-check` has those of more sizes.
    launches = executed("races.py", "0", "1", "17", "200")
    assert launches.keys() == {"step_kernel", "reset_kernel", "rollout_kernel", "draw_kernel"}
