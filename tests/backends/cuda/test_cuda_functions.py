"""CUDA's functions mean the same on a CPU: of floats what they are of floats there, not of doubles or integers."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from contract_envs import make_cpu


def leading_zeros(bits: int, width: int) -> int:
    return width - bits.bit_length()


def first_set(bits: int) -> int:
    return (bits & -bits).bit_length()


def expected(x: np.float32, wide: float, bits: int) -> list[float]:
    low = bits & 0xFFFFFFFF
    return [
        abs(x), np.sin(x), np.exp(x), np.floor(x), np.exp2(x), np.fmod(x, np.float32(0.75)), np.sqrt(abs(x)),
        min(x, 0.5), max(x, -0.5), max(wide, 0.25), min(wide, -0.25), max(bits, 1 << 40), min(low, 1 << 31),
        abs(int(x * np.float32(100))), 2.0 if x > 0 else 0.5, bits.bit_count(), leading_zeros(bits, 64),
        first_set(bits), low.bit_count(), leading_zeros(low, 32), first_set(low), low >> 1,
    ]  # fmt: skip


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_functions_are_those_of_cuda(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    monkeypatch.setenv("CXX", compiler)
    env = make_cpu("CudaFunctions-v0", 500, "cpp")
    obs, _ = env.reset(seed=3)
    rows = zip(env.state.x.numpy(), env.state.wide.tolist(), env.state.bits.tolist(), strict=True)
    np.testing.assert_allclose(obs.numpy(), [expected(*row) for row in rows], rtol=1e-6)
    reward = env.step(np.zeros(500, np.int64))[1]
    assert np.array_equal(reward.numpy(), abs(env.state.x.numpy()))
