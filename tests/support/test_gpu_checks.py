"""What keeps tests on a GPU apart, tried where there is none: PyTorch's functions are replaced."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from contract_envs import assert_same_tensors, ulps_apart
from gpu_checks import no_synchronisation
from here import SUPPORT

pytest_plugins = ["pytester"]


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The mode that PyTorch is in, last; each time it is set, PyTorch warns after that, as its first time."""
    modes: list[Any] = [1]

    def set_mode(mode: Any) -> None:
        modes.append(mode)
        warnings.warn("Synchronization debug mode is a prototype feature", UserWarning, stacklevel=1)

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    return modes


@pytest.mark.filterwarnings("error")
def test_synchronisation_is_an_error_meanwhile_and_then_what_it_was(mode: list[Any]) -> None:
    with no_synchronisation():
        assert mode[-1] == "error"
    assert mode[-1] == 1
    with pytest.raises(ZeroDivisionError), no_synchronisation():
        _ = 1 / 0
    assert mode[-1] == 1


def test_units_in_the_last_place_are_counted_across_powers_of_two_and_zero() -> None:
    inf, nan, tiny = torch.inf, torch.nan, 2.0**-149
    one = torch.tensor([1.0, 1.0, -1.0, 0.0, nan, inf, tiny])
    other = torch.tensor([1.0 + 2.0**-22, 1.0 - 2.0**-24, -1.0 - 2.0**-23, -0.0, nan, inf, 0.0])
    assert ulps_apart(one, other).tolist() == [2, 1, 1, 0, 0, 0, 1]
    assert ulps_apart(one.double(), other.double())[:3].tolist() == [2**30, 2**29, 2**29]
    far = ulps_apart(torch.tensor([1.0, -1.0, inf]), torch.tensor([nan, 1.0, -inf]))
    assert (far > 2**40).all()


def test_a_difference_is_told_with_its_tensor_shape_count_and_place() -> None:
    expected = {"reward": torch.ones(2, 3), "done": torch.zeros(4, dtype=torch.bool)}
    found = {name: tensor.clone() for name, tensor in expected.items()}
    assert_same_tensors(found, expected)
    found["reward"][1, 2] += 2.0**-22
    found["reward"][0, 1] += 2.0**-23
    assert_same_tensors(found, expected, ulps=2)
    assert_same_tensors(found, expected, atol=1e-6)
    found["done"][3] = True
    with pytest.raises(AssertionError) as raised:
        assert_same_tensors(found, expected, ulps=1)
    assert str(raised.value).splitlines()[:2] == [
        "reward (2, 3) differs in 1 of 6 entries: 1 ulps or 0 are allowed; most at (1, 2): got 1.000000238418579, "
        "expected 1.0, 2 ulps apart",
        "done (4,) differs in 1 of 4 entries; most at (3,): got True, expected False",
    ]
    with pytest.raises(AssertionError, match=r"reward is torch.float32 \(2, 3\), expected torch.float64 \(2, 3\)"):
        assert_same_tensors({"reward": expected["reward"]}, {"reward": expected["reward"].double()})
    with pytest.raises(AssertionError, match=r"got nan, expected 1\.0"):
        assert_same_tensors({"reward": expected["reward"] * torch.nan}, {"reward": expected["reward"]}, 9, 1.0)


# A GPU that a test can ruin: from then on every answer is an error.
CONFTEST = f"""
import sys
import types
import pytest
sys.path.insert(0, {str(SUPPORT)!r})
import torch
import gpu_isolation

ruined = []

def synchronize():
    if ruined:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

answers = dict(
    is_available=lambda: True, synchronize=synchronize, current_device=lambda: 0, current_stream=lambda: None,
    set_device=lambda device: None, set_stream=lambda stream: None,
)
for name, answer in answers.items():
    setattr(torch.cuda, name, answer)

def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs one")
    config.addinivalue_line("markers", "apart: by itself")
    config.pluginmanager.register(gpu_isolation)
"""
TESTS = """
import os
import conftest
import pytest
import torch

pytestmark = pytest.mark.gpu
{body}
"""


def outcomes(pytester: pytest.Pytester, body: str, *options: str) -> pytest.RunResult:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS.format(body=body))
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)


RUINS = """
@pytest.mark.parametrize("number", range(6))
def test_one(number):
    if number == 2:
        conftest.ruined.append(True)
    assert not (number > 2 and conftest.ruined)
"""


@pytest.mark.thorough
def test_a_ruined_process_is_replaced_and_no_other_test_fails(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    result = outcomes(pytester, RUINS, "-n", "1")
    assert result.parseoutcomes()["passed"] >= 5, result.stdout.str()
    told = {line.split()[1].rpartition("::")[2] for line in result.outlines if line.startswith(("FAILED ", "ERROR "))}
    assert told == {"test_one[2]"}
    result.stdout.fnmatch_lines(["*worker 'gw0' crashed*"])


@pytest.mark.thorough
def test_without_workers_a_ruined_process_ends_and_says_after_what(pytester: pytest.Pytester) -> None:
    result = outcomes(pytester, RUINS)
    assert result.parseoutcomes() == {"passed": 3, "errors": 1}
    result.stdout.fnmatch_lines(["*after *test_one[[]2] CUDA gives CUDA error: an illegal memory access*"])


@pytest.mark.thorough
def test_what_a_test_sets_is_set_back(pytester: pytest.Pytester) -> None:
    body = """
def test_one():
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    assert False

def test_other():
    assert torch.zeros(1).dtype == torch.float32
    assert torch.zeros(1).device.type == "cpu"
    assert torch.is_grad_enabled()
"""
    outcomes(pytester, body).assert_outcomes(failed=1, passed=1)


@pytest.mark.thorough
def test_a_test_apart_has_a_process_of_its_own(pytester: pytest.Pytester) -> None:
    body = """
seen = []

@pytest.mark.apart
@pytest.mark.parametrize("right", [True, False])
def test_one(right):
    assert os.environ["OPERANT_GPU_TEST_APART"] == "1"
    seen.append(right)
    assert right, "what is said there"

def test_other():
    assert not seen
"""
    result = outcomes(pytester, body)
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(["*what is said there*"])
