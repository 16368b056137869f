"""Finish the trainings whose checkpoints are in a folder, in a process of its own; print a digest of each.

Usage, in this folder: python -m resumed FOLDER
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from learning_envs import Forbidden, Locate, Recall

from operant_gpu import register
from operant_gpu.models import PPO, IntrinsicReward

TIMES = {"seconds", "sps", "env_sps", "learner_sps"}


class Noisy(torch.nn.Module):
    """A network of the caller's own that draws from PyTorch's own generator."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.layer(obs + 0.01 * torch.randn_like(obs))
        return out[:, :2], out[:, 2]


class Whim(IntrinsicReward):
    """A reward that remembers and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, rollout: Any, generator: torch.Generator) -> torch.Tensor:
        self.seen += 1
        return self.seen * torch.rand(rollout.reward.shape, generator=generator)


OWN: dict[str, dict[str, Any]] = {"noisy": {"network": Noisy}, "whim": {"intrinsic": Whim}}


def parts_of(variant: str) -> dict[str, Any]:
    return {name: kind() for name, kind in OWN.get(variant, {}).items()}


def digest(learner: PPO, history: list[dict[str, float]]) -> str:
    """Return a digest of every bit that decides a learner's future, and of the metrics but for times."""
    sha = hashlib.sha256()

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key in sorted(value):
                add(f"{name}.{key}", value[key])
        elif isinstance(value, torch.Tensor):
            sha.update(name.encode() + value.contiguous().numpy().tobytes())
        elif name != ".progress.seconds":
            sha.update(f"{name}={value!r}".encode())

    add("", learner.state_dict())
    add("history", {str(i): {k: v for k, v in now.items() if k not in TIMES} for i, now in enumerate(history)})
    return sha.hexdigest()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for environment in (Forbidden, Locate, Recall):
        register(environment)
    digests = {}
    for path in sorted(folder.iterdir()):
        history: list[dict[str, float]] = []
        # Other draws than where the checkpoint was written.
        torch.manual_seed(99)
        learner = PPO.load(path, device="cpu", **parts_of(path.stem)).resume(callback=history.append)
        digests[path.stem] = digest(learner, history)
    print(json.dumps(digests))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
