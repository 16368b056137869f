"""Learners in files: written whole or not at all, read without running what is in them."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from operant_gpu.errors import InvalidConfig
from operant_gpu.models.config import PPOConfig
from operant_gpu.registry import make

if TYPE_CHECKING:
    from operant_gpu.models.ppo import PPO
    from operant_gpu.models.rnd import IntrinsicReward
    from operant_gpu.vector import VecEnv

_FORMAT = 2
_NAME = "step-{:012d}.pt"


def write(path: str | os.PathLike[str], learner: PPO) -> None:
    """Write a learner to a file, whole or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    torch.save(
        {
            "format": _FORMAT,
            "env": learner.env.environment.id,
            "params": learner.env.params._asdict(),
            "config": asdict(learner.config),
            "network": _name(learner.policy.network),
            "timesteps": learner.timesteps,
            "iterations": learner.iterations,
            **{part: module.state_dict() for part, module in _parts(learner).items()},
        },
        partial,
    )
    partial.replace(target)


def write_newest(folder: str | os.PathLike[str], learner: PPO, keep: int) -> None:
    """Write a learner to a folder, and remove all but the newest checkpoints there."""
    write(Path(folder) / _NAME.format(learner.timesteps), learner)
    for old in sorted(Path(folder).glob(_NAME.replace("{:012d}", "*")))[:-keep]:
        old.unlink()


def read(
    path: str | os.PathLike[str],
    kind: type[PPO],
    env: VecEnv | None,
    network: nn.Module | None,
    intrinsic: IntrinsicReward | None,
) -> PPO:
    """Return the learner that `write` wrote; arguments as for `PPO.load`."""
    saved = _read(path)
    env = env or make(saved["env"], 1, **saved["params"])
    learner = kind(env, PPOConfig(**saved["config"]), network=network, intrinsic=intrinsic)
    if _name(learner.policy.network) != saved["network"]:
        message = f"{os.fspath(path)!r} holds a {saved['network']}, got {_name(learner.policy.network)}: pass network="
        raise InvalidConfig("network", message)
    try:
        for part, module in _parts(learner).items():
            module.load_state_dict(saved[part])
    except (KeyError, RuntimeError, ValueError) as error:
        message = f"the policy in {os.fspath(path)}, of {saved['env']}, does not fit {env}: {error}"
        raise InvalidConfig("path", message) from error
    learner.timesteps, learner.iterations = saved["timesteps"], saved["iterations"]
    return learner


def _parts(learner: PPO) -> dict[str, Any]:
    """Return what has a state, by its name in the file."""
    names = ("policy", "optimizer", "reward_normalizer", "intrinsic")
    return {name: getattr(learner, name) for name in names if getattr(learner, name) is not None}


def _name(network: nn.Module) -> str:
    return type(network).__name__


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InvalidConfig("path", f"there is no file {os.fspath(path)!r}") from None
    except Exception as error:
        raise InvalidConfig("path", f"{os.fspath(path)!r} is not a checkpoint of PPO: {error}") from error
    if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
        raise InvalidConfig("path", f"{os.fspath(path)!r} is not a checkpoint of PPO in format {_FORMAT}")
    return saved
