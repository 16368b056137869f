"""Memory of a batch: what its tensors are called, how they lie on the device, what may stand in their place.

In comes a definition and a number of environments; out come tensors, and records that tell kernels where they lie.
It knows no kernel, no backend and no semantics of a step.
"""
