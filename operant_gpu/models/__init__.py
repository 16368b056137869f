"""Learning algorithms in PyTorch, on the environments' device."""

from operant_gpu.models.config import PPOConfig
from operant_gpu.models.controller import Controller
from operant_gpu.models.evaluation import Evaluation, evaluate
from operant_gpu.models.exporting import export
from operant_gpu.models.mlp_policy import MLPPolicy
from operant_gpu.models.policy import Policy
from operant_gpu.models.ppo import PPO
from operant_gpu.models.recording import record
from operant_gpu.models.rnd import RND, IntrinsicReward

__all__ = [
    "PPO",
    "RND",
    "Controller",
    "Evaluation",
    "IntrinsicReward",
    "MLPPolicy",
    "PPOConfig",
    "Policy",
    "evaluate",
    "export",
    "record",
]
