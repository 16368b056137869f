"""A kernel that does nothing, to measure what a launch costs."""

import triton


@triton.jit
def empty_kernel():  # type: ignore[no-untyped-def]
    pass
