"""Learners in files: written whole or not at all, read without running what is in them."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
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
_KEYS = {
    "env",
    "num_envs",
    "params",
    "max_episode_steps",
    "config",
    "network",
    "timesteps",
    "iterations",
    "policy",
    "optimizer",
}


def check_writable(param: str, target: Path) -> None:
    """Make the file's folder and try to write there: better to know before training than after.

    Raises:
        InvalidConfig: If that is not possible, for the setting `param`.
    """
    if target.is_dir() or not target.name:
        raise InvalidConfig(param, f"expected a file to save the policy to, got the folder {str(target)!r}")
    partial = _partial(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise InvalidConfig(param, f"cannot write in the folder {str(target.parent)!r}: {error}") from error


def write(path: str | os.PathLike[str], learner: PPO) -> None:
    """Write a learner to a file, whole or not at all."""
    target = Path(path)
    check_writable("path", target)
    partial = _partial(target)
    torch.save(
        {
            "format": _FORMAT,
            "env": learner.env.environment.id,
            "num_envs": learner.env.num_envs,
            "params": learner.env.params._asdict(),
            "max_episode_steps": learner.env.max_episode_steps or -1,
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
    # By time, not by name: a run that begins anew in the folder has fewer steps than what the last one left.
    checkpoints = sorted(Path(folder).glob(_NAME.replace("{:012d}", "*")), key=lambda path: path.stat().st_mtime_ns)
    for old in checkpoints[:-keep]:
        old.unlink()


def read(
    path: str | os.PathLike[str],
    kind: type[PPO],
    env: VecEnv | None,
    config: PPOConfig | None,
    network: nn.Module | None,
    intrinsic: IntrinsicReward | None,
) -> PPO:
    """Return the learner that `write` wrote; arguments as for `PPO.load`."""
    saved = _read(path)
    absent = sorted(_KEYS - saved.keys())
    if absent:
        raise InvalidConfig("path", f"{os.fspath(path)!r} is damaged: it lacks {', '.join(absent)}")
    limit = saved["max_episode_steps"]
    env = env or make(saved["env"], saved["num_envs"], max_episode_steps=limit, **saved["params"])
    learner = kind(env, config or _fitting(saved["config"], env), network=network, intrinsic=intrinsic)
    if _name(learner.policy.network) != saved["network"]:
        message = f"{os.fspath(path)!r} holds a {saved['network']}, got {_name(learner.policy.network)}: give network="
        raise InvalidConfig("network", message)
    missing = {"reward_normalizer", "intrinsic"} & saved.keys() - _parts(learner).keys()
    if missing:
        message = f"{os.fspath(path)!r} was trained with an intrinsic reward or other scaling: give the same"
        raise InvalidConfig(missing.pop(), message)
    try:
        for part, module in _parts(learner).items():
            module.load_state_dict(saved[part])
    except (KeyError, RuntimeError, ValueError) as error:
        message = f"the policy in {os.fspath(path)}, of {saved['env']}, does not fit {env}: {error}"
        raise InvalidConfig("path", message) from error
    learner.timesteps, learner.iterations = saved["timesteps"], saved["iterations"]
    learner._telemetry.faults.resume(learner.iterations)
    return learner


def _fitting(saved: dict[str, Any], env: VecEnv) -> PPOConfig:
    """Return the saved settings; a run on a GPU goes on elsewhere."""
    config = PPOConfig(**saved)
    # "eager" can be had everywhere.
    is_at_home = env.device.type == "cuda" or config.engine == "eager"
    return config if is_at_home else replace(config, engine="auto")


def _parts(learner: PPO) -> dict[str, Any]:
    """Return what has a state, by its name in the file."""
    names = ("policy", "optimizer", "reward_normalizer", "intrinsic")
    return {name: getattr(learner, name) for name in names if getattr(learner, name) is not None}


def _partial(target: Path) -> Path:
    return target.with_name(target.name + ".partial")


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
