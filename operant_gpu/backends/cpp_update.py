"""The gradient steps of an iteration on a CPU: C++ that this machine's compiler makes, once for all networks."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from operant_gpu.backends.cpp import compiler, failure, load_or_make, native_flags, run_compiler
from operant_gpu.errors import BackendError
from operant_gpu.hyperparameters import KL_MARGIN, Hyperparameters, StepTable
from operant_gpu.mlp import MLP
from operant_gpu.spaces import ActionLayout

_SOURCES = Path(__file__).resolve().parent.parent / "kernels" / "learner"
# Numbers that are not finite must stay so, or faults would not be seen: -ffast-math is out of the question.
FLAGS: tuple[str, ...] = ("-std=c++20", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
FLAGS += ("-fPIC", "-shared", "-fvisibility=hidden", "-pthread")
_WORD, _REAL, _POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
# Gradient steps that are worth a thread: samples of a minibatch.
_SAMPLES_PER_THREAD = 128
_MAX_LAYERS = 3


class _Climb(ctypes.Structure):
    """`operant::Climb` of `kernels/learner/climb.hpp`."""

    _fields_ = (
        *((name, _WORD) for name in ("inputs", "depth")),
        ("widths", _WORD * _MAX_LAYERS),
        *((name, _WORD) for name in ("outputs", "is_tanh", "is_shared", "is_gaussian", "components")),
        *((name, _POINTER) for name in ("first_choices", "lows")),
        *((name, _WORD) for name in ("samples", "epochs", "parts", "tensors", "threads", "seed", "iteration")),
        *((name, _WORD) for name in ("normalizes_advantages", "clips_values", "has_target_kl")),
        *((name, _REAL) for name in ("clip_eps", "vf_clip_eps", "vf_coef", "ent_coef")),
        *((name, _REAL) for name in ("max_grad_norm", "max_kl", "lr", "obs_clip")),
        ("obs", _POINTER),
        ("obs_kind", _WORD),
        *((name, _POINTER) for name in ("shift", "scale", "actions", "masks", "log_probs", "values", "advantages")),
        *((name, _POINTER) for name in ("parameters", "means", "squares", "count", "trainable")),
        *((name, _POINTER) for name in ("measured", "norms", "status")),
    )


class Update:
    """Takes the gradient steps of iterations of one size.

    Args:
        mlp: The network.
        actions: Of the environment.
        settings: Of the steps.
        samples: Environment steps of an iteration.

    Raises:
        BackendError: If there is no C++ compiler.
    """

    def __init__(self, mlp: MLP, actions: ActionLayout, settings: Hyperparameters, samples: int) -> None:
        self._climb, layout = _library().climb, mlp.layout
        self._choices = np.array([actions.first_choices, actions.low], np.int64)
        self._measured = torch.zeros(settings.n_epochs * settings.parts, 6)
        self._norms = torch.zeros(len(self._measured), len(layout.shapes))
        self._status = torch.zeros(len(self._measured) + 1, dtype=torch.int32)
        self._fields = _Climb(
            inputs=layout.inputs,
            depth=len(layout.hidden_sizes),
            widths=(_WORD * _MAX_LAYERS)(*layout.hidden_sizes),
            outputs=layout.outputs,
            is_tanh=layout.activation == "tanh",
            is_shared=layout.shared_trunk or not layout.hidden_sizes,
            is_gaussian=layout.is_gaussian,
            components=len(actions.low),
            first_choices=self._choices[0].ctypes.data,
            lows=self._choices[1].ctypes.data,
            samples=samples,
            epochs=settings.n_epochs,
            parts=settings.parts,
            tensors=len(layout.shapes),
            threads=1,
            normalizes_advantages=settings.normalize_advantages,
            clips_values=settings.vf_clip_eps is not None,
            has_target_kl=settings.target_kl is not None,
            clip_eps=settings.clip_eps,
            vf_clip_eps=settings.vf_clip_eps or 0.0,
            vf_coef=settings.vf_coef,
            ent_coef=settings.ent_coef,
            max_grad_norm=settings.max_grad_norm,
            max_kl=KL_MARGIN * (settings.target_kl or 0.0),
            obs_clip=mlp.clip,
            measured=self._measured.data_ptr(),
            norms=self._norms.data_ptr(),
            status=self._status.data_ptr(),
        )
        self._most_threads = max(1, samples // settings.parts // _SAMPLES_PER_THREAD)

    def run(
        self,
        mlp: MLP,
        obs: Tensor,
        actions: Tensor,
        log_probs: Tensor,
        values: Tensor,
        advantages: Tensor,
        masks: Tensor | None,
        *,
        seed: int,
        iteration: Tensor,
        means: Tensor,
        squares: Tensor,
        count: Tensor,
        lr: Tensor,
        trainable: Tensor,
        status: Tensor,
    ) -> StepTable:
        """Take all gradient steps of an iteration, in place; arguments as for `triton_update.Update.run`."""
        if obs.dtype not in (torch.float32, torch.uint8):
            obs = obs.float()
        given = {"obs": obs, "shift": mlp.shift, "scale": mlp.scale, "actions": actions, "masks": masks}
        given |= {"log_probs": log_probs, "values": values, "advantages": advantages, "parameters": mlp.parameters}
        given |= {"means": means, "squares": squares, "count": count, "trainable": trainable}
        for name, tensor in given.items():
            setattr(self._fields, name, None if tensor is None else tensor.data_ptr())
        self._fields.obs_kind = obs.dtype == torch.uint8
        self._fields.seed, self._fields.iteration, self._fields.lr = seed, int(iteration), float(lr)
        self._fields.threads = min(self._most_threads, torch.get_num_threads())
        self._status[0] = status
        self._measured.zero_()
        self._norms.zero_()
        if not self._climb(ctypes.byref(self._fields)):
            raise MemoryError("the gradient steps of an iteration need more memory than there is")
        return StepTable(self._measured, self._norms, self._status)


def find_misfit(mlp: MLP) -> str | None:
    """Return why the kernels cannot train a network; None if they can.

    Raises:
        BackendError: If there is no C++ compiler.
    """
    del mlp
    _library()
    return None


def estimate_advantages(
    rewards: Tensor,
    values: Tensor,
    final_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Return generalized advantage estimates; arguments are (n_steps, num_envs) and contiguous."""
    advantages = torch.empty_like(rewards)
    columns = (advantages, rewards, values, final_values, terminated, truncated)
    _library().estimate_advantages(*(column.data_ptr() for column in columns), *rewards.shape, gamma, lam)
    return advantages


