"""Proximal policy optimization: collect steps, estimate advantages, climb the clipped objective.

In come environments and a policy, which it changes in place; out come metrics and checkpoints. To climb means to take
the gradient steps of one iteration. `learner.py` is what a user holds, `loop.py` repeats iterations; `update.py`
(PyTorch) and `fused.py` (own kernels) say what one does, and `graphs.py` captures it. It knows no run's directory, and
a terminal only for `learn(progress=True)`.
"""
