"""Learners in files: archives (`archives.py`) that are written whole or not at all."""

from __future__ import annotations

import itertools
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from operant_gpu.archives import read_archive, write_archive
from operant_gpu.errors import CheckpointError, InvalidConfig, OperantError, one_line
from operant_gpu.files import as_path, remove_partials, try_to_write
from operant_gpu.models.config import PPOConfig
from operant_gpu.models.policies.normalization import Scaler
from operant_gpu.models.ppo.setup import check_env, have_same_units
from operant_gpu.models.ppo.shares import check_even, dealt, scaled, share_of, whole_state
from operant_gpu.parameters import saveable
from operant_gpu.processes import CHECKPOINT, Processes, present
from operant_gpu.registry import find as registered
from operant_gpu.registry import list_envs, make

if TYPE_CHECKING:
    from operant_gpu.environment import Definition
    from operant_gpu.models.ppo.learner import PPO
    from operant_gpu.models.ppo.rnd import IntrinsicReward
    from operant_gpu.vector import VecEnv

_FORMAT, _FORMATS = 4, (3, 4)
_NAME = "step-{:012d}.pt"
# Settings that decide what a checkpoint holds.
_OF_NETWORKS = ("hidden_sizes", "activation", "shared_trunk", "cnn_channels", "gru_size")
_OF_LEARNERS = ("normalize_observations", "normalize_rewards", "rnd_coef", "scale_actions")
_PATTERN = re.compile(r"step-(\d+)\.pt")
# Within a run's directory.
FOLDER = "checkpoints"
_KEYS = {
    "training",
    "env",
    "num_envs",
    "params",
    "max_episode_steps",
    "config",
    "network",
    "environments",
    "progress",
    "memory",
    "generators",
    "telemetry",
    "policy",
    "optimizer",
}


def check_writable(param: str, target: Path) -> None:
    """Make the file's folder and try to write there.

    Raises:
        InvalidConfig: If that is not possible, for the setting `param`.
    """
    try:
        if target.is_dir() or not target.name:
            raise InvalidConfig(param, f"expected a file to save the policy to, got the folder {str(target)!r}")
        try_to_write(target.parent)
    except OSError as error:
        raise InvalidConfig(param, f"cannot write in the folder {str(target.parent)!r}: {error}") from error


def write(path: str | os.PathLike[str], learner: PPO) -> None:
    """Write a learner to a file, whole or not at all; of several processes all call it, and the first one writes."""
    target, processes = as_path("path", path), learner.processes
    processes.first(lambda: check_writable("path", target), CHECKPOINT)
    content = _content(learner)
    processes.first(lambda: _write(target, content), CHECKPOINT)


def _content(learner: PPO) -> dict[str, Any]:
    """Return what a checkpoint has, with the environments of all processes; nothing in others than the first one."""
    whole = whole_state(learner)
    if whole is None:
        return {}
    (state, given, config), env = whole, learner.env
    return {
        "format": _FORMAT,
        "training": learner.training,
        "env": env.environment.id,
        "num_envs": env.num_envs * learner.processes.size,
        "params": saveable(given),
        "max_episode_steps": env.max_episode_steps or -1,
        "config": asdict(config),
        "network": _name(learner.policy.network),
        **state,
    }


def _write(target: Path, content: dict[str, Any]) -> None:
    write_archive(target, content, "the checkpoint")


def begin(param: str, folder: Path, learner: PPO) -> None:
    """Make a folder ready for the checkpoints of a learner.

    Raises:
        InvalidConfig: If it cannot be written, or has checkpoints of another training, for the setting `param`.
        CheckpointError: If it has checkpoints, and none can be read.
    """
    check_writable(param, folder / _NAME)
    if _numbered(folder):
        _, newest = _find_quietly(folder)
        if newest["training"] != learner.training:
            advice = "go on with that by PPO.load, or give another folder"
            raise InvalidConfig(param, f"{str(folder)!r} has checkpoints of another training: {advice}")
    remove_partials(folder)


def has_newer(folder: Path, timesteps: int) -> bool:
    """Tell whether a folder has a checkpoint of later steps that can be read."""
    # By their names first: reading one takes as long as it is large.
    is_named = any(number > timesteps for number, _ in _numbered(folder))
    return is_named and bool(_find_quietly(folder)[1]["progress"]["timesteps"] > timesteps)