def follow_episodes(
    returns: Tensor,
    lengths: Tensor,
    rewards: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    first: tuple[Tensor, Tensor],
) -> None:
    """Write the return and length of the episodes after each step, on from `first`, those before the first step."""
    columns = (returns, lengths, rewards, terminated, truncated, *first)
    _library().follow_episodes(*(column.data_ptr() for column in columns), *rewards.shape)


@functools.cache
def _library() -> ctypes.CDLL:
    """Return the kernels, compiled now or by an earlier process."""
    command = [*compiler(), *FLAGS, *native_flags()]
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted(_SOURCES.iterdir()))
    try:
        library = load_or_make(f"{command}{sources}", lambda path: _compile(command, path))
    except OSError as error:
        raise BackendError(f"what the C++ compiler {command[0]} made cannot be loaded: {error}") from error
    library.climb.argtypes = [_POINTER]
    library.estimate_advantages.argtypes = [*[_POINTER] * 6, _WORD, _WORD, ctypes.c_float, ctypes.c_float]
    library.follow_episodes.argtypes = [*[_POINTER] * 7, _WORD, _WORD]
    library.climb.restype = ctypes.c_bool
    library.estimate_advantages.restype = library.follow_episodes.restype = None
    return library


def _compile(command: list[str], path: Path) -> None:
    command = [*command, str(_SOURCES / "learner.cpp"), "-o", str(path)]
    done = run_compiler(command)
    if done.returncode or not path.stat().st_size:
        raise failure(command, done)
