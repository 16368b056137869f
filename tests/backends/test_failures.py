"""Kernels that a card does not take: one error, which says what, where, with which versions, and the way round."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
from executed import executed

from operant_gpu import BackendError
from operant_gpu.registry import find


def test_a_kernel_that_triton_refuses_is_named_with_card_versions_and_way_round() -> None:
    said = executed("refused.py")
    assert [cause for _, cause in said] == ["OutOfResources"] * 2
    expected = {"reset_kernel": "use device='cpu'", "advantages_kernel": "set engine='graph' or engine='eager'"}
    for (text, _), (kernel, way_round) in zip(said, expected.items(), strict=True):
        assert text.startswith(f"{kernel} does not compile or run on PTX executor, sm_80 (")
        assert f"triton {triton.__version__}" in text
        assert "shared memory, Required: 200000" in text
        assert way_round in text
        assert "doctor --verify" in text


def test_cuda_that_the_driver_does_not_load_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = pytest.importorskip("cupy", reason="the backend needs CuPy")
    from operant_gpu.backends.cuda import backend as cuda

    class Module:
        def load(self, file: bytes) -> None:
            assert file.startswith(b"\x7fELF")
            raise RuntimeError("CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image")

    monkeypatch.setattr(cupy.cuda.function, "Module", Module)
    monkeypatch.setattr(cupy.cuda, "Device", lambda index: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(cuda.CudaSourceBackend, "__init__", lambda self, batch: None)
    definition: Any = find("MinAtar-Breakout-v1")
    columns = SimpleNamespace(seed=torch.zeros(4), outside=None)
    given = {"environment": definition, "params": definition.make_params({}), "tables": {}}
    batch: Any = SimpleNamespace(**given, columns=columns, num_envs=4)
    with pytest.raises(
        BackendError, match=r"MinAtar-Breakout-v1 does not compile or run .*NO_BINARY_FOR_GPU.*backend='cpp'"
    ) as caught:
        cuda.CudaBackend(batch)
    assert isinstance(caught.value.__cause__, RuntimeError)