def _find_quietly(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Do as `_find`, for those who load from there anyway and are told then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _find(folder)


def _put_aside(path: Path) -> None:
    """Rename a checkpoint, beside those that were put aside before."""
    names = (path.with_name(f"{path.name}.abandoned-{number}") for number in itertools.count(1))
    path.rename(next(name for name in names if not name.exists()))


def has_checkpoints(folder: Path) -> bool:
    """Tell whether there are checkpoints in a folder."""
    return bool(_numbered(folder))


def write_newest(folder: Path, learner: PPO, keep: int) -> None:
    """Write a learner to a folder, as `write` does, and remove all but the newest checkpoints there.

    Those of later steps are of a future that is given up: they are renamed, so that the newest is always the one with
    the highest number.
    """
    content = _content(learner)
    learner.processes.first(lambda: _write_newest(folder, learner.timesteps, content, keep), CHECKPOINT)


def _write_newest(folder: Path, timesteps: int, content: dict[str, Any], keep: int) -> None:
    _write(folder / _NAME.format(timesteps), content)
    found = _numbered(folder)
    for number, path in found:
        if number > timesteps:
            _put_aside(path)
    for _, old in [entry for entry in found if entry[0] <= timesteps][:-keep]:
        old.unlink(missing_ok=True)


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    """Return the checkpoints in a folder, the oldest first, with their timesteps."""
    matches = ((_PATTERN.fullmatch(path.name), path) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted((int(match[1]), path) for match, path in matches if match and path.is_file())


def read(
    path: str | os.PathLike[str],
    kind: type[PPO],
    env: VecEnv | None,
    config: PPOConfig | None,
    network: nn.Module | None,
    intrinsic: IntrinsicReward | None,
    device: str | torch.device,
    processes: Processes,
) -> PPO:
    """Return the learner that `write` wrote; arguments as for `PPO.load`."""
    path, whole = processes.first(lambda: _find(as_path("path", path)))
    if env is not None:
        check_env(env)
    try:
        saved = share_of(whole, processes)
        if env is None:
            definition = _definition(path, whole)
            saved = dealt(saved, definition, processes)
        on_fault = saved["config"].get("on_fault") if config is None else getattr(config, "on_fault", None)
        debug = False if on_fault is None else "faults"
        own_env = _environments(definition, saved, device, debug) if env is None else env
        before = _settings(path, whole, own_env.num_envs, processes)
        if config is None:
            config = _fitting(before, own_env)
        learner = kind(own_env, config, network=network, intrinsic=intrinsic, processes=processes)
        _check_same(path, saved, before, learner, network is not None)
        try:
            learner.load_state_dict(saved, environments=env is None)
        except InvalidConfig as error:
            message = f"the policy in {str(path)!r}, of {saved['env']}, does not fit {own_env}: {error}"
            raise InvalidConfig("path", message) from error
        learner.training = saved["training"]
        count = max(1, len(whole.get("ranks", ())))
        if env is None and count != processes.size:
            origin = f"of {count} process{'es' if count > 1 else ''} before"
            learner._dealt = f"environments dealt out anew: {whole['num_envs']:,}, {origin}, to {processes.size} now"
    except OperantError:
        raise
    except Exception as error:
        raise _incoherent(path, error) from error
    return learner


def settings(path: str | os.PathLike[str]) -> PPOConfig:
    """Return the settings of a checkpoint, or of the newest in a folder, with the steps that its training has in all.

    Raises:
        InvalidConfig, CheckpointError: As `PPO.load`.
    """
    processes = present()
    path, saved = processes.first(lambda: _find(as_path("path", path)))
    try:
        steps = saved["progress"]["target"] - saved["progress"]["start"]
    except (KeyError, TypeError) as error:
        raise _incoherent(path, error) from error
    if processes.size > 1:
        check_even(saved["num_envs"], processes.size)
    config = _settings(path, saved, saved["num_envs"] // processes.size, processes)
    return replace(config, total_timesteps=steps or config.total_timesteps, checkpoint_dir=None)


def _settings(path: Path, saved: Mapping[str, Any], num_envs: int, processes: Processes) -> PPOConfig:
    """Return the settings of a checkpoint as they were saved, or what one of several processes takes of them."""
    try:
        config = dict(saved["config"])
        if saved["format"] == 3:
            # Policies acted in the environment's units, and whether the learning rate fell was a setting of its own.
            falls = config.pop("anneal_lr")
            config |= {"scale_actions": False, "lr": (config["lr"], 0.0) if falls else config["lr"]}
        made = PPOConfig(**config)
    except (TypeError, KeyError, ValueError) as error:
        raise _incoherent(path, error) from error
    return made if processes.size == 1 else scaled(made, num_envs, 1, processes.size)


def _incoherent(path: Path, error: Exception) -> CheckpointError:
    reason = f"{type(error).__name__}: {one_line(error)}"
    return CheckpointError(f"what is in {str(path)!r} does not hold together: {reason}")


def _definition(path: Path, saved: Mapping[str, Any]) -> Definition:
    """Return the definition of the environments of a checkpoint."""
    if saved["env"] not in list_envs():
        advice = (
            "import what registers it first (on the command line: --env FILE.py:NAME, or train FILE.py:NAME --resume)"
        )
        raise InvalidConfig("env", f"{str(path)!r} is of {saved['env']!r}, which is not registered: {advice}")
    return registered(saved["env"])


def _environments(
    definition: Definition, saved: Mapping[str, Any], device: str | torch.device, debug: bool | str
) -> VecEnv:
    """Return new environments like those of a checkpoint."""
    limit = saved["max_episode_steps"]
    own = {"device": device, "max_episode_steps": limit, "debug": debug, **saved["params"]}
    return make(definition.id, saved["num_envs"], **own)


def _check_same(path: Path, saved: Mapping[str, Any], before: PPOConfig, learner: PPO, has_own_network: bool) -> None:
    """Check that a learner is made of what the checkpoint's was."""
    given = _name(learner.policy.network)
    if given != saved["network"]:
        built_in = {"ActorCritic", "RecurrentActorCritic"}
        advice = "leave gru_size as it was" if {given, saved["network"]} <= built_in else "give network="
        raise InvalidConfig("network", f"{str(path)!r} holds a {saved['network']}, got {given}: {advice}")
    for name in (*_OF_LEARNERS, *(() if has_own_network else _OF_NETWORKS)):
        was, now = (getattr(config, name) for config in (before, learner.config))
        advice, same = "leave it as it was", was == now
        if name == "rnd_coef":
            # The weight of curiosity may change, but not whether there is any.
            same = bool(was) is bool(now)
            advice = "(0.0, 0.0) gives curiosity no weight, and 0.0 means none" if was else advice
        elif name == "scale_actions":
            advice, same = f"set scale_actions={was}", have_same_units(learner.env, was, now)
        if not same:
            raise InvalidConfig(name, f"{str(path)!r} was trained with {was}, got {now}: {advice}")
    if isinstance(learner.policy.normalizer, Scaler) and "normalizer.scale" not in saved["policy"]:
        message = f"{str(path)!r} was trained on observations from 0 to 255, which policies see from 0 to 1: train anew"
        raise CheckpointError(message)
    if (learner.intrinsic is None) is ("intrinsic" in saved):
        raise InvalidConfig("intrinsic", f"{str(path)!r} was trained with an intrinsic reward, or without: do the same")


def _find(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return a checkpoint and its content: for a folder its newest one that can be read."""
    if not path.is_dir():
        return path, _read(path)
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    found = [path for _, path in reversed(_numbered(folder))]
    if not found:
        raise InvalidConfig("path", f"there are no checkpoints (step-*.pt) in the folder {str(folder)!r}")
    failures = []
    for candidate in found:
        try:
            content = _read(candidate)
        except CheckpointError as error:
            failures.append(str(error))
            continue
        if failures:
            warnings.warn(f"{'; '.join(failures)}. Taken instead: {candidate.name}", RuntimeWarning, stacklevel=5)
        return candidate, content
    raise CheckpointError(f"no checkpoint in {str(folder)!r} can be read: {'; '.join(failures)}")


def _fitting(config: PPOConfig, env: VecEnv) -> PPOConfig:
    """Return the saved settings, for as many environments as there are; a run on a GPU goes on elsewhere."""
    config = config.fitted(env.num_envs, {"batch_size": config.batch_size})
    # "eager" can be had everywhere.
    is_at_home = env.device.type == "cuda" or config.engine == "eager"
    return config if is_at_home else replace(config, engine="auto")


def _name(network: nn.Module) -> str:
    return type(network).__name__


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint."""
    return read_archive(path, "a checkpoint of PPO", _FORMATS, _KEYS)
