"""Ask the compiler for which shape of the gradient kernel each generation has room: `python fits.py 86,90 17x64x64x6`.

Networks are inputs, units of the hidden layers and outputs, in both precisions. The last line is JSON: by generation,
network and precision the samples of a tile, its warps and its bytes, or null if none fits.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from gymnasium import spaces
from ptx_executor.operant import install

from operant_gpu.backends.triton import update
from operant_gpu.hyperparameters import Samples
from operant_gpu.mlp import MLP, MLPLayout
from operant_gpu.models import PPOConfig
from operant_gpu.spaces import action_layout


def found(sizes: list[int], precision: str) -> tuple[int, int, int] | None:
    """Return samples, warps and bytes of the shape that fits."""
    inputs, *hidden, outputs = sizes
    layout = MLPLayout(inputs, tuple(hidden), outputs, "tanh", False, True)
    mlp = MLP(torch.zeros(layout.size), layout, precision=precision)
    numbers = torch.zeros(16)
    example = Samples(numbers, numbers, None, numbers, numbers, numbers)
    fit = update.find_fit(mlp, action_layout(spaces.Box(-1.0, 1.0, (outputs,))), PPOConfig(), example)
    return None if fit is None else (*fit.shape, fit.shared)


if __name__ == "__main__":
    targets, networks = (argument.split(",") for argument in sys.argv[1:])
    table: dict[str, Any] = {}
    for target in map(int, targets):
        install(capability=target)
        for network in networks:
            for precision in ("tf32", "ieee"):
                table[f"sm_{target} {network} {precision}"] = found([*map(int, network.split("x"))], precision)
    print(json.dumps(table))
