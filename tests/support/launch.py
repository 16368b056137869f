"""Take every kernel through Triton's launcher, up to the launch itself, without a GPU.

`aot.py` asks the compiler alone. Before it comes the launcher's own reading of the arguments: types, constants, keys.
"""

from __future__ import annotations

import sys

from aot import all_launches
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
    for kind in sys.argv[1:]:
        for launch in all_launches(kind):
            options = {"num_warps": launch.warps, **launch.options, "grid": (1,), "warmup": True}
            compiled = launch.kernel.run(**launch.arguments, **launch.constants, **options)
            print(launch.environment, launch.kernel.fn.__name__, launch.variant, compiled.metadata.num_warps)
