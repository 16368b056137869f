"""Ask the compiler for which shape of the gradient kernel each generation has room: `python fits.py 86,90 17x64x64x6`.

Networks are inputs, units of the hidden layers and outputs, in both precisions; or the name of an environment, for the
network of its preset for many environments. The last line is JSON: by generation, network and precision the samples of
a tile, its warps and its bytes, or null if none fits.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from gymnasium import spaces
from ptx_executor.operant import install

import operant_gpu
from operant_gpu.backends.triton import update
from operant_gpu.hyperparameters import Samples
from operant_gpu.mlp import MLP, MLPLayout
from operant_gpu.models import MLPPolicy, PPOConfig
from operant_gpu.models.ppo import fused
from operant_gpu.spaces import action_layout


def asked(network: str, precision: str) -> tuple[Any, ...]:
    """Return what `find_fit` is asked about a network."""
    if "-" in network:
        config = PPOConfig.for_env(network, size="large")
        env = operant_gpu.make(network, 4, device="cpu", backend="numpy")
        policy = MLPPolicy(env.single_observation_space, env.single_action_space, config)
        policy.precision = precision
        return fused._asked(env, policy, config)
    inputs, *hidden, outputs = map(int, network.split("x"))
    layout = MLPLayout(inputs, tuple(hidden), outputs, "tanh", False, True)
    mlp = MLP(torch.zeros(layout.size), layout, precision=precision)
    numbers = torch.zeros(16)
    example = Samples(numbers, numbers, None, numbers, numbers, numbers)
    return mlp, action_layout(spaces.Box(-1.0, 1.0, (outputs,))), PPOConfig(), example


def found(network: str, precision: str) -> tuple[int, int, int] | None:
    """Return samples, warps and bytes of the shape that fits."""
    fit = update.find_fit(*asked(network, precision))
    return None if fit is None else (*fit.shape, fit.shared)


if __name__ == "__main__":
    targets, networks = (argument.split(",") for argument in sys.argv[1:])
    table: dict[str, Any] = {}
    for target in map(int, targets):
        install(capability=target)
        for network in networks:
            for precision in ("tf32", "ieee"):
                table[f"sm_{target} {network} {precision}"] = found(network, precision)
    print(json.dumps(table))
