"""`CudaEnvironment`: an environment whose functions are written in CUDA C++."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from operant_gpu.environment import Definition
from operant_gpu.errors import InvalidConfig
from operant_gpu.files import as_path


@dataclass(frozen=True, eq=False, kw_only=True)
class CudaEnvironment(Definition):
    """An environment whose functions are written in CUDA C++, for one environment at a time.

    On a GPU it is compiled by NVRTC and runs one environment a thread, on a CPU by the machine's C++ compiler. Beside
    the attributes of `Definition`:

    Attributes:
        source: File that defines three functions (see docs/cuda_environments.md). `State` and `Params` are structures
            made of the fields of `state` and `params`:

            - `__device__ State reset(Rng rng, Params params)`
            - `__device__ Outcome step(State& state, Action action, Rng rng, Params params)`
            - `__device__ void observe(const State& state, Params params, Observation obs)`

            With tables each takes `Tables tables` after the parameters; with metrics an `Outcome` has `Metrics` third.
        action_mask: Whether the source also defines
            `__device__ bool is_legal(const State& state, int choice, Params params)`, for each choice of a Discrete
            action, and of the components of a MultiDiscrete one after the other.

    Raises:
        InvalidConfig: If a part is missing or of the wrong kind.
    """

    source: str | PathLike[str]
    action_mask: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.source, str | PathLike):
            raise InvalidConfig("source", f"expected the path of a CUDA C++ file, got {self.source!r}")
        # The present folder may be another when the environment is made.
        object.__setattr__(self, "source", as_path("source", self.source).absolute())
        if not Path(self.source).is_file():
            raise InvalidConfig(
                "source", f"expected the path of a CUDA C++ file, got {str(self.source)!r}: no such file"
            )

    @property
    def has_action_mask(self) -> bool:
        """Whether the environment tells which actions are legal."""
        return self.action_mask
