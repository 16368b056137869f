"""Fifty steps of every environment of the library in every mode, as digests that two processes can compare."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

import operant_gpu

# Not all that are registered: other tests register their own.
SHIPPED = [one.id for name in operant_gpu.envs.__all__ if hasattr(one := getattr(operant_gpu.envs, name), "id")]


def digests() -> dict[str, str]:
    """Return a digest of each run by "<id> <mode>"."""
    return {f"{name} {mode.name}": digest(name, mode) for name in SHIPPED for mode in AutoresetMode}


def digest(name: str, mode: AutoresetMode) -> str:
    backend = "cpp" if name.startswith("MinAtar") else "numpy"
    env = operant_gpu.make(name, 24, device="cpu", backend=backend, autoreset_mode=mode, max_episode_steps=20)
    env.action_space.seed(3)
    total = hashlib.sha256(env.reset(seed=7)[0].numpy().tobytes())
    for _ in range(50):
        obs, reward, terminated, truncated, info = env.step(torch.as_tensor(env.action_space.sample()))
        for part in (obs, reward, terminated, truncated, info["final_obs"]):
            total.update(np.ascontiguousarray(part.numpy()).tobytes())
        if mode is AutoresetMode.DISABLED:
            env.reset(options={"reset_mask": terminated | truncated})
    return total.hexdigest()
