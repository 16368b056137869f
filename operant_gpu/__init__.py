"""Fast reinforcement-learning environments in plain Python: one source runs on a GPU and on a CPU.

Public are the names here, and those of `adapters`, `envs`, `models`, `monitor`, `verification`, `lang`, `random`,
`arrays`, `metrics`, `errors` and `vector`, as far as the documentation has them. All else is private and may move.
"""

from gymnasium.vector import AutoresetMode

from operant_gpu import envs
from operant_gpu.cuda_environment import CudaEnvironment
from operant_gpu.environment import Definition, Environment
from operant_gpu.errors import (
    ActionError,
    BackendError,
    CheckpointError,
    ExportError,
    InvalidConfig,
    OperantError,
    ProcessError,
    ResetNeeded,
    TableError,
    TrainingError,
    UnsupportedConstruct,
)
from operant_gpu.lang import Array, Table
from operant_gpu.registry import list_envs, make, register
from operant_gpu.vector import Snapshot, VecEnv
from operant_gpu.verification import verify
from operant_gpu.version import __version__

__all__ = [
    "ActionError",
    "Array",
    "AutoresetMode",
    "BackendError",
    "CheckpointError",
    "CudaEnvironment",
    "Definition",
    "Environment",
    "ExportError",
    "InvalidConfig",
    "OperantError",
    "ProcessError",
    "ResetNeeded",
    "Snapshot",
    "Table",
    "TableError",
    "TrainingError",
    "UnsupportedConstruct",
    "VecEnv",
    "__version__",
    "envs",
    "list_envs",
    "make",
    "register",
    "verify",
]
