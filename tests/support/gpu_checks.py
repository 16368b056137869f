"""What tests on a GPU share: what they need there, no waiting, no allocation, capture in a graph, compilations."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from contract_envs import CUDA_MAKERS, EVERY_MAKER, modes_of

from operant_gpu import BackendError, VecEnv

# Fills no block of environments.
NUM_ENVS = 1_061
# What a test needs beyond kernels; `ptx_executor/pytest_plugin.py` lists what the executor has not.
needs = pytest.mark.needs
every_environment = pytest.mark.parametrize("name", EVERY_MAKER)
every_environment_in_modes = pytest.mark.parametrize(
    ("name", "mode"),
    [pytest.param(name, mode, id=f"{name}-{mode.name.lower()}") for name in EVERY_MAKER for mode in modes_of(name)],
)


def reference_of(name: str, num_envs: int, **settings: Any) -> VecEnv:
    """Return environments on the CPU, in the plainest backend there is for them."""
    backend = "cpp" if name in CUDA_MAKERS else "numpy"
    try:
        return EVERY_MAKER[name](num_envs, device="cpu", backend=backend, **settings)
    except BackendError as error:
        pytest.skip(f"nothing to compare with on this CPU: {error}")


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """Make every wait for the device an error."""
    before = torch.cuda.get_sync_debug_mode()
    try:
        _set_sync_debug_mode("error")
        yield
    finally:
        _set_sync_debug_mode(before)


def _set_sync_debug_mode(mode: int | str) -> None:
    with warnings.catch_warnings():
        # PyTorch warns that this is a prototype, which the tests' filter makes an error: after the mode was set.
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode(mode)


@contextmanager
def no_allocation() -> Iterator[None]:
    """Assert that PyTorch takes no memory of the device meanwhile."""
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    yield
    taken = torch.cuda.memory_stats()["allocation.all.allocated"] - before
    assert taken == 0, f"memory was allocated {taken} times, expected none"


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Collect the names of the kernels that Triton loads meanwhile: those it compiles, or has on disk.

    Its hooks around compilation itself fail, since they write down constants as JSON, which classes cannot be.
    """
    from triton import knobs

    names: list[str] = []

    def note(module: Any, function: Any, name: str, metadata: Any, digest: str) -> None:
        names.append(name)

    knobs.runtime.kernel_load_end_hook.add(note)
    try:
        yield names
    finally:
        knobs.runtime.kernel_load_end_hook.remove(note)
