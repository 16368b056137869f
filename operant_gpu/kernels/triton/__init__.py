"""Triton kernels, for GPUs: steps, rollouts, draws, and the gradient steps of a learner.

In come pointers and compile-time constants, among them an environment's functions; results are written in place.
They know no tensor: launching them, with shapes, block sizes and warps, is `backends/triton`.
"""
