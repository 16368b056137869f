"""The one family of exceptions that operant_gpu raises, and what its messages share."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch

_MOST = 2**63 - 1


def gpu_extra(cuda: str | None) -> tuple[str, str]:
    """Return the extra for GPUs and its CuPy, for the CUDA that PyTorch was built with; the newest if it has none."""
    return ("gpu-cuda12", "cupy-cuda12x") if (cuda or "").startswith("12.") else ("gpu", "cupy-cuda13x")


_GPU, _CUPY = gpu_extra(torch.version.cuda)
# Modules that not every installation has: the extra and the package they come with, and what for.
EXTRAS = {
    "numba": ("cpu", "numba", "compiles environments for the CPU, several times as fast as NumPy"),
    "triton": (_GPU, "triton", "compiles environments for the GPU"),
    "cupy": (_GPU, _CUPY, "runs environments in CUDA C++ on the GPU, and CuPy arrays"),
    "pynvml": (_GPU, "nvidia-ml-py", "tells how busy and how hot the GPU is"),
    "pygame": ("render", "pygame", "draws classic control"),
    "imageio_ffmpeg": ("render", "imageio-ffmpeg", "writes MP4 videos"),
    "onnxscript": ("export", "onnxscript", "exports policies to ONNX"),
    "onnxruntime": ("export", "onnxruntime", "checks exported policies"),
    "wandb": ("wandb", "wandb", "logs to Weights & Biases"),
}
# What other libraries call a setting, by its name here; or by the call that does the same.
_ELSEWHERE = {
    "lr": "learning_rate",
    "clip_eps": "clip_range clip_coef clip_param clip_ratio ratio_clip e_clip",
    "vf_clip_eps": "clip_range_vf clip_vloss vf_clip_param value_clip",
    "vf_coef": "value_coef value_loss_coef value_loss_scale vf_loss_coeff critic_coef",
    "ent_coef": "entropy_coef entropy_coeff entropy_loss_scale",
    "gae_lambda": "lam lambda_",
    "gamma": "discount discount_factor",
    "max_grad_norm": "grad_norm_clip",
    "target_kl": "desired_kl kl_threshold",
    "normalize_advantages": "norm_adv normalize_advantage",
    "normalize_observations": "norm_obs normalize_input",
    "normalize_rewards": "norm_reward normalize_value",
    "batch_size": "n_minibatches num_minibatches mini_batches num_mini_batches minibatch_size",
    "n_steps": "num_steps rollouts rollout_length horizon_length num_steps_per_env unroll_length",
    "n_epochs": "update_epochs learning_epochs num_learning_epochs mini_epochs num_sgd_iter",
    "total_timesteps": "total_steps max_steps n_timesteps timesteps",
    "hidden_sizes": "policy_kwargs net_arch hidden_dims units",
    "activation": "activation_fn",
    "use_amp": "mixed_precision",
    "compile": "torch_compile",
    "checkpoint_dir": "save_path",
    "checkpoint_interval": "save_freq save_interval",
    "num_envs": "n_envs num_environments",
    "max_episode_steps": "max_episode_length episode_length max_steps time_limit",
    "autoreset_mode": "auto_reset autoreset",
    "env": "env_id env_name",
    "run_dir": "tensorboard_log log_folder log_dir exp_name",
    "resume": "trained_agent",
    "device": "cuda",
    "video": "capture_video",
    "wandb": "track wandb_project_name wandb_project",
    "learn(progress=True)": "verbose progress progress_bar",
    "reset(seed=...)": "seed",
    "make(id, num_envs, device=...)": "device",
    "Run(learner, folder)": "tensorboard_log",
}


# Of these, those that count minibatches.
_COUNTS = ("n_minibatches", "num_minibatches", "mini_batches", "num_mini_batches")


class OperantError(Exception):
    """Base of every error raised by operant_gpu."""


class InvalidConfig(OperantError, ValueError):
    """A setting that cannot work.

    Attributes:
        param: Name of the offending setting.
    """

    def __init__(self, param: str, message: str, listing: str = "") -> None:
        # As they are given, so that an error of another process can be made again.
        super().__init__(param, message, listing)
        self.param: str = param

    def __str__(self) -> str:
        """Return the message in one line, and below it the listing, if there is one."""
        param, message, listing = self.args
        # What users gave may print in lines, as tensors do.
        return re.sub(r"\s*\n\s*", " ", f"{param}: {message}") + (f"\n{listing}" if listing else "")


class ActionError(OperantError, ValueError):
    """Actions that the environment cannot take: wrong shape, dtype, device or value."""


class BackendError(OperantError, RuntimeError):
    """A backend or device that is missing on this machine, or that does not fit the request."""


class CheckpointError(OperantError, RuntimeError):
    """A checkpoint that cannot be written, or that is damaged or none at all."""


class ExportError(OperantError, RuntimeError):
    """A policy that cannot be exported, or does something else where it was exported to."""


class ProcessError(OperantError, RuntimeError):
    """Another process of a training that has failed, has left, or does not answer."""


class ResetNeeded(OperantError, RuntimeError):
    """A step before the first reset, any use after `close`, or more episodes than random streams have numbers for."""


class Lack(str):
    """Why something is slower here than it could be, where an installation would mend that."""

    __slots__ = ()


class TableError(OperantError, IndexError):
    """An index beyond a table, in an environment made with `debug=True`."""


class TrainingError(OperantError, RuntimeError):
    """A training run that has gone wrong: numbers that are not finite."""


class UnsupportedConstruct(OperantError, TypeError):
    """A construct in an environment function that not every backend runs alike.

    Attributes:
        is_everywhere: Whether no backend runs it, or not as its author means.
    """

    def __init__(self, message: str, is_everywhere: bool = False) -> None:
        super().__init__(message)
        self.is_everywhere: bool = is_everywhere


def one_line(error: Exception) -> str:
    """Return an error's text without line breaks, of which PyTorch's have many."""
    return " ".join(str(error).split())


def nearest(name: object, known: Collection[str]) -> str:
    """Return a question whether the known name that is most like this was meant, with a space behind it, or ""."""
    plain = {_plain(one): one for one in known}
    near = difflib.get_close_matches(_plain(name), plain, n=1)
    return f"did you mean {plain[near[0]]!r}? " if near else ""


def meant(name: object, settings: Collection[str]) -> str:
    """Return such a question for the name of a setting, which other libraries may call so."""
    here = called_here(name, settings)
    return nearest(name, settings) if here is None else f"did you mean {here!r}{difference(name)}? "


def called_here(name: object, known: Collection[str]) -> str | None:
    """Return what a setting of other libraries is called among the known names, or the call that does the same."""
    names = (here for here, elsewhere in _ELSEWHERE.items() if str(name) in elsewhere.split())
    return next((here for here in names if here in known or here.endswith(")")), None)


def difference(name: object) -> str:
    """Return in brackets what to heed where a setting of other libraries is called otherwise here; else ""."""
    return " (the steps in a minibatch, not the number of minibatches)" if name in _COUNTS else ""


def one_of(param: str, value: object, choices: Sequence[str], note: str = "") -> str:
    """Return the one of some names that is meant, in any case, with its words joined in any way.

    Raises:
        InvalidConfig: If it is none; `note` follows on the names.
    """
    for choice in choices:
        if isinstance(value, str) and _plain(value) == _plain(choice):
            return choice
    *others, last = map(repr, choices)
    expected = f"{', '.join(others)} or {last}" if others else last
    hint = nearest(value, choices) if isinstance(value, str) else ""
    advice = f"; {hint.rstrip()}" if hint else ""
    raise InvalidConfig(param, f"expected {expected}{note}, got {value!r}{advice}")


def _plain(name: object) -> str:
    """Return what is left of a name without case, hyphens, underscores and spaces."""
    return re.sub(r"[\s_-]", "", str(name)).casefold()


def flag(param: str, value: object) -> bool:
    """Return a setting that is to be True or False, of Python or NumPy.

    Raises:
        InvalidConfig: If it is neither.
    """
    if not isinstance(value, bool | np.bool_):
        raise InvalidConfig(param, f"expected True or False, got {value!r}")
    return bool(value)


def mapping(param: str, value: object, of: str) -> Mapping[Any, Any]:
    """Return what is to be a dictionary `of` something.

    Raises:
        InvalidConfig: If it is none.
    """
    if not isinstance(value, Mapping):
        raise InvalidConfig(param, f"expected a dictionary of {of}, got {value!r}")
    return value


def as_integer(value: object) -> int | None:
    """Return a whole number of Python or NumPy, such as 3 or 1e6, as an integer; None for True, False and all else."""
    if isinstance(value, float | np.floating):
        return int(value) if value.is_integer() else None
    # A time span is an integer of NumPy's too.
    if isinstance(value, bool | np.timedelta64):
        return None
    return int(value) if isinstance(value, int | np.integer) else None


def whole(param: str, value: Any, low: int, high: int = _MOST, note: str = "") -> int:
    """Return a setting that is to be a whole number from `low` to `high`.

    Raises:
        InvalidConfig: If it is none; `note` follows on the range.
    """
    number = as_integer(value)
    if number is None or not low <= number <= high:
        most = "2**63 - 1" if high == _MOST else high
        raise InvalidConfig(param, f"expected an integer from {low} to {most}{note}, got {value!r}")
    return number


def installation(module: str) -> str:
    """Return the command that installs a module of `EXTRAS`, and where it is given."""
    return f'pip install -e ".[{EXTRAS[module][0]}]" in the clone'


def needed(what: str, module: str, instead: str = "") -> Any:
    """Import a module of `EXTRAS`, or raise `BackendError` with what it is needed for and what to do about it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        root = module.partition(".")[0]
        raise BackendError(f"{what} needs {EXTRAS[root][1]} ({error}): {installation(root)}{instead}") from error
