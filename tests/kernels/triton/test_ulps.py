"""How far compiled kernels are from NumPy: draws and integers are equal, floats within units in the last place."""

from __future__ import annotations

import pytest
from executed import executed

# As docs/performance.md says: as exact as float32 can be, and with any errors that the ISA allows a GPU.
MAX_ULPS, MAX_ULPS_OF_A_GPU = 1.1, 2.5


# Those whose numbers go through functions that a GPU has of its own.
OTHERS = ("Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1", "Snake-v0")


@pytest.mark.parametrize(
    ("capability", "names"),
    [
        ("80", ("CartPole-v1", "Drift-v0")),
        pytest.param("80", OTHERS, marks=pytest.mark.thorough),
        pytest.param("90", ("CartPole-v1", "Drift-v0"), marks=pytest.mark.thorough),
    ],
    ids=["sm_80", "others on sm_80", "sm_90"],
)
def test_a_step_is_that_of_numpy_to_the_last_bits(capability: str, names: tuple[str, ...]) -> None:
    table = executed("ulps.py", capability, *names)
    assert table.keys() == set(names)
    for name, (exact, moved, others) in table.items():
        assert exact <= MAX_ULPS, name
        assert moved <= MAX_ULPS_OF_A_GPU, name
        assert others == 0, name
