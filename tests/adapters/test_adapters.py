"""Adapters are listed, are imported when they are asked for, and say what to install."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import version

import pytest
from here import ROOT
from trainers import TRAINERS

import operant_gpu.adapters
from operant_gpu import BackendError
from operant_gpu.adapters import ADAPTERS


@pytest.mark.quick
def test_the_list_has_each_module_of_the_package() -> None:
    files = {path.stem for path in (ROOT / "operant_gpu" / "adapters").glob("*.py")}
    assert files - {"__init__", "common"} == set(ADAPTERS) == {*TRAINERS, "single"}


@pytest.mark.quick
@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_that_is_missing_is_named_with_the_command_to_install_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [one for one in sys.modules if one.partition(".")[0] == TRAINERS[name]]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, TRAINERS[name], None)  # type: ignore[arg-type]
    whole = f"operant_gpu.adapters.{name}"
    monkeypatch.delitem(sys.modules, whole, raising=False)
    monkeypatch.delattr(operant_gpu.adapters, name, raising=False)
    distribution = next(iter(ADAPTERS[name].tried))
    with pytest.raises(BackendError, match=rf"^{whole} needs {distribution} \(.+\): pip install {distribution}$"):
        importlib.import_module(whole)


@pytest.mark.quick
def test_no_trainer_is_imported_until_it_is_asked_for() -> None:
    program = "import sys, operant_gpu, operant_gpu.adapters; print([n for n in sys.argv[1:] if n in sys.modules])"
    command = [sys.executable, "-c", program, *TRAINERS.values(), "tensordict", "operant_gpu.adapters.single"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.adapters
@pytest.mark.parametrize("name", ADAPTERS)
def test_the_versions_that_were_tried_are_those_here(name: str) -> None:
    assert {distribution: version(distribution) for distribution in ADAPTERS[name].tried} == ADAPTERS[name].tried
    module = importlib.import_module(f"operant_gpu.adapters.{name}")
    assert getattr(module, ADAPTERS[name].name).__module__ == module.__name__
