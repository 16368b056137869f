"""What calls of the learner's C++ read and write: each structure is one list, for ctypes and for the compiler.

A row of a list is the C++ type of some fields, their names, and what they mean. Strides are in elements, those from
step to step in bytes.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from operant_gpu.hyperparameters import FAULTY, KL_MARGIN, MEASURED, STOPPED
from operant_gpu.hyperparameters import Hyperparameters as Numbers
from operant_gpu.mlp import MAX_LAYERS

WORD, POINTER = ctypes.c_int64, ctypes.c_void_p
# `operant::Kind`, in upper case.
KINDS = {dtype: i for i, dtype in enumerate((torch.float32, torch.uint8, torch.int8, torch.int32, torch.int64))}
_TYPES: dict[str, Any] = {"int64_t": WORD, "Kind": WORD, "double": ctypes.c_double, "float": ctypes.c_float}


def _structure(name: str, meaning: str, *rows: tuple[str, ...]) -> Any:
    """Return a structure of ctypes, with its C++ as `text`; later ones may have it as the type of fields."""
    fields, text = [], f"// {meaning}\nstruct {name} {{\n"
    for kind, names, *meanings in rows:
        bare, pointer, _ = kind.partition("*")
        declared = ", ".join(pointer + field for field in names.split())
        text += f"    {bare} {declared};{''.join(f'  // {one}' for one in meanings)}\n"
        for field in names.split():
            label, _, size = field.rstrip("]").partition("[")
            single = POINTER if pointer else _TYPES[bare]
            fields.append((label, single * int(size) if size else single))
    _TYPES[name] = type(name, (ctypes.Structure,), {"_fields_": fields, "text": text + "};"})
    return _TYPES[name]


Network = _structure(
    *("Network", "A network, in memory as `operant_gpu.mlp` has it."),
    ("int64_t", f"inputs depth widths[{MAX_LAYERS}] outputs", "widths of so many hidden layers as `depth` says"),
    ("int64_t", "is_tanh is_shared is_gaussian", "whether activations are tanh (else relu)"),
    ("int64_t", "components", "of discrete actions"),
    ("const int64_t*", "first_choices lows", "where the choices of each begin, and the number of its first one"),
    ("const float*", "parameters shift scale", "if there is a shift, observations (inputs,) are scaled and clipped"),
    ("double", "clip"),
    ("int64_t", "is_one_hot obs_start", "whether an observation is one integer, the least of which is `obs_start`"),
)
Hyperparameters = _structure(
    *("Hyperparameters", "Settings that may change while a policy learns; those that are None are infinite."),
    ("float", " ".join(Numbers._fields)),
)
Climb = _structure(
    *("Climb", "The gradient steps of an iteration, on arrays of samples, one after the other."),
    ("Network", "network"),
    ("const Hyperparameters*", "now"),
    ("int64_t", "samples minibatches tensors parameter_count", "minibatches of an epoch, tensors of parameters"),
    ("int64_t", "first_step last_step", "from the former on, up to the latter"),
    ("int64_t", "threads seed iteration rank normalizes_advantages"),
    ("const void*", "obs", "(samples, inputs), or (samples, 1) of integers"),
    ("Kind", "obs_kind"),
    ("const void*", "policy_action", "(samples, components) int64, or (samples, outputs) float32"),
    ("const uint8_t*", "action_mask", "(samples, outputs), or none"),
    ("const float*", "log_prob value advantages"),
    ("float*", "parameters means squares count", "the optimizer, flat, and how many steps it has taken"),
    ("const uint8_t*", "trainable", "(tensors,)"),
    ("float*", "gradient", "of one step, (parameter_count,), and behind it what is measured, but for the norm"),
    ("float*", "measured norms", "of each gradient step: (NUM_MEASURED,), and of the gradients (tensors,)"),
    ("const double*", "moments", "of each step's advantages over all processes: mean and variance; or none"),
    ("int32_t*", "status", "before each gradient step, and after the last"),
)
Rows = _structure(
    *("Rows", "A row of numbers for each environment and step, from that of the first step on; no data if not wanted."),
    ("void*", "data"),
    ("Kind", "kind"),
    ("int64_t", "step row column"),
)
Rollout = _structure(
    *("Rollout", "Steps in which a network acts."),
    ("Network", "network"),
    ("int64_t", "num_steps is_last", "whether the rollout ends with them"),
    ("void*", "kernel", "a function that takes a step"),
    ("const void*", "batch", "its record that is the same for all calls"),
    ("const int64_t*", "call", "the words of a call, which say where a step writes"),
    ("int64_t", "call_size num_moved"),
    ("const int64_t*", "moved moves", "which of the words move on, and by how many bytes a step"),
    ("Rows", "obs action_mask", "what the network sees, and which choices are legal: the same each step"),
    ("const int64_t*", "seed", "of the streams, like the next three"),
    ("const int32_t*", "env_id episode elapsed"),
    ("const uint8_t*", "restarted ended", "`restarted` if the clock of environments that ended counts as 0"),
    ("void*", "taken", "actions as the environments take them, (num_envs, components) int64 or float32"),
    (
        "const float*",
        "low high center radius",
        "of a Box, (components,): `center + radius * drawn`, in its bounds, is taken",
    ),
    ("Rows", "action policy_action", "as taken, and as drawn"),
    ("Rows", "log_prob value"),
    ("Rows", "final_obs terminated truncated final_value", "values of states that episodes would have gone on from"),
)


def header() -> str:
    """Return the C++ that stands before `kernels/cpp/learner.cpp`."""
    kinds = ", ".join(str(dtype).removeprefix("torch.").upper() for dtype in KINDS)
    constants = (
        f"constexpr int64_t MAX_LAYERS = {MAX_LAYERS};",
        f"constexpr int32_t STOPPED = {STOPPED}, FAULTY = {FAULTY};",
        f"constexpr float KL_MARGIN = {KL_MARGIN}f;",
        f"enum Measured {{ {', '.join(MEASURED).upper()}, NUM_MEASURED }};",
        f"enum Kind : int64_t {{ {kinds} }};",
    )
    made = "\n".join([*constants, *(structure.text for structure in (Network, Hyperparameters, Climb, Rows, Rollout))])
    return f"// Made of operant_gpu/backends/cpp/calls.py.\n#include <cstdint>\nnamespace operant {{\n{made}\n}}\n"
