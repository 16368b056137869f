"""Learning algorithms in PyTorch, on the environments' device, and what is done with what they have learned.

In come environments and settings; out come policies that act, evaluations, recordings and exported files.
`policies` act and `ppo` teaches them. Of the files beside them, some lie below both, and the others use what `ppo` has
learned. Nothing here knows how a run is shown, but for `learn(progress=True)`.
"""

from operant_gpu.models.config import PPOConfig
from operant_gpu.models.evaluation import Evaluation, evaluate
from operant_gpu.models.exporting import export
from operant_gpu.models.policies.controller import Controller
from operant_gpu.models.policies.mlp_policy import MLPPolicy
from operant_gpu.models.policies.policy import Policy
from operant_gpu.models.ppo.learner import PPO
from operant_gpu.models.ppo.rnd import RND, IntrinsicReward
from operant_gpu.models.recording import record
from operant_gpu.processes import Processes, distributed

__all__ = [
    "PPO",
    "RND",
    "Controller",
    "Evaluation",
    "IntrinsicReward",
    "MLPPolicy",
    "PPOConfig",
    "Policy",
    "Processes",
    "distributed",
    "evaluate",
    "export",
    "record",
]
