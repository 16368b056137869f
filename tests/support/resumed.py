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
from varied_envs import CARTPOLE, TILES, Tiles, varied

import operant_gpu
from operant_gpu import register
from operant_gpu.envs import CartPole
from operant_gpu.models import PPO, IntrinsicReward, PPOConfig

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


HALF, WHOLE = 5, 10
SMALL: dict[str, Any] = {"n_steps": 8, "batch_size": 32, "n_epochs": 2, "hidden_sizes": (16,)}
SCALED = {"normalize_observations": True, "normalize_rewards": True}
# All that may change while a policy learns.
LINES: dict[str, Any] = {
    "lr": (3e-3, 1e-3),
    "gamma": (0.9, 0.99),
    "gae_lambda": (0.8, 0.95),
    "clip_eps": (0.3, 0.1),
    "vf_clip_eps": (0.5, 0.1),
    "vf_coef": (0.25, 0.5),
    "ent_coef": (0.05, 0.0),
    "max_grad_norm": (0.1, 1.0),
    "target_kl": (0.05, 0.005),
    "rnd_coef": (1.0, 0.1),
}
VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "fused": ("CartPole-v1", {"engine": "fused"}),
    "eager": ("CartPole-v1", {"engine": "eager"}),
    "continuous": ("Pendulum-v1", {"target_kl": 0.01}),
    "gru": ("CartPole-v1", {"gru_size": 8}),
    "gru-shared": (Recall, {"gru_size": 8, "shared_trunk": True, **SCALED}),
    "normalized": ("Pendulum-v1", SCALED),
    "normalized-eager": ("Pendulum-v1", {"engine": "eager", **SCALED}),
    "rnd": ("MountainCar-v0", {"rnd_coef": 0.5}),
    "rnd-gru": ("MountainCar-v0", {"rnd_coef": 0.5, "gru_size": 8, **SCALED}),
    "masked": (Forbidden, {}),
    "lines": ("CartPole-v1", {**LINES, "normalize_rewards": True}),
    "lines-eager": ("Pendulum-v1", {"engine": "eager", **LINES, "normalize_rewards": True}),
    "image": (Locate, {"cnn_channels": (4,)}),
    "boards": ("Snake-v0", {"cnn_channels": ()}),
    # Parameters that are drawn, those of all and of each environment, and episodes that begin staggered.
    "varied": (varied(CartPole, **CARTPOLE), {"staggered_starts": True}),
    "varied-boards": (varied(Tiles, **TILES), {"staggered_starts": True, "cnn_channels": ()}),
    "half": ("CartPole-v1", {"use_amp": True}),
    "rarely-read": ("CartPole-v1", {"log_interval": 4, "lr": 2.5e-3}),
    # Networks and rewards of the caller's own, which draw from PyTorch's generators.
    "noisy": ("CartPole-v1", {}),
    "whim": ("CartPole-v1", {}),
}


class Interrupted(PPO):
    """Stops half way, as a signal would, whether its metrics are read then or not."""

    def _iterate(self) -> None:
        super()._iterate()
        if self.iterations == HALF:
            self.stop()


def make(variant: str, kind: type[PPO] = PPO) -> PPO:
    environment, changes = VARIANTS[variant]
    settings: dict[str, Any] = {"device": "cpu", "max_episode_steps": 20}
    env = operant_gpu.make(environment, 16, **settings) if isinstance(environment, str) else environment(16, **settings)
    # The weights of the caller's own network.
    torch.manual_seed(7)
    return kind(env, PPOConfig(**{**SMALL, **changes}), **parts_of(variant))


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
    for environment in (Forbidden, Locate, Recall, Tiles):
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
