"""Learning algorithms in PyTorch, on the environments' device."""

from operant_gpu.models.config import PPOConfig
from operant_gpu.models.ppo import PPO

__all__ = ["PPO", "PPOConfig"]
