"""The recipe for rl_games on its page: what it returns is what Gymnasium's environments do."""

from __future__ import annotations

import re
from typing import Any

import counters
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from here import ROOT

import operant_gpu

pytest.importorskip("rl_games")

# rl_games' own, when it is imported.
pytestmark = [pytest.mark.adapters, pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")]


@pytest.fixture
def page() -> dict[str, Any]:
    """The names that the page's two classes are defined with."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/migration/rl_games.md").read_text(), re.DOTALL | re.M)
    names: dict[str, Any] = {}
    for block in blocks[:2]:
        exec(block, names)
    return names


def test_steps_are_those_of_gymnasiums_environments(page: dict[str, Any]) -> None:
    operant_gpu.register(counters.Tally)
    own = page["RlGamesVecEnv"]("operant", 3, "Tally-v0", end=torch.tensor(counters.ENDS), device="cpu", seed=1)
    peer = page["GymnasiumVecEnv"].__new__(page["GymnasiumVecEnv"])
    peer.env = SyncVectorEnv(counters.peers("Tally-v0"), autoreset_mode=AutoresetMode.SAME_STEP)
    np.testing.assert_array_equal(own.reset(), peer.reset())
    for actions in counters.choices("Tally-v0", 12):
        result, expected = own.step(torch.from_numpy(actions) + 5), peer.step(actions)
        for one, other in zip(result[:3], expected[:3], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)
        np.testing.assert_array_equal(result[3]["time_outs"], expected[3]["time_outs"])


def test_masks_are_those_of_the_environment(page: dict[str, Any]) -> None:
    own = page["RlGamesVecEnv"]("operant", 2, "Game2048-v0", device="cpu")
    own.reset()
    assert own.get_action_masks().shape == (2, 4)
