"""Take every kernel through Triton's launcher, up to the launch itself, without a GPU.

`aot.py` asks the compiler alone. Before it comes the launcher's own reading of the arguments: types, constants, keys.
"""

from __future__ import annotations

from aot import batch_of, environments, kernels_of
from gymnasium.vector import AutoresetMode
from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class NoDevice:
    """Answers what the launcher asks of a driver before it launches."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


if __name__ == "__main__":
    driver.set_active(NoDevice())
    for environment in environments():
        for kernel, arguments, constants in kernels_of(batch_of(environment, AutoresetMode.SAME_STEP)):
            options = {"BLOCK": 128, "num_warps": 4, "enable_fp_fusion": False}
            compiled = kernel.run(**arguments, **constants, **options, grid=(1,), warmup=True)
            print(environment.id, kernel.fn.__name__, compiled.metadata.num_warps)
