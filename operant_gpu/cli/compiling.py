"""`operant-gpu compile`: what an environment and its training run on a GPU, compiled where there is none."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from operant_gpu.backends import compilations
from operant_gpu.backends.cuda.source import Known
from operant_gpu.cli.common import OfAnEnvironment, busy, environment_id, preset_size, say
from operant_gpu.cuda_environment import CudaEnvironment
from operant_gpu.errors import InvalidConfig, TrainingError, needed
from operant_gpu.files import as_path
from operant_gpu.models import PPO, PPOConfig
from operant_gpu.models.presets import PRESETS
from operant_gpu.registry import find, make
from operant_gpu.vector import VecEnv


@dataclass
class Compile(OfAnEnvironment):
    """Compile an environment's kernels, and those that train it, for a GPU that this machine does not have."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """Environment, such as CartPole-v1, or FILE.py:NAME."""
    arch: str
    """The GPU's compute capability, such as sm_90 for an H100 or sm_89 for an RTX 4090."""
    out: Path
    """Folder for the kernels. On the machine with the GPU, set the variable OPERANT_GPU_CACHE to it."""
    num_envs: int = 4096
    """Number of environments. All multiples of 16 up to 32,768 share kernels, and so do all above."""

    def run(self, console: Console) -> int:
        """Compile, and print what came of it; return the exit status."""
        found = re.fullmatch(r"sm_(\d{2,3})a?", self.arch)
        if found is None:
            raise InvalidConfig("arch", f"expected a compute capability such as sm_90, got {self.arch!r}")
        capability, folder, id = int(found[1]), as_path("out", self.out).absolute(), environment_id(self.env)
        definition, params = find(id), self.params
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidConfig("out", f"expected a folder that can be written, got {self.out}: {error}") from error
        # What is in CUDA C++ is kept there by itself.
        os.environ["OPERANT_GPU_CACHE"] = str(folder)
        needed("compile", "triton.language")
        from operant_gpu.backends.triton.ahead import compile_for

        with busy(console, f"compiling for {self.arch}"):
            compile_for(capability, folder)
            if isinstance(definition, CudaEnvironment):
                needed("compile", "cupy")
                from operant_gpu.backends.cuda.backend import cubin

                given = definition.make_given(dict(params))
                cubin(definition, Known(*given), f"sm_{capability}")
            else:
                env = make(id, self.num_envs, device="cpu", backend="triton", params=params)
                env.compile(lambda env: env.rollout(2))
                if capability >= 80:
                    # Before, PyTorch trains.
                    _train(env, capability)
        kernels = compilations.count()
        say(console, f"Compiled {kernels} kernels of {id} for {self.arch} into {folder}.")
        say(console, f"Where the GPU is, with the same Triton: OPERANT_GPU_CACHE={folder.name} operant-gpu train {id}")
        return 0


def _train(env: VecEnv, capability: int) -> None:
    """Compile what an iteration of the environment's settings runs, if its kernels are the library's own."""
    # Here, since Triton may be missing.
    import triton

    from operant_gpu.backends.triton.launching import check_compiler

    check_compiler((capability // 10, capability % 10), triton.__version__)
    id = env.environment.id
    # As a training on a GPU takes them.
    config = PPOConfig.for_env(id, size=preset_size(id, "cuda")[0]) if id in PRESETS else PPOConfig()
    learner = PPO(env, config)
    if learner.engine == "fused":
        # Nothing is computed: what is measured is what memory was before.
        with contextlib.suppress(TrainingError):
            learner.learn(config.n_steps * env.num_envs)
