"""Proximal policy optimization: collect steps, estimate advantages, climb the clipped objective.

In come environments and a policy, which it changes in place; out come metrics and checkpoints. To climb means to take
the gradient steps of one iteration. `learner.py` is what a user holds, `loop.py` repeats iterations, and engines differ
in `update.py` (PyTorch) and `fused.py` (the library's own kernels) alone. It knows no terminal and no run's directory.
"""
